//! Read models that are built anew.

use std::sync::Arc;

use async_trait::async_trait;
use runmesh_bus::conformance::{TOPIC_2, until};
use runmesh_events::{AggregateId, EventType};
use runmesh_proto::{
    event::PodCreated,
    replay::{
        CancelReplayRequest, CreateReplayRequest, DeleteReplayRequest, PreviewReplayRequest, ProjectionTarget,
        ReplayOptions, ReplaySpec, ReplayState, replay_service_server::ReplayService as _, replay_spec::Target,
    },
};
use runmesh_store::{
    Document, EventStore, Index, IndexValue, Placements, ReadModel, Rebuild, SqliteStore, StoreError, from_json,
    to_json,
};
use serde::{Deserialize, Serialize};
use tonic::{Code, Request};

use crate::mesh::Mesh;

/// How many pods a log has created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PodCount {
    log: String,
    pods: usize,
}

impl Document for PodCount {
    const COLLECTION: &'static str = "pods";
    const INDEXES: &'static [Index] = &[];

    fn id(&self) -> String {
        self.log.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        Vec::new()
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "a count of pods")
    }
}

/// The read model of them.
pub(crate) struct Pods {
    store: SqliteStore,
    model: ReadModel<PodCount>,
}

impl Pods {
    pub(crate) async fn open(store: &SqliteStore) -> Self {
        let model = ReadModel::open(Arc::new(store.clone()), "pods_2").await.unwrap();
        Self { store: store.clone(), model }
    }

    /// The numbers of these logs.
    async fn read(&self, logs: [&str; 3]) -> [Option<usize>; 3] {
        let mut counts = [None; 3];
        for (count, log) in counts.iter_mut().zip(logs) {
            *count = self.model.get(log).await.unwrap().map(|found| found.document.pods);
        }
        counts
    }
}

#[async_trait]
impl Rebuild for Pods {
    fn event_types(&self) -> &'static [EventType] {
        &[TOPIC_2]
    }

    fn placements(&self) -> &Placements {
        self.model.placements()
    }

    async fn project(&self, aggregate_id: &str) -> Result<u64, StoreError> {
        let log = AggregateId::from(aggregate_id);
        let events = self.store.read(&log, 0, 100, &[TOPIC_2]).await?;
        let document = PodCount { log: aggregate_id.to_owned(), pods: events.len() };
        let beside = self.model.beside().await?;
        match beside.get(aggregate_id).await? {
            Some(known) => beside.update(&document, known.revision).await?,
            None => beside.insert(&document).await?,
        };
        self.store.head(&log).await
    }
}

fn building(options: ReplayOptions) -> CreateReplayRequest {
    let target = Some(Target::Projection(ProjectionTarget { read_model: "pods".into() }));
    let spec = ReplaySpec { all: true, target, options: Some(options), ..Default::default() };
    CreateReplayRequest { spec: Some(spec), ..Default::default() }
}

async fn cancel(mesh: &Mesh, id: &str) {
    let request = CancelReplayRequest { replay_id: id.to_owned(), actor: "bob".into(), reason: "enough".into() };
    mesh.service.cancel_replay(Request::new(request)).await.unwrap();
}

/// It is built from all logs, each read once, is complete when it is put to use, and can be built again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_is_built_from_the_log() {
    let mesh = Mesh::new().await;
    mesh.fill(40).await;
    let pods = Pods::open(&mesh.store).await;
    let logs = ["log-0", "log-39", "late"];
    assert_eq!(pods.read(logs).await, [None; 3]);
    let preview = Request::new(PreviewReplayRequest { spec: building(ReplayOptions::default()).spec });
    let preview = mesh.service.preview_replay(preview).await.unwrap().into_inner().preview.unwrap();
    assert_eq!((preview.count, preview.to_send, preview.groups.len()), (120, 40, 0));
    let dry = mesh.replay(building(ReplayOptions { dry_run: true, ..Default::default() })).await;
    assert_eq!(dry.progress.unwrap().failed, 0);
    assert_eq!(pods.placements().held_by().await.unwrap(), None);
    for round in 1..=3 {
        // A broken one comes right again.
        let live = pods.model.live().await.unwrap();
        live.delete("log-39").await.unwrap();
        let id = mesh.create(building(ReplayOptions::default())).await.unwrap().replay_id;
        mesh.start(&id).await.unwrap();
        // It is recorded after the start, and before what happens is written to the new one.
        mesh.append("late", PodCreated::default()).await;
        let done = mesh.until_state(&id, ReplayState::Completed).await;
        let progress = done.progress.unwrap();
        let all = 40 + round as i64;
        assert_eq!((progress.sent, progress.matched), (all, 120 + round as i64), "{progress:?}");
        let read = pods.read(logs);
        assert_eq!(read.await, [Some(1), Some(1), Some(round)]);
        assert_eq!(pods.placements().held_by().await.unwrap(), None);
    }
    mesh.stop().await;
}

/// One that has not ended has its read model for itself; what was cancelled or deleted leaves it to others, and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replay_at_a_time_builds_a_read_model() {
    let mesh = Mesh::new().await;
    mesh.fill(40).await;
    let slow = || building(ReplayOptions { rate: 4.0, ..Default::default() });
    let first = mesh.begin(slow()).await;
    until("some are there", || async { mesh.get(&first).await.progress.unwrap().sent > 0 }).await;
    let second = mesh.create(slow()).await.unwrap().replay_id;
    for state in [ReplayState::Running, ReplayState::Paused] {
        assert_eq!(mesh.get(&first).await.state(), state);
        let refused = mesh.start(&second).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains(&first), "{refused:?}");
        if state == ReplayState::Running {
            mesh.pause(&first).await.unwrap();
        }
    }
    cancel(&mesh, &first).await;
    let pods = Pods::open(&mesh.store).await;
    assert_eq!(pods.read(["log-0", "log-1", "log-2"]).await, [None; 3]);
    mesh.start(&second).await.unwrap();
    until("some are there", || async { mesh.get(&second).await.progress.unwrap().sent > 0 }).await;
    mesh.pause(&second).await.unwrap();
    cancel(&mesh, &second).await;
    let request = DeleteReplayRequest { replay_id: second, actor: "bob".into(), reason: "enough".into() };
    mesh.service.delete_replay(Request::new(request)).await.unwrap();
    // What is held by one that is not there any more is free too.
    until("what it has left is removed", || async { pods.placements().held_by().await.unwrap().is_none() }).await;
    pods.placements().begin("gone", std::time::Duration::ZERO).await.unwrap();
    let done = mesh.replay(building(ReplayOptions::default())).await;
    assert_eq!(done.progress.unwrap().sent, 40);
    until("it is in use", || async { pods.read(["log-0", "log-1", "log-39"]).await == [Some(1); 3] }).await;
    mesh.stop().await;
}
