//! What the first process of a sandbox tells, without blocking.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::RecvFlags;
use tokio::io::unix::AsyncFd;

use super::sys;
use super::wire::{self, Beside, Notice};

/// Notices that are small and few.
const LARGEST: usize = 64 << 10;

/// The notices of one sandbox.
#[derive(Debug)]
pub(super) struct Notices {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
    closed: bool,
}

impl Notices {
    /// Those that come over this socket from now on.
    pub(super) fn new(socket: &OwnedFd) -> io::Result<Notices> {
        Ok(Notices { socket: sys::watch(socket.try_clone()?)?, buffer: Vec::new(), closed: false })
    }

    /// Whether there will be no more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The next one with what comes beside it, before any other is asked for by [`Self::next`].
    pub(super) async fn next_with(&self) -> io::Result<Option<(Notice, Beside)>> {
        loop {
            // An error only when the runtime shuts down, and this task with it.
            let Ok(mut ready) = self.socket.readable().await else { return std::future::pending().await };
            match rustix::net::recv(self.socket.get_ref(), &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                // It is sent as a whole.
                Ok(_) => return wire::receive_with(self.socket.get_ref()),
            }
        }
    }

    /// The next one. `None`: the other end is closed, or tells nonsense. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Notice> {
        loop {
            match self.take() {
                Ok(Some(notice)) => return Some(notice),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "the first process of a sandbox told nonsense");
                    self.closed = true;
                    return None;
                }
            }
            // An error only when the runtime shuts down, and this task with it.
            let Ok(mut ready) = self.socket.readable().await else { return std::future::pending().await };
            let mut piece = [0; 4096];
            match rustix::net::recv(self.socket.get_ref(), &mut piece, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => {
                    self.closed = true;
                    return None;
                }
                Ok((_, count)) => self.buffer.extend_from_slice(&piece[..count.min(piece.len())]),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    self.closed = true;
                    return None;
                }
            }
        }
    }

    /// A notice that is there as a whole.
    fn take(&mut self) -> io::Result<Option<Notice>> {
        let Some((head, rest)) = self.buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*head)).map_err(io::Error::other)?;
        if length > LARGEST {
            return Err(io::Error::other("a notice is too large"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let notice = serde_json::from_slice(&rest[..length])?;
        self.buffer.drain(..4 + length);
        Ok(Some(notice))
    }
}
