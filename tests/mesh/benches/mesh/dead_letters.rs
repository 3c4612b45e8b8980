//! Dead letters: what questions cost with few and with a million of them, and how fast a redrive delivers them again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use runmesh_bus::{
    Attempt, Bus, Consumer, ConsumerGroup, DeadLetter, Delivery, EmbeddedBus, Handler, HandlerError, Incoming,
    KnownGroup, Lane, Record, RetryPolicy, Severity,
};
use runmesh_dlq::{DeadLetterService, Dependencies};
use runmesh_events::{Event, EventId, EventType, ExecutionId, GroupName, to_timestamp};
use runmesh_mesh_tests::{Client, Mesh, Options};
use runmesh_proto::{
    dlq::{
        DeadLetterFilter, DeadLetterState, GetDlqStatsRequest, GetRedriveRequest, ListDeadLettersRequest,
        ListFailureGroupsRequest, PlanRedriveRequest, RedriveState, StartRedriveRequest,
        dead_letter_service_client::DeadLetterServiceClient,
        dead_letter_service_server::{DeadLetterService as _, DeadLetterServiceServer},
    },
    event::{ExecutionStarted, RetryPreset, event::Payload},
};
use runmesh_store::{Documents, SqliteStore, sqlite::SqliteConfig};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, body::Body, client::GrpcService, codegen::StdError};

use crate::{Times, executions::run_and_watch};

const COUNTS: [usize; 2] = [1_000, 1_000_000];
/// How often each question is asked.
const QUESTIONS: usize = 100;
/// How many letters are written together.
const BATCH: usize = 2_000;
const REDRIVEN: usize = 50_000;
/// The cap that has to be kept, in letters a second, and how many letters are delivered at it.
const CAP: (f64, usize) = (2_000.0, 10_000);
/// What live traffic is beside: letters, and how many are delivered a second at most.
const REDRIVES: [(&str, usize, f64); 2] = [("at 2,000 /s", CAP.1, CAP.0), ("without a cap", REDRIVEN, 0.0)];
/// How often a live record comes.
const LIVE_EVERY: Duration = Duration::from_millis(5);
/// How many live records are measured with nothing beside.
const LIVE: usize = 600;
const GROUP: GroupName = GroupName::new("bench");
/// A group of the node's own, which has a look at the log of each execution.
const PROJECTION: GroupName = GroupName::new("execution-coordinator");
/// How many executions come first, and how many are measured with nothing beside.
const EXECUTIONS: (usize, usize) = (50, 1_000);
const TOPIC: EventType = EventType::ExecutionStarted;
const PATIENCE: Duration = Duration::from_secs(600);

/// Handles what is redriven, and tells how long live records took.
struct Live {
    handled: AtomicUsize,
    times: std::sync::Mutex<Vec<Duration>>,
}

#[async_trait]
impl Handler for Live {
    async fn handle(&self, incoming: &Incoming) -> Result<(), HandlerError> {
        if DeadLetter::redrive_attempt(&incoming.delivery).is_some() {
            self.handled.fetch_add(1, Ordering::Relaxed);
        } else if let Ok(took) = incoming.delivery.timestamp.elapsed()
            && let Ok(mut times) = self.times.lock()
        {
            times.push(took);
        }
        Ok(())
    }
}

impl Live {
    fn take(&self) -> anyhow::Result<Times> {
        let mut times = Times::new()?;
        if let Ok(mut taken) = self.times.lock() {
            taken.drain(..).for_each(|took| times.add(took));
        }
        Ok(times)
    }
}

