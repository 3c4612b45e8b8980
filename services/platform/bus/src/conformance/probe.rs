//! A handler that does as it is told and remembers what it saw.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::within;
use crate::{BusError, Consumer, ConsumerGroup, Handler, HandlerError, Incoming};

type Script = dyn Fn(Incoming) -> BoxFuture<'static, Result<(), HandlerError>> + Send + Sync;

/// A handler for tests.
pub struct Probe {
    script: Box<Script>,
    seen: watch::Sender<Vec<(String, u64)>>,
}

impl Probe {
    /// A handler that does this with each event.
    pub fn new<F>(script: impl Fn(Incoming) -> F + Send + Sync + 'static) -> Arc<Self>
    where
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let script = Box::new(move |incoming| Box::pin(script(incoming)) as BoxFuture<'static, _>);
        Arc::new(Self { script, seen: watch::Sender::new(Vec::new()) })
    }

    /// A handler that takes everything.
    pub fn accepting() -> Arc<Self> {
        Self::new(|_| async { Ok(()) })
    }

    /// What was handled, as aggregate and sequence, in the order in which it was begun.
    pub fn seen(&self) -> Vec<(String, u64)> {
        self.seen.borrow().clone()
    }

    /// The sequences that were handled of one aggregate, in order.
    pub fn of(&self, aggregate: &str) -> Vec<u64> {
        self.seen().into_iter().filter(|(of, _)| of == aggregate).map(|(_, sequence)| sequence).collect()
    }

    /// Waits until this event was begun.
    pub async fn saw(&self, aggregate: &str, sequence: u64) {
        self.wait(&format!("{aggregate}/{sequence} is handled"), |seen| {
            seen.iter().any(|(of, number)| of == aggregate && *number == sequence)
        })
        .await;
    }

    /// Waits until this many were begun.
    pub async fn saw_count(&self, count: usize) {
        self.wait(&format!("{count} are handled"), |seen| seen.len() >= count).await;
    }

    async fn wait(&self, what: &str, holds: impl FnMut(&Vec<(String, u64)>) -> bool) {
        let mut seen = self.seen.subscribe();
        within(what, seen.wait_for(holds)).await.unwrap();
    }
}

#[async_trait]
impl Handler for Probe {
    async fn handle(&self, incoming: &Incoming) -> Result<(), HandlerError> {
        let event = &incoming.event;
        self.seen.send_modify(|seen| seen.push((event.aggregate_id.clone(), event.sequence)));
        (self.script)(incoming.clone()).await
    }
}

/// A group that is being consumed.
pub struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), BusError>>,
}

/// Starts to consume.
pub fn start(consumer: &Consumer, group: ConsumerGroup) -> Running {
    let (consumer, shutdown) = (consumer.clone(), CancellationToken::new());
    let task = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { consumer.run(group, shutdown).await }
    });
    Running { shutdown, task }
}

impl Running {
    /// Asks it to end.
    pub fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Waits until it has ended.
    pub async fn ended(self) {
        self.result().await.unwrap();
    }

    /// Waits until it has ended, and says how.
    pub async fn result(self) -> Result<(), BusError> {
        within("the group ends", self.task).await.unwrap()
    }

    /// Ends it in order.
    pub async fn stop(self) {
        self.shut_down();
        self.ended().await;
    }

    /// Ends it as a crash would: without finishing or committing anything.
    pub async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}
