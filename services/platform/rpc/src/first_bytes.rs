//! Tells when the other end of a connection has said something for the first time.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

/// The most bytes that are told: the head of a frame of HTTP/2.
const HEAD: usize = 9;

/// The first bytes, or how the stream ended without any.
pub(crate) type First = io::Result<Vec<u8>>;

/// A stream that tells its first bytes, at most nine, or of how it ended without any.
#[derive(Debug)]
pub(crate) struct FirstBytes<T> {
    stream: T,
    /// `None`: told.
    tell: Option<oneshot::Sender<First>>,
}

impl<T> FirstBytes<T> {
    /// The stream, and what it tells.
    pub(crate) fn new(stream: T) -> (Self, oneshot::Receiver<First>) {
        let (tell, told) = oneshot::channel();
        (Self { stream, tell: Some(tell) }, told)
    }
}

impl<T: AsyncRead + Unpin> FirstBytes<T> {
    /// Tells of a failed write, or rather of what the other end said before it closed the connection: that is the reason.
    fn explain<R>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if let Poll::Ready(Err(error)) = &result
            && let Some(tell) = self.tell.take()
        {
            let mut last = [0; HEAD];
            let said = Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut last));
            let reason = match &said {
                Poll::Ready(Err(reason)) => reason,
                _ => error,
            };
            let _ = tell.send(Err(io::Error::new(reason.kind(), reason.to_string())));
        }
        result
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for FirstBytes<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if let Some(tell) = self.tell.take() {
            let read = buffer.filled().get(before..).unwrap_or_default();
            let first = match &result {
                Ok(()) if !read.is_empty() => Ok(read[..read.len().min(HEAD)].to_vec()),
                Ok(()) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection at once")),
                // The error itself is the reader's.
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            let _ = tell.send(first);
        }
        Poll::Ready(result)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for FirstBytes<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.explain(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.explain(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.explain(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A reader that fails, as TLS does when the other end has refused a certificate.
    struct Refused;

    impl AsyncRead for Refused {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::other("refused")))
        }
    }

    #[tokio::test]
    async fn the_first_bytes_are_told_and_an_end_without_any_is_an_error() {
        let (mut far, near) = tokio::io::duplex(64);
        let (mut near, told) = FirstBytes::new(near);
        far.write_all(b"hello").await.unwrap();
        drop(far);
        let mut text = String::new();
        near.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        assert_eq!(told.await.unwrap().unwrap(), b"hello");

        // Written to in vain, it has been told why all the same.
        let (mut far, near) = tokio::io::duplex(4);
        let (mut near, told) = FirstBytes::new(tokio::io::join(Refused, near));
        far.shutdown().await.unwrap();
        drop(far);
        assert!(near.write_all(b"hello").await.is_err());
        assert_eq!(told.await.unwrap().unwrap_err().to_string(), "refused");

        let (far, near) = tokio::io::duplex(64);
        let (mut near, told) = FirstBytes::new(near);
        drop(far);
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(told.await.unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