struct Place {
    _folder: TempDir,
    store: SqliteStore,
    bus: Arc<dyn Bus>,
    service: DeadLetterService,
    live: Arc<Live>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Place {
    async fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("bench.db")))?;
        let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::new(store.clone()));
        let consumer = Consumer::new(Arc::clone(&bus), Arc::new(store.clone())).await?;
        let stop = CancellationToken::new();
        let service = DeadLetterService::build(Dependencies {
            events: Arc::new(store.clone()),
            documents: Arc::new(store.clone()),
            bus: Arc::clone(&bus),
            letters: consumer.dead_letters().clone(),
            paused: consumer.paused_groups().clone(),
            groups: Arc::new(vec![KnownGroup::new(GROUP, &[TOPIC])]),
            shutdown: stop.clone(),
        })
        .await?;
        let live = Arc::new(Live { handled: AtomicUsize::new(0), times: std::sync::Mutex::default() });
        let group = ConsumerGroup::new(GROUP, &[TOPIC], Arc::clone(&live) as _);
        let (running, until) = (service.clone(), stop.clone());
        let until_too = stop.clone();
        let tasks = vec![
            tokio::spawn(async move { running.run(until).await }),
            tokio::spawn(async move {
                if let Err(error) = consumer.run(group, until_too).await {
                    eprintln!("the group ended: {error}");
                }
            }),
        ];
        Ok(Self { _folder: folder, store, bus, service, live, stop, tasks })
    }

    /// The service as its clients see it.
    fn client(&self) -> DeadLetterServiceClient<DeadLetterServiceServer<DeadLetterService>> {
        DeadLetterServiceClient::new(DeadLetterServiceServer::new(self.service.clone()))
    }

    async fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.ok();
        }
    }
}

/// Puts so many parked letters of a group into a store, of a few causes.
async fn fill(store: &SqliteStore, group: GroupName, count: usize) -> anyhow::Result<()> {
    let letters: Documents<DeadLetter> = Documents::open(Arc::new(store.clone())).await?;
    for first in (0..count).step_by(BATCH) {
        let batch = (first..count.min(first + BATCH)).map(|number| letter(group, number));
        let batch: Vec<DeadLetter> = batch.collect::<anyhow::Result<_>>()?;
        try_join_all(batch.iter().map(|letter| letters.insert(letter))).await?;
    }
    Ok(())
}

fn event(number: usize) -> anyhow::Result<Record> {
    let execution_id = ExecutionId::new().to_string();
    let payload = Payload::from(ExecutionStarted { execution_id: execution_id.clone(), ..Default::default() });
    let event = Event {
        event_id: EventId::new().to_string(),
        aggregate_id: execution_id,
        sequence: 1 + number as u64 % 7,
        occurred_at: Some(to_timestamp(SystemTime::now())),
        producer: "bench".to_owned(),
        payload: Some(payload),
        ..Default::default()
    };
    Ok(Record::of(&event)?)
}

/// A letter of a group that is parked and was told of.
fn letter(group: GroupName, number: usize) -> anyhow::Result<DeadLetter> {
    let record = event(number)?;
    let delivery = Delivery {
        lane: Lane { event_type: TOPIC, partition: 0 },
        offset: number as u64,
        event_type: TOPIC,
        partition: 0,
        key: record.key,
        extra_headers: record.headers,
        value: record.value,
        timestamp: record.timestamp,
        decoded: None,
    };
    let cause = ["is refused", "has no room", "is late", "is unknown"][number % 4];
    let attempt = Attempt {
        at: SystemTime::now(),
        took: Duration::from_millis(3),
        errors: vec![format!("order {number} {cause}"), "connection refused".to_owned()],
    };
    let letter = DeadLetter::new(group, &delivery, Severity::Permanent, vec![attempt], SystemTime::now());
    let letter = letter.decided(&RetryPolicy::preset(RetryPreset::Default));
    Ok(DeadLetter { pending: None, ..letter })
}

