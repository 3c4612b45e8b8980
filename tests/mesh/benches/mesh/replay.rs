//! Replays: how fast a log of a million events is gone through, and sent to topics and to a file, beside the same work without a
//! replay, and what memory that takes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use runmesh_bus::{Bus, EmbeddedBus, KafkaBus, KafkaConfig, KnownGroup, Record};
use runmesh_events::{AggregateId, Catalog, ExecutionId, NewEvent, Payload, TraceParent};
use runmesh_proto::{
    event::{ExecutionCompleted, ExecutionRequested, ExecutionRunning},
    replay::{
        CreateReplayRequest, FileTarget, GetReplayRequest, ProjectionTarget, ReplayOptions, ReplaySpec, ReplayState,
        StartReplayRequest, TopicsTarget, replay_service_server::ReplayService as _, replay_spec::Target,
    },
};
use runmesh_replay::{Dependencies, ReplayService, Settings};
use runmesh_servers::{Kafka, KafkaOptions};
use runmesh_store::{EventStore, Expected, Filter, Position, SqliteStore, sqlite::SqliteConfig};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::per_second;

const EVENTS: usize = 1_000_000;
/// How many events one log has.
const LOG: usize = 10;
/// How many records are published together without a replay, which is what a replay does by default.
const BATCH: usize = 500;
const PATIENCE: Duration = Duration::from_secs(600);

/// The events of an execution: its request, what it is running on, and its end.
fn events(aggregate: &AggregateId) -> Vec<NewEvent> {
    let execution_id = aggregate.to_string();
    let running = ExecutionRunning {
        execution_id: execution_id.clone(),
        pod_name: "bench".to_owned(),
        progress_percentage: Some(50),
        case_result: None,
    };
    let request = ExecutionRequested { execution_id: execution_id.clone(), ..Default::default() };
    let end = ExecutionCompleted { execution_id, ..Default::default() };
    let payloads = [Payload::from(request)].into_iter().chain(vec![running.into(); LOG - 2]).chain([end.into()]);
    payloads.map(|payload| NewEvent::root("bench", "", &TraceParent::new_root(), payload)).collect()
}

/// This process's memory, in MiB.
fn memory() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kib / 1_024.0)
}

struct Place {
    folder: TempDir,
    store: SqliteStore,
}

/// A service that runs.
struct Running {
    service: ReplayService,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Place {
    async fn fill() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("bench.db")))?;
        let since = Instant::now();
        for _ in 0..EVENTS / LOG {
            let aggregate = ExecutionId::new().aggregate();
            store.append(&aggregate, Expected::Any, events(&aggregate)).await?;
        }
        println!("  {EVENTS} events, appended in {:.0} s", since.elapsed().as_secs_f64());
        Ok(Self { folder, store })
    }

    async fn run(&self, bus: Arc<dyn Bus>) -> anyhow::Result<Running> {
        let stop = CancellationToken::new();
        let dependencies = Dependencies {
            events: Arc::new(self.store.clone()),
            documents: Arc::new(self.store.clone()),
            bus,
            groups: Arc::new(Vec::<KnownGroup>::new()),
            read_models: vec![Arc::new(
                runmesh_execution::read_model(Arc::new(self.store.clone()), Arc::new(self.store.clone())).await?,
            )],
            shutdown: stop.clone(),
        };
        let settings = Settings { folder: self.folder.path().join("replays"), topics: Vec::new(), at_a_time: 1 };
        let service = ReplayService::build(settings, dependencies).await?;
        let (running, until) = (service.clone(), stop.clone());
        let task = tokio::spawn(async move { running.run(until).await });
        Ok(Running { service, stop, task })
    }

    /// The log, read as a replay reads it.
    async fn scan(&self) -> anyhow::Result<Duration> {
        let (since, mut after, mut count) = (Instant::now(), Position(0), 0);
        loop {
            let found = self.store.scan(&Filter::default(), after, 512).await?;
            let Some(last) = found.last() else { break };
            (after, count) = (last.position, count + found.len());
        }
        ensure!(count == EVENTS, "{count}");
        Ok(since.elapsed())
    }

    /// So many records of one event after the other, published without a replay.
    async fn publish(&self, bus: &dyn Bus, count: usize) -> anyhow::Result<Duration> {
        let found = self.store.scan(&Filter::default(), Position(0), BATCH).await?;
        let records: Vec<Record> = found.iter().map(|stored| Record::of(&stored.event)).collect::<Result<_, _>>()?;
        let since = Instant::now();
        for _ in 0..count / BATCH {
            for published in bus.publish(records.clone()).await {
                published?;
            }
        }
        Ok(since.elapsed())
    }
}

