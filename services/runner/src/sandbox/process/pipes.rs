//! The pipes between a script and its supervisor.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

/// A pipe from the script.
#[derive(Debug)]
pub(super) struct Source {
    pipe: Option<pipe::Receiver>,
    /// How much more is read of a pipe that someone holds open after the end.
    left: Option<u64>,
}

/// The pipe to the script's standard input, and what is still to be written to it.
#[derive(Debug)]
pub(super) struct Feed {
    pipe: Option<pipe::Sender>,
    data: Bytes,
}

impl Source {
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Source> {
        Ok(Source { pipe: Some(pipe::Receiver::from_owned_fd(pipe)?), left: None })
    }

    pub(super) fn close(&mut self) {
        self.pipe = None;
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match &self.pipe {
            Some(pipe) => pipe.readable().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let most = self.left.map_or(buffer.len(), |left| usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let count = pipe.try_read(&mut buffer[..most])?;
        if let Some(left) = &mut self.left {
            *left -= count as u64;
            if *left == 0 {
                self.pipe = None;
            }
        }
        Ok(count)
    }

    /// Reads what is there, also if the runtime has not yet been told that there is something.
    pub(super) fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.pipe {
            Some(pipe) if self.left.is_none() => Ok(rustix::io::read(pipe, buffer)?),
            _ => Ok(0),
        }
    }

    /// From now on reads only what is in the pipe already.
    pub(super) fn cut(&mut self) {
        if let Some(pipe) = &self.pipe
            && self.left.is_none()
        {
            let left = rustix::io::ioctl_fionread(pipe.as_fd()).unwrap_or(0);
            self.left = Some(left);
            if left == 0 {
                self.pipe = None;
            }
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pipe.is_none()
    }

    pub(super) fn was_cut(&self) -> bool {
        self.left.is_some()
    }

    pub(super) fn is_cut_or_closed(&self) -> bool {
        self.is_closed() || self.was_cut()
    }
}

impl Feed {
    /// Nothing to write, and no pipe, is fine: the script's standard input is then empty.
    pub(super) fn new(pipe: Option<OwnedFd>, data: Bytes) -> io::Result<Feed> {
        Ok(Feed { pipe: pipe.map(pipe::Sender::from_owned_fd).transpose()?, data })
    }

    pub(super) fn close(&mut self) {
        self.pipe = None;
    }

    /// Writes some more. Cancel-safe. A script that closed its standard input, or never reads it, is fine.
    pub(super) async fn write(&mut self) {
        let Some(pipe) = &mut self.pipe else { return std::future::pending().await };
        match pipe.write(&self.data).await {
            Ok(count) => self.data.advance(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.data.clear(),
        }
        if self.data.is_empty() {
            self.pipe = None;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pipe.is_none()
    }
}
