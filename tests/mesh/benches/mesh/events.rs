//! Appending to the embedded store, and what is appended reaching a consumer group over the embedded bus.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use async_trait::async_trait;
use runmesh_bus::{Consumer, ConsumerGroup, EmbeddedBus, Handler, HandlerError, Incoming};
use runmesh_events::{AggregateId, EventType, ExecutionId, GroupName, NewEvent, TraceParent};
use runmesh_proto::event::ExecutionRunning;
use runmesh_store::{EventStore as _, Expected, SqliteStore, sqlite::SqliteConfig};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::per_second;

const WRITERS: usize = 64;
const EACH: usize = 1_000;

/// Counts what it gets.
struct Counting {
    count: AtomicUsize,
    all: Notify,
}

#[async_trait]
impl Handler for Counting {
    async fn handle(&self, _incoming: &Incoming) -> Result<(), HandlerError> {
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == WRITERS * EACH {
            self.all.notify_one();
        }
        Ok(())
    }
}

fn event(aggregate: &AggregateId) -> NewEvent {
    let payload = ExecutionRunning {
        execution_id: aggregate.to_string(),
        pod_name: "bench".to_owned(),
        progress_percentage: Some(50),
        case_result: None,
    };
    NewEvent::root("bench", "", &TraceParent::new_root(), payload)
}

/// Appends events one at a time from each of many writers, all durable; a consumer group handles all of them.
pub(crate) async fn rate() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("bench.db")))?;
    let consumer = Consumer::new(Arc::new(EmbeddedBus::new(store.clone())), Arc::new(store.clone())).await?;
    let handler = Arc::new(Counting { count: AtomicUsize::new(0), all: Notify::new() });
    let group = ConsumerGroup::new(GroupName::new("bench"), &[EventType::ExecutionRunning], Arc::clone(&handler) as _);
    let shutdown = CancellationToken::new();
    let consuming = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { consumer.run(group, shutdown).await }
    });

    let since = Instant::now();
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let aggregate = ExecutionId::new().aggregate();
            for sequence in 0..EACH as u64 {
                store.append(&aggregate, Expected::Sequence(sequence), vec![event(&aggregate)]).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    let appended = since.elapsed();
    let all = tokio::time::timeout(Duration::from_secs(120), handler.all.notified()).await;
    ensure!(all.is_ok(), "only {} events were handled", handler.count.load(Ordering::Relaxed));
    let handled = since.elapsed();
    shutdown.cancel();
    consuming.await??;

    let count = WRITERS * EACH;
    println!("  appended and published, {WRITERS} writers           {:>8.0} /s", per_second(count, appended));
    println!("  and handled by a consumer group              {:>8.0} /s", per_second(count, handled));
    Ok(())
}