/// The questions of an operator, each asked many times. Returns the medians in milliseconds.
async fn ask(place: &Place) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let service = &place.service;
    let first = service.list_dead_letters(Request::new(ListDeadLettersRequest::default())).await?.into_inner();
    let one = first.dead_letters.first().context("no letter")?;
    let list = |filter: DeadLetterFilter| ListDeadLettersRequest { filter: Some(filter), ..Default::default() };
    let requests = [
        ("a page", list(DeadLetterFilter::default())),
        ("of a group", list(DeadLetterFilter { groups: vec![GROUP.to_string()], ..Default::default() })),
        (
            "of a state and a cause",
            list(DeadLetterFilter {
                states: vec![DeadLetterState::Parked as i32],
                fingerprints: vec![one.fingerprint.clone()],
                ..Default::default()
            }),
        ),
        ("of an execution", list(DeadLetterFilter { aggregate_id: one.aggregate_id.clone(), ..Default::default() })),
        ("with a text", list(DeadLetterFilter { text: "has no room".to_owned(), ..Default::default() })),
    ];
    let mut medians = Vec::new();
    for (what, request) in requests {
        let mut times = Times::new()?;
        for _ in 0..QUESTIONS {
            let since = Instant::now();
            service.list_dead_letters(Request::new(request.clone())).await?;
            times.add(since.elapsed());
        }
        medians.push((what, times.at(0.5)));
    }
    let (mut groups, mut stats) = (Times::new()?, Times::new()?);
    for _ in 0..QUESTIONS {
        let since = Instant::now();
        service.list_failure_groups(Request::new(ListFailureGroupsRequest::default())).await?;
        groups.add(since.elapsed());
        let since = Instant::now();
        service.get_dlq_stats(Request::new(GetDlqStatsRequest {})).await?;
        stats.add(since.elapsed());
    }
    medians.extend([("groups of failures", groups.at(0.5)), ("stats", stats.at(0.5))]);
    Ok(medians)
}

