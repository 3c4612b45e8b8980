//! The timer of a start, on a store and a bus of their own: it survives restarts, and of several instances one fires it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost::Message as _;
use runmesh_bus::{Bus, Consumer, EmbeddedBus};
use runmesh_events::{Catalog, EventType, ExecutionId, NewEvent, Payload, TraceParent};
use runmesh_proto::{
    event::{
        ExecutionAccepted, ExecutionCompleted, ExecutionErrorType, ExecutionRequested, ExecutionStarted, ResultStored,
        RunnerLoss,
    },
    saga::Saga,
};
use runmesh_saga::{Dependencies, SagaConfig, SagaService, consumer_group, machine};
use runmesh_store::{
    Document, Documents, EventStore as _, Expected, Index, IndexValue, SqliteStore, StoreError, read_log,
    sqlite::SqliteConfig,
};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long something that takes a moment may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The saga's part of a mesh: so many instances over one store. The test is the scheduler, the runner and the results.
struct Instances {
    folder: TempDir,
    store: SqliteStore,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Instances {
    async fn start(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::open(folder, count, Duration::from_millis(200)).await
    }

    async fn open(folder: TempDir, count: usize, start_timeout: Duration) -> Self {
        let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("runmesh.db"))).unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::new(store.clone()));
        bus.ensure_topics(Catalog::get().topics()).await.unwrap();
        let mut services = Vec::new();
        for _ in 0..count {
            let dependencies = Dependencies {
                store: Arc::new(store.clone()),
                documents: Arc::new(store.clone()),
                shutdown: stop.clone(),
            };
            let service = SagaService::build(SagaConfig { start_timeout }, dependencies).await.unwrap();
            services.push(service.clone());
            let stop = stop.clone();
            tasks.spawn(async move { service.run_timers(stop).await });
        }
        let consumer = Consumer::new(bus, Arc::new(store.clone())).await.unwrap();
        let (group, until) = (consumer_group(&services[0]), stop.clone());
        tasks.spawn(async move { consumer.run(group, until).await.unwrap() });
        Self { folder, store, stop, tasks }
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }

    async fn restart(mut self, count: usize, start_timeout: Duration) -> Self {
        self.stop().await;
        let Self { folder, store, .. } = self;
        drop(store);
        Self::open(folder, count, start_timeout).await
    }

    async fn add(&self, id: &ExecutionId, payload: impl Into<Payload>) {
        let event = NewEvent::root("test", "", &TraceParent::new_root(), payload);
        self.store.append(&id.aggregate(), Expected::Any, vec![event]).await.unwrap();
    }

    async fn log(&self, id: &ExecutionId) -> Vec<Payload> {
        let (events, _) = read_log(&self.store, &id.aggregate(), &[]).await.unwrap();
        events.iter().filter_map(|event| event.payload.clone()).collect()
    }

    /// Waits until so many events of this type are in the log, and returns them.
    async fn until(&self, id: &ExecutionId, event_type: EventType, count: usize) -> Vec<Payload> {
        let found = timeout(PATIENCE, async {
            loop {
                let mut found = self.log(id).await;
                found.retain(|payload| payload.event_type() == event_type);
                if found.len() >= count {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("no {event_type:?} in {:?}", self.log(id).await),
        }
    }

    async fn request(&self, on_runner_loss: RunnerLoss, maximum_retries: i32) -> ExecutionId {
        let id = ExecutionId::new();
        let on_runner_loss = on_runner_loss as i32;
        let execution_id = id.to_string();
        self.add(&id, ExecutionRequested { execution_id, on_runner_loss, maximum_retries, ..Default::default() }).await;
        self.until(&id, EventType::AllocateResourcesCommand, 1).await;
        id
    }

    async fn accept(&self, id: &ExecutionId, attempt: i32) {
        self.add(id, ExecutionAccepted { attempt, ..Default::default() }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_late_ends_the_execution_once_by_one_of_several_instances() {
    let instances = Instances::start(3).await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        let id = instances.request(RunnerLoss::Fail, 0).await;
        instances.accept(&id, 1).await;
        ids.push(id);
    }
    for id in &ids {
        instances.until(id, EventType::ExecutionFailed, 1).await;
        instances.add(id, ResultStored::default()).await;
    }
    for id in &ids {
        instances.until(id, EventType::SagaFailed, 1).await;
        let failed = instances.until(id, EventType::ExecutionFailed, 1).await;
        assert_eq!(failed.len(), 1);
        let Payload::ExecutionFailed(failed) = &failed[0] else { panic!("{failed:?}") };
        assert_eq!((failed.error_type(), failed.exit_code), (ExecutionErrorType::RunnerLost, -1));
        assert_eq!(instances.until(id, EventType::ReleaseResourcesCommand, 1).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_start_is_tried_again_as_often_as_the_execution_says() {
    let instances = Instances::start(1).await;
    let id = instances.request(RunnerLoss::Retry, 1).await;
    instances.accept(&id, 1).await;
    instances.until(&id, EventType::AllocateResourcesCommand, 2).await;
    instances.accept(&id, 2).await;
    instances.until(&id, EventType::ExecutionFailed, 1).await;
    instances.add(&id, ResultStored::default()).await;
    instances.until(&id, EventType::SagaFailed, 1).await;
    let log = instances.log(&id).await;
    let lost = log.iter().filter_map(|payload| match payload {
        Payload::PodTerminated(lost) => Some(lost.lost_attempt),
        _ => None,
    });
    assert_eq!(lost.collect::<Vec<_>>(), [1]);
    assert_eq!(instances.until(&id, EventType::CreatePodCommand, 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_survives_a_restart_and_what_has_begun_is_left_alone() {
    // Before the restart nothing is ever late.
    let folder = tempfile::tempdir().unwrap();
    let instances = Instances::open(folder, 1, Duration::from_secs(6)).await;
    let late = instances.request(RunnerLoss::Fail, 0).await;
    let begun = instances.request(RunnerLoss::Fail, 0).await;
    for id in [&late, &begun] {
        instances.accept(id, 1).await;
        instances.until(id, EventType::CreatePodCommand, 1).await;
    }
    instances.add(&begun, ExecutionStarted::default()).await;
    let instances = instances.restart(2, Duration::from_millis(200)).await;
    instances.until(&late, EventType::ExecutionFailed, 1).await;
    // Its timer was due before the one of a later execution that has fired.
    let last = instances.request(RunnerLoss::Fail, 0).await;
    instances.accept(&last, 1).await;
    instances.until(&last, EventType::ExecutionFailed, 1).await;
    let log = instances.log(&begun).await;
    assert!(!log.iter().any(|payload| payload.event_type() == EventType::ExecutionFailed), "{log:?}");
}

/// A saga's document, which carries its timer.
struct Timer(Saga);

impl Document for Timer {
    const COLLECTION: &'static str = "sagas";
    const INDEXES: &'static [Index] = &[Index { name: "by_created", fields: &["created_at"] }];

    fn id(&self) -> String {
        self.0.saga_id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        Vec::new()
    }

    fn encode(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Saga::decode(bytes).map(Self).map_err(|error| StoreError::Corrupt(error.to_string()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_has_ended_has_no_timer() {
    let folder = tempfile::tempdir().unwrap();
    let mut instances = Instances::open(folder, 1, Duration::from_secs(3_600)).await;
    let (ended, open) = (instances.request(RunnerLoss::Fail, 0).await, instances.request(RunnerLoss::Fail, 0).await);
    instances.accept(&ended, 1).await;
    instances.until(&ended, EventType::CreatePodCommand, 1).await;
    instances.add(&ended, ExecutionCompleted::default()).await;
    instances.add(&ended, ResultStored::default()).await;
    instances.until(&ended, EventType::SagaCompleted, 1).await;
    // In order: what was taken on is finished.
    instances.stop().await;
    let documents = Documents::<Timer>::open(Arc::new(instances.store.clone())).await.unwrap();
    let far = SystemTime::now() + Duration::from_secs(7_200);
    let due = documents.claim_due(far, Duration::ZERO, 10).await.unwrap();
    let due: Vec<String> = due.into_iter().map(|claim| claim.document.0.saga_id).collect();
    assert_eq!(due, [machine::saga_id(&open.to_string())]);
}
