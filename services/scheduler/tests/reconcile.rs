//! A slot whose execution is over by its log is taken back, whatever became of the command to release it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use runmesh_bus::{Bus, Consumer, EmbeddedBus};
use runmesh_events::{AggregateId, Catalog, EventType, ExecutionId, NewEvent, Payload, TraceParent};
use runmesh_proto::{
    event::{AllocateResourcesCommand, ExecutionCompleted, ExecutionRequested},
    queue::Runner,
};
use runmesh_scheduler::{RUNNERS, Scheduler, SchedulerConfig};
use runmesh_store::{EventStore as _, Expected, Members, SqliteStore, read_log, sqlite::SqliteConfig};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

async fn append(store: &SqliteStore, execution_id: &str, payload: impl Into<Payload>) {
    let event = NewEvent::root("test", "", &TraceParent::new_root(), payload);
    store.append(&AggregateId::from(execution_id), Expected::Any, vec![event]).await.unwrap();
}

async fn request(store: &SqliteStore) -> String {
    let execution_id = ExecutionId::new().to_string();
    append(store, &execution_id, ExecutionRequested { execution_id: execution_id.clone(), ..Default::default() }).await;
    let command = AllocateResourcesCommand { execution_id: execution_id.clone(), attempt: 1, ..Default::default() };
    append(store, &execution_id, command).await;
    execution_id
}

/// Waits until the log of an execution has an event of this type.
async fn until(store: &SqliteStore, execution_id: &str, event_type: EventType) {
    let aggregate = AggregateId::from(execution_id);
    let mut news = store.live().subscribe(&aggregate);
    let waited = timeout(PATIENCE, async {
        loop {
            let (events, head) = read_log(store, &aggregate, &[event_type]).await.unwrap();
            if !events.is_empty() {
                return;
            }
            news.beyond(head).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("there is no {} of it", event_type.as_str_name()));
}

#[tokio::test]
async fn a_slot_that_was_not_given_back_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("runmesh.db"))).unwrap();
    let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::new(store.clone()));
    bus.ensure_topics(Catalog::get().topics()).await.unwrap();
    let members = Members::open(Arc::new(store.clone()), RUNNERS).await.unwrap();
    let offer = Runner { runner: "one".into(), slots: 1, ..Default::default() };
    members.announce("one", &offer.encode_to_vec(), PATIENCE * 2).await.unwrap();
    let (config, events, documents) = (SchedulerConfig::default(), Arc::new(store.clone()), Arc::new(store.clone()));
    let scheduler = Scheduler::build(&config, events, documents).await.unwrap();
    scheduler.recover().await.unwrap();
    let consumer = Consumer::new(bus, Arc::new(store.clone())).await.unwrap();
    let stop = CancellationToken::new();
    let group = tokio::spawn({
        let (group, stop) = (scheduler.consumer_group(), stop.clone());
        async move { consumer.run(group, stop).await }
    });
    let watch = tokio::spawn({
        let stop = stop.clone();
        async move { scheduler.watch(Duration::from_millis(1), stop).await }
    });

    let first = request(&store).await;
    until(&store, &first, EventType::ExecutionAccepted).await;
    let second = request(&store).await;
    until(&store, &second, EventType::ExecutionQueued).await;
    // It ends, and nobody releases its slot.
    append(&store, &first, ExecutionCompleted { execution_id: first.clone(), ..Default::default() }).await;
    until(&store, &second, EventType::ExecutionAccepted).await;

    stop.cancel();
    group.await.unwrap().unwrap();
    watch.await.unwrap();
}