impl Running {
    /// Replays the whole log. Returns how long it took, and the least and the greatest memory meanwhile, in MiB.
    async fn replay(&self, target: Target, dry_run: bool) -> anyhow::Result<(Duration, (f64, f64))> {
        let options = Some(ReplayOptions { dry_run, ..Default::default() });
        let spec = ReplaySpec { all: true, target: Some(target), options, ..Default::default() };
        let (actor, reason) = ("bench".to_owned(), "bench".to_owned());
        let request = CreateReplayRequest {
            spec: Some(spec),
            actor: actor.clone(),
            reason: reason.clone(),
            ..Default::default()
        };
        let created = self.service.create_replay(Request::new(request)).await?.into_inner();
        let replay_id = created.replay.context("a replay")?.replay_id;
        let since = Instant::now();
        let request = StartReplayRequest { replay_id: replay_id.clone(), actor, reason };
        self.service.start_replay(Request::new(request)).await?;
        let mut range = (f64::MAX, 0_f64);
        loop {
            let request = GetReplayRequest { replay_id: replay_id.clone() };
            let replay = self.service.get_replay(Request::new(request)).await?.into_inner().replay.context("it")?;
            let now = memory()?;
            range = (range.0.min(now), range.1.max(now));
            if replay.state() == ReplayState::Completed {
                let progress = replay.progress.context("progress")?;
                ensure!(progress.sent + progress.skipped == i64::try_from(EVENTS)?, "{progress:?} of {EVENTS}");
                return Ok((since.elapsed(), range));
            }
            ensure!(since.elapsed() < PATIENCE && replay.state() == ReplayState::Running, "{replay:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.ok();
    }
}

fn print(what: &str, (took, (least, greatest)): (Duration, (f64, f64)), alone: Option<(Duration, usize)>) {
    let rate = per_second(EVENTS, took);
    let beside = alone.map(|(alone, count)| {
        format!("   {:>5.2} x of {:.0} /s alone", rate / per_second(count, alone), per_second(count, alone))
    });
    println!("  {what:<28} {rate:>8.0} /s{}   memory {least:.0} to {greatest:.0} MiB", beside.unwrap_or_default());
}

/// Measures all of it.
pub(crate) async fn rates() -> anyhow::Result<()> {
    let place = Place::fill().await?;
    let embedded: Arc<dyn Bus> = Arc::new(EmbeddedBus::new(place.store.clone()));
    let running = place.run(Arc::clone(&embedded)).await?;
    let topics = || Target::Topics(TopicsTarget::default());
    place.scan().await?;
    let alone = place.scan().await?;
    print("a dry run", running.replay(topics(), true).await?, Some((alone, EVENTS)));
    print("to a file", running.replay(Target::File(FileTarget {}), false).await?, None);
    let model = ProjectionTarget { read_model: "executions".to_owned() };
    print("to a read model", running.replay(Target::Projection(model), false).await?, None);
    // A store's replays are carried on by whoever is there.
    running.end().await;
    let kafka = Kafka::start(&KafkaOptions::default())?;
    let bus = KafkaBus::open(KafkaConfig::new(kafka.bootstrap()))?;
    bus.ensure_topics(Catalog::get().topics()).await?;
    let remote = place.run(Arc::new(bus.clone())).await?;
    place.publish(&bus, EVENTS / 10).await?;
    let alone = place.publish(&bus, EVENTS / 2).await?;
    print("to the topics of Kafka", remote.replay(topics(), false).await?, Some((alone, EVENTS / 2)));
    remote.end().await;
    drop(kafka);
    // Last, since the records stay in the file.
    let running = place.run(Arc::clone(&embedded)).await?;
    let alone = place.publish(&*embedded, EVENTS / 10).await?;
    print("to the topics, embedded", running.replay(topics(), false).await?, Some((alone, EVENTS / 10)));
    running.end().await;
    Ok(())
}
