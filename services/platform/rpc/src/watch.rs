//! Watching a thing that changes until it is over, such as a redrive.

use std::time::Duration;

use async_stream::try_stream;
use futures::Stream;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::status;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What stands in the cursor of the end.
const END: &str = "end";

/// How a thing is shown to those who watch it.
#[derive(Debug, Clone, Copy)]
pub struct Watch<T, M> {
    /// What a client has seen of it: another text after each change.
    pub cursor: fn(&T) -> String,
    /// Whether it comes to nothing more by itself.
    pub is_over: fn(&T) -> bool,
    /// The message that shows it, with this cursor.
    pub shown: fn(T, String) -> M,
    /// The last message.
    pub ended: fn(T, String) -> M,
}

impl<T, M> Watch<T, M>
where
    T: Clone + Send + 'static,
    M: Send + 'static,
{
    /// It as it is now (`first`), unless the client has `seen` that, and again whenever it has changed; then its end, unless
    /// that was what the client has seen. A shutdown ends the stream as [`status::shutting_down`] says.
    pub fn stream<F, E>(
        self,
        first: T,
        mut seen: String,
        get: impl Fn() -> F + Send + 'static,
        shutdown: CancellationToken,
    ) -> impl Stream<Item = Result<M, Status>> + Send
    where
        F: Future<Output = Result<T, E>> + Send,
        E: Into<Status> + Send,
    {
        try_stream! {
            if seen == END && (self.is_over)(&first) {
                return;
            }
            let mut now = first;
            loop {
                let cursor = (self.cursor)(&now);
                if cursor != seen {
                    yield (self.shown)(now.clone(), cursor.clone());
                    seen = cursor;
                }
                if (self.is_over)(&now) {
                    yield (self.ended)(now, END.to_owned());
                    return;
                }
                if shutdown.run_until_cancelled(sleep(LOOK)).await.is_none() {
                    Err(status::shutting_down())?;
                }
                now = get().await.map_err(Into::into)?;
            }
        }
    }
}
