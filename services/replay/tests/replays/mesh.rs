//! A store, a bus, three groups, and the service.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use runmesh_bus::{
    Bus, Consumer, ConsumerGroup, Delivery, EmbeddedBus, KnownGroup,
    conformance::{Probe, Running, TOPIC, TOPIC_2, start, until},
};
use runmesh_events::{AggregateId, Event, EventType, GroupName, NewEvent, Payload, TraceParent};
use runmesh_proto::{
    event::{EventFilter, ExecutionOutput, ExecutionStarted, PodCreated},
    replay::{
        CreateReplayRequest, GetReplayRequest, PauseReplayRequest, Replay, ReplayState, ResumeReplayRequest,
        StartReplayRequest, replay_service_server::ReplayService as _,
    },
};
use runmesh_replay::{Dependencies, ReplayService, Settings};
use runmesh_store::{EventStore, Expected, SqliteStore, sqlite::SqliteConfig};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Status};

use crate::projections::Pods;

/// Takes replayed events of both topics.
pub(crate) const WILLING: GroupName = GroupName::new("willing");
/// Takes replayed events of [`TOPIC`], and has outside effects.
pub(crate) const BOLD: GroupName = GroupName::new("bold");
/// Takes none.
pub(crate) const SHY: GroupName = GroupName::new("shy");

/// Takes replayed events of both topics, and is not there before [`Mesh::join_late`].
pub(crate) const LATE: GroupName = GroupName::new("late");

/// What a group was given.
pub(crate) type Given = Arc<Mutex<Vec<(Arc<Event>, Delivery)>>>;

pub(crate) struct Mesh {
    pub(crate) folder: TempDir,
    pub(crate) store: SqliteStore,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) service: ReplayService,
    consumer: Consumer,
    willing: Given,
    bold: Given,
    shy: Given,
    running: Vec<Running>,
    token: CancellationToken,
    /// Its drop stops what is left of a test that failed.
    _stop: DropGuard,
    worker: Option<JoinHandle<()>>,
}

fn keeping(given: &Given) -> Arc<Probe> {
    let given = Arc::clone(given);
    Probe::new(move |incoming| {
        given.lock().unwrap().push((incoming.event, incoming.delivery));
        async { Ok(()) }
    })
}