/// Redrives all letters of a group. Returns how long it took.
async fn redrive<T>(mut client: DeadLetterServiceClient<T>, group: GroupName, rate: f64) -> anyhow::Result<Duration>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: tonic::codegen::Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    let filter = Some(DeadLetterFilter { groups: vec![group.to_string()], ..Default::default() });
    let plan = client.plan_redrive(PlanRedriveRequest { filter, rate }).await?.into_inner().plan;
    let plan_token = plan.context("a plan")?.plan_token;
    let (actor, reason) = ("bench".to_owned(), "bench".to_owned());
    let request = StartRedriveRequest { plan_token, rate, actor, reason, ..Default::default() };
    let since = Instant::now();
    let redrive_id = client.start_redrive(request).await?.into_inner().redrive.context("one")?.redrive_id;
    loop {
        let request = GetRedriveRequest { redrive_id: redrive_id.clone() };
        let redrive = client.get_redrive(request).await?.into_inner().redrive.context("a redrive")?;
        if redrive.state() == RedriveState::Completed {
            ensure!(redrive.failed == 0 && redrive.resolved == redrive.planned, "{redrive:?}");
            return Ok(since.elapsed());
        }
        ensure!(since.elapsed() < PATIENCE, "it does not end: {redrive:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Publishes live records until it is told to stop, or so many.
async fn live(place: &Place, count: Option<usize>, stop: &CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(LIVE_EVERY);
    for number in 0..count.unwrap_or(usize::MAX) {
        if stop.run_until_cancelled(ticks.tick()).await.is_none() {
            break;
        }
        for published in place.bus.publish(vec![event(number)?]).await {
            published?;
        }
    }
    Ok(())
}

/// What questions cost.
pub(crate) async fn questions() -> anyhow::Result<()> {
    let mut asked = Vec::new();
    for count in COUNTS {
        let place = Place::new().await?;
        let since = Instant::now();
        fill(&place.store, GROUP, count).await?;
        println!("  {count} letters, kept in {:.0} s", since.elapsed().as_secs_f64());
        asked.push(ask(&place).await?);
        place.end().await;
    }
    for ((what, few), (_, many)) in asked[0].iter().zip(&asked[1]) {
        println!("    {what:<28} p50 {few:>8.2} ms  ->  {many:>8.2} ms   {:>6.2} x", many / few);
    }
    Ok(())
}

/// Redrives all letters of a group, `count` of them, beside live traffic, and prints what that had of it. `traffic` goes on until it is
/// told to stop, and returns the times that it took.
async fn beside<T>(
    client: DeadLetterServiceClient<T>,
    group: GroupName,
    (what, count, rate): (&str, usize, f64),
    (of, alone): (&str, &Times),
    traffic: impl AsyncFnOnce(&CancellationToken) -> anyhow::Result<Times>,
) -> anyhow::Result<()>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: tonic::codegen::Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    let stop = CancellationToken::new();
    let redriven = async {
        let took = redrive(client, group, rate).await;
        stop.cancel();
        took
    };
    let (took, times) = tokio::join!(redriven, traffic(&stop));
    let (took, times) = (took?, times?);
    println!("  {of} beside a redrive {what}: {:>8.0} /s", crate::per_second(count, took));
    times.print(of);
    println!("  p99 {:.2} x", times.at(0.99) / alone.at(0.99));
    Ok(())
}

/// How fast letters are delivered again, and what live records have of it.
pub(crate) async fn redrives() -> anyhow::Result<()> {
    let place = Place::new().await?;
    fill(&place.store, GROUP, CAP.1).await?;
    let took = redrive(place.client(), GROUP, CAP.0).await?.as_secs_f64();
    let wanted = CAP.1 as f64 / CAP.0;
    println!("  {} letters at {} /s: {took:.2} s of {wanted:.2} s, {:.3} x", CAP.1, CAP.0, took / wanted);

    fill(&place.store, GROUP, REDRIVEN).await?;
    let took = redrive(place.client(), GROUP, 0.0).await?;
    println!("  without a cap                                {:>8.0} /s", crate::per_second(REDRIVEN, took));

    place.live.take()?;
    live(&place, Some(LIVE), &CancellationToken::new()).await?;
    let alone = place.live.take()?;
    alone.print("live records, alone");
    for how in REDRIVES {
        fill(&place.store, GROUP, how.1).await?;
        let traffic = async |stop: &CancellationToken| {
            live(&place, None, stop).await?;
            place.live.take()
        };
        beside(place.client(), GROUP, how, ("live records", &alone), traffic).await?;
    }
    place.end().await;
    Ok(())
}

/// Runs so many executions, one after another, or until it is told to stop.
async fn run(client: &Client, count: usize, stop: &CancellationToken) -> anyhow::Result<Times> {
    let mut times = Times::new()?;
    for _ in 0..count {
        if stop.is_cancelled() {
            break;
        }
        let since = Instant::now();
        run_and_watch(client).await?;
        times.add(since.elapsed());
    }
    Ok(times)
}

/// What executions have of redrives: on a node of their own, whose projection has the letters.
pub(crate) async fn executions() -> anyhow::Result<()> {
    let mut mesh = Mesh::start_with(Options { embedded: true, ..Options::default() }).await?;
    let (client, on) = (mesh.client().await?, CancellationToken::new());
    run(&client, EXECUTIONS.0, &on).await?;
    let alone = run(&client, EXECUTIONS.1, &on).await?;
    alone.print("executions, alone");
    for how in REDRIVES {
        mesh.stop().await?;
        fill(&SqliteStore::open(&SqliteConfig::new(mesh.data_folder().join("runmesh.db")))?, PROJECTION, how.1).await?;
        mesh.restart().await?;
        let client = mesh.client().await?;
        run(&client, EXECUTIONS.0, &on).await?;
        let traffic = async |stop: &CancellationToken| run(&client, usize::MAX, stop).await;
        beside(client.dead_letters.clone(), PROJECTION, how, ("executions", &alone), traffic).await?;
    }
    Ok(())
}
