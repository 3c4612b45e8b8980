//! A stream with cursors, followed across a node that goes away and comes back.

use futures::TryStreamExt as _;
use tonic::{Status, Streaming};

use super::{reconnect::Patience, serve::Stop};

/// What follows a message.
pub(super) enum Next<T> {
    /// The next one, or, after a cut, what comes after this cursor.
    After(String),
    /// Nothing: it has ended so.
    Ended(T),
}

/// Follows it to its end. `None`: the user asked to stop. `refused` tells a status in words.
pub(super) async fn follow<M, T>(
    mut cursor: String,
    mut ask: impl AsyncFnMut(String) -> Result<Streaming<M>, Status>,
    mut take: impl FnMut(M) -> anyhow::Result<Next<T>>,
    refused: impl Fn(&Status) -> anyhow::Error,
    stop: &mut Stop,
) -> anyhow::Result<Option<T>> {
    let mut patience = Patience::default();
    'asked: loop {
        if !patience.pause(stop).await {
            return Ok(None);
        }
        let answer = tokio::select! {
            answer = ask(cursor.clone()) => answer,
            () = stop.asked() => return Ok(None),
        };
        let mut messages = match answer {
            Ok(messages) => messages,
            Err(status) if patience.may_return(&status) => continue,
            Err(status) => return Err(refused(&status)),
        };
        patience.answers();
        loop {
            let next = tokio::select! {
                next = messages.try_next() => next,
                () = stop.asked() => return Ok(None),
            };
            match next {
                Ok(Some(message)) => match take(message)? {
                    Next::After(after) => {
                        patience.is_there();
                        cursor = after;
                    }
                    Next::Ended(outcome) => return Ok(Some(outcome)),
                },
                Ok(None) => anyhow::bail!("the stream ended without its last message"),
                Err(status) if patience.may_return(&status) => continue 'asked,
                Err(status) => return Err(refused(&status)),
            }
        }
    }
}