impl Mesh {
    /// One that carries replays on.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("runmesh.db"))).unwrap();
        let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::new(store.clone()));
        let consumer = Consumer::new(Arc::clone(&bus), Arc::new(store.clone())).await.unwrap();
        let stop = CancellationToken::new();
        let known = |name, topics: &[EventType], sees_replays, outside_effects| KnownGroup {
            sees_replays,
            outside_effects,
            ..KnownGroup::new(name, topics)
        };
        let groups = vec![
            known(WILLING, &[TOPIC, TOPIC_2], true, false),
            known(BOLD, &[TOPIC], true, true),
            known(SHY, &[TOPIC, TOPIC_2], false, true),
            known(LATE, &[TOPIC, TOPIC_2], true, false),
        ];
        let given = [Given::default(), Given::default(), Given::default()];
        let running = groups
            .iter()
            .zip(&given)
            .map(|(group, given)| {
                let sees_replays = group.sees_replays;
                let made = ConsumerGroup::new(group.name, &group.topics, keeping(given));
                start(&consumer, ConsumerGroup { sees_replays, ..made })
            })
            .collect();
        let dependencies = Dependencies {
            events: Arc::new(store.clone()),
            documents: Arc::new(store.clone()),
            bus: Arc::clone(&bus),
            groups: Arc::new(groups),
            read_models: vec![Arc::new(Pods::open(&store).await)],
            shutdown: stop.clone(),
        };
        let settings =
            Settings { folder: folder.path().join("replays"), topics: vec!["copies".to_owned()], at_a_time: 4 };
        let service = ReplayService::build(settings, dependencies).await.unwrap();
        let (runs, until) = (service.clone(), stop.clone());
        let worker = Some(tokio::spawn(async move { runs.run(until).await }));
        let [willing, bold, shy] = given;
        Self {
            folder,
            store,
            bus,
            service,
            consumer,
            willing,
            bold,
            shy,
            running,
            token: stop.clone(),
            _stop: stop.drop_guard(),
            worker,
        }
    }

    pub(crate) async fn stop(mut self) {
        self.token.cancel();
        for running in std::mem::take(&mut self.running) {
            running.stop().await;
        }
        if let Some(worker) = self.worker.take() {
            worker.await.unwrap();
        }
    }

    /// Starts the group [`LATE`], which sees nothing of what was before. Returns what it is given.
    pub(crate) async fn join_late(&mut self) -> Given {
        let given = Given::default();
        self.bus.begin_at_end(LATE, &[TOPIC, TOPIC_2]).await.unwrap();
        let group = ConsumerGroup::new(LATE, &[TOPIC, TOPIC_2], keeping(&given));
        self.running.push(start(&self.consumer, ConsumerGroup { sees_replays: true, ..group }));
        given
    }

    /// Appends an event to a log.
    pub(crate) async fn append(&self, aggregate: &str, payload: impl Into<Payload>) -> Arc<Event> {
        let event = NewEvent::root("mesh", "j\u{f6}rg", &TraceParent::new_root(), payload);
        let log = AggregateId::from(aggregate);
        let appended = self.store.append(&log, Expected::Any, vec![event]).await.unwrap();
        Arc::clone(&appended.events[0])
    }

    /// So many logs, each of an event of [`TOPIC`], one of [`TOPIC_2`], and one with output that is no text.
    pub(crate) async fn fill(&self, logs: usize) -> Vec<Arc<Event>> {
        let mut events = Vec::new();
        for number in 0..logs {
            let id = format!("log-{number}");
            let execution_id = id.clone();
            events.push(self.append(&id, ExecutionStarted { execution_id, ..Default::default() }).await);
            let execution_id = id.clone();
            events.push(self.append(&id, PodCreated { execution_id, ..Default::default() }).await);
            let data: Vec<u8> = (0..=255).chain("\u{e9}\u{1F600}\n".bytes()).collect();
            let output = ExecutionOutput { execution_id: id.clone(), data: data.into(), ..Default::default() };
            events.push(self.append(&id, output).await);
        }
        events
    }

    /// All that a group was given.
    pub(crate) fn given(&self, group: GroupName) -> Vec<(Arc<Event>, Delivery)> {
        let given = match group {
            WILLING => &self.willing,
            BOLD => &self.bold,
            _ => &self.shy,
        };
        given.lock().unwrap().clone()
    }

    /// What a group was given of replays, and how much beside.
    pub(crate) fn replayed(&self, group: GroupName) -> (Vec<(Arc<Event>, Delivery)>, usize) {
        let given = self.given(group);
        let all = given.len();
        let replayed: Vec<_> =
            given.into_iter().filter(|(_, delivery)| delivery.header("runmesh-replay").is_some()).collect();
        let rest = all - replayed.len();
        (replayed, rest)
    }

    /// Waits until every group has finished all that there is.
    pub(crate) async fn until_done(&self) {
        let both: &[EventType] = &[TOPIC, TOPIC_2];
        for (group, topics) in [(WILLING, both), (BOLD, &both[..1]), (SHY, both)] {
            until("the group has finished", || async {
                let lag = self.bus.lag(group, topics).await.unwrap();
                lag.iter().all(|lag| lag.records == 0)
            })
            .await;
        }
    }

    pub(crate) async fn create(&self, request: CreateReplayRequest) -> Result<Replay, Status> {
        let request = CreateReplayRequest { actor: "ann".into(), reason: "to see".into(), ..request };
        self.service.create_replay(Request::new(request)).await.map(|done| done.into_inner().replay.unwrap())
    }

    pub(crate) async fn start(&self, id: &str) -> Result<Replay, Status> {
        let request = StartReplayRequest { replay_id: id.to_owned(), actor: "bob".into(), reason: "now".into() };
        self.service.start_replay(Request::new(request)).await.map(|done| done.into_inner().replay.unwrap())
    }

    pub(crate) async fn pause(&self, id: &str) -> Result<Replay, Status> {
        let request = PauseReplayRequest { replay_id: id.to_owned(), actor: "bob".into(), reason: "lunch".into() };
        self.service.pause_replay(Request::new(request)).await.map(|done| done.into_inner().replay.unwrap())
    }

    pub(crate) async fn resume(&self, id: &str) -> Result<Replay, Status> {
        let request = ResumeReplayRequest { replay_id: id.to_owned(), actor: "bob".into(), reason: "on".into() };
        self.service.resume_replay(Request::new(request)).await.map(|done| done.into_inner().replay.unwrap())
    }

    pub(crate) async fn get(&self, id: &str) -> Replay {
        let request = GetReplayRequest { replay_id: id.to_owned() };
        self.service.get_replay(Request::new(request)).await.unwrap().into_inner().replay.unwrap()
    }

    pub(crate) async fn until_state(&self, id: &str, state: ReplayState) -> Replay {
        until("the replay is as it should be", || async { self.get(id).await.state() == state }).await;
        self.get(id).await
    }

    /// Creates and starts a replay.
    pub(crate) async fn begin(&self, request: CreateReplayRequest) -> String {
        let id = self.create(request).await.unwrap().replay_id;
        self.start(&id).await.unwrap();
        id
    }

    /// Does a whole replay.
    pub(crate) async fn replay(&self, request: CreateReplayRequest) -> Replay {
        let id = self.begin(request).await;
        self.until_state(&id, ReplayState::Completed).await
    }
}

/// What happened in these logs, by their types.
pub(crate) fn of_types(types: &[EventType]) -> Option<EventFilter> {
    Some(EventFilter { event_types: types.iter().map(|one| *one as i32).collect(), ..Default::default() })
}

/// Some time ago.
pub(crate) fn ago(time: Duration) -> SystemTime {
    SystemTime::now() - time
}
