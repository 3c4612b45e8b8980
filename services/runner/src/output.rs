//! Output on its way from the sandbox to the log.

use bytes::Bytes;
use futures::FutureExt as _;
use runmesh_events::Payload;
use runmesh_proto::event::{self, ExecutionOutput, ExecutionStep};

use crate::{Chunk, OutputStream, Run};

/// How many bytes of each stream the last event repeats.
const TAIL_BYTES: usize = 4 << 10;

/// How many pieces are appended together.
const PIECES: usize = 32;

/// The last bytes of both streams.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Tails {
    pub(crate) fn keep(&mut self, chunk: &Chunk) {
        let tail = match chunk.stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        let new = &chunk.data[chunk.data.len().saturating_sub(TAIL_BYTES)..];
        let surplus = (tail.len() + new.len()).saturating_sub(TAIL_BYTES);
        tail.drain(..surplus.min(tail.len()));
        tail.extend_from_slice(new);
    }

    pub(crate) fn into_bytes(self) -> (Bytes, Bytes) {
        (self.stdout.into(), self.stderr.into())
    }
}

/// The next pieces of output that are there, at least one; waits for it. `None`: there is no more. Cancel-safe: it waits
/// for the first piece alone.
pub(crate) async fn next(
    run: &mut Run,
    tails: &mut Tails,
    execution_id: &str,
    step: ExecutionStep,
) -> Option<Vec<Payload>> {
    let mut chunk = run.next_chunk().await?;
    let mut pieces = Vec::new();
    loop {
        tails.keep(&chunk);
        pieces.push(piece(execution_id, step, chunk));
        if pieces.len() == PIECES {
            return Some(pieces);
        }
        match run.next_chunk().now_or_never().flatten() {
            Some(next) => chunk = next,
            None => return Some(pieces),
        }
    }
}

fn piece(execution_id: &str, step: ExecutionStep, chunk: Chunk) -> Payload {
    let stream = match chunk.stream {
        OutputStream::Stdout => event::OutputStream::Stdout,
        OutputStream::Stderr => event::OutputStream::Stderr,
    };
    ExecutionOutput {
        execution_id: execution_id.to_owned(),
        stream: stream as i32,
        offset: i64::try_from(chunk.offset).unwrap_or(i64::MAX),
        data: chunk.data,
        step: step as i32,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_end_of_its_stream() {
        let mut tails = Tails::default();
        let whole: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut offset = 0;
        for size in [1, 4_095, 4_096, 4_097, 10_000, 57_711] {
            let data = Bytes::copy_from_slice(&whole[offset..offset + size]);
            tails.keep(&Chunk { stream: OutputStream::Stdout, offset: offset as u64, data });
            offset += size;
            assert_eq!(tails.stdout, whole[offset.saturating_sub(TAIL_BYTES)..offset]);
        }
        assert!(tails.stderr.is_empty());
    }
}
