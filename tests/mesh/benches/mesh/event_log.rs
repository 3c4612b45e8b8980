//! The log of a million events: how fast it is read, and what questions about it cost.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, future::try_join_all};
use runmesh_bus::{EmbeddedBus, KnownGroup};
use runmesh_event_log::{Dependencies, EventLogService, Verifier};
use runmesh_events::{Event, ExecutionId, NewEvent, Payload, TraceParent};
use runmesh_proto::{
    event::{
        EventFilter, EventType, ExecutionAccepted, ExecutionCompleted, ExecutionOutput, ExecutionRequested,
        ExecutionStarted, PodCreated, ResultStored,
    },
    event_log::{
        ExportEventsRequest, ExportFormat, GetEventRequest, GetEventStatsRequest, QueryEventsRequest,
        event_log_service_server::EventLogService as _,
    },
};
use runmesh_store::{EventStore as _, Expected, Filter, Position, SqliteStore, sqlite::SqliteConfig};
use rusqlite::{Connection, OpenFlags};
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::{Times, per_second};

/// How many executions there are, and how many events each has.
const EXECUTIONS: usize = 100_000;
const EACH: usize = 10;
const EVENTS: usize = EXECUTIONS * EACH;
/// How many executions are appended together.
const BATCH: usize = 500;
/// How many events one read brings.
const READ: usize = 2_048;
/// How often each question is asked.
const QUESTIONS: usize = 50;

/// An execution as the services record it.
fn execution(execution_id: &str, number: usize) -> Vec<NewEvent> {
    let id = || execution_id.to_owned();
    let script = format!("print({number})\n").repeat(8);
    let output = |piece: usize| ExecutionOutput {
        execution_id: id(),
        data: format!("{number} {piece}\n").repeat(6).into_bytes().into(),
        ..Default::default()
    };
    let payloads: [Payload; EACH] = [
        ExecutionRequested { execution_id: id(), script, language: "python".into(), ..Default::default() }.into(),
        ExecutionAccepted { execution_id: id(), runner: "bench".into(), ..Default::default() }.into(),
        PodCreated { execution_id: id(), pod_name: format!("{execution_id}-1"), ..Default::default() }.into(),
        ExecutionStarted { execution_id: id(), pod_name: format!("{execution_id}-1"), ..Default::default() }.into(),
        output(0).into(),
        output(1).into(),
        output(2).into(),
        output(3).into(),
        ExecutionCompleted { execution_id: id(), ..Default::default() }.into(),
        ResultStored { execution_id: id(), ..Default::default() }.into(),
    ];
    let trace = TraceParent::new_root();
    let user = format!("user-{}", number % 100);
    let mut correlation = None;
    payloads
        .into_iter()
        .map(|payload| {
            let mut event = NewEvent::root("bench", &user, &trace, payload);
            event.correlation_id = correlation.get_or_insert_with(|| event.event_id.to_string()).clone();
            event
        })
        .collect()
}

/// Fills the store. Returns the id of an event in the middle.
async fn fill(store: &SqliteStore) -> anyhow::Result<Arc<Event>> {
    let mut middle = None;
    for first in (0..EXECUTIONS).step_by(BATCH) {
        let appends = (first..first + BATCH).map(async |number| {
            let id = ExecutionId::new();
            store.append(&id.aggregate(), Expected::Sequence(0), execution(&id.to_string(), number)).await
        });
        let appended = try_join_all(appends).await?;
        if first == EXECUTIONS / 2 {
            middle = appended.first().and_then(|appended| appended.events.get(1).cloned());
        }
    }
    middle.context("there is a middle")
}

/// Reads the same rows with nothing around them: what SQLite takes alone.
fn bare(file: &Path) -> anyhow::Result<Duration> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let since = Instant::now();
    let mut statement = connection.prepare(
        "SELECT position, body FROM events WHERE aggregate IS NOT NULL AND position > ?1 ORDER BY position LIMIT ?2",
    )?;
    let (mut after, mut count) = (0_i64, 0);
    loop {
        let mut rows = statement.query([after, i64::try_from(READ)?])?;
        let before = count;
        while let Some(row) = rows.next()? {
            after = row.get(0)?;
            count += usize::from(!row.get::<_, Vec<u8>>(1)?.is_empty());
        }
        if count == before {
            break;
        }
    }
    ensure!(count == EVENTS, "{count} rows");
    Ok(since.elapsed())
}

async fn scan(store: &SqliteStore, filter: &Filter, wanted: usize) -> anyhow::Result<Duration> {
    let since = Instant::now();
    let (mut after, mut count) = (Position(0), 0);
    loop {
        let page = store.scan(filter, after, READ).await?;
        let Some(last) = page.last() else { break };
        (after, count) = (last.position, count + page.len());
    }
    ensure!(count == wanted, "{count} events");
    Ok(since.elapsed())
}

async fn export(service: &EventLogService, format: ExportFormat) -> anyhow::Result<(Duration, usize)> {
    let since = Instant::now();
    let request = ExportEventsRequest { format: format.into(), ..Default::default() };
    let mut pieces = service.export_events(Request::new(request)).await?.into_inner();
    let mut bytes = 0;
    while let Some(piece) = pieces.next().await {
        bytes += piece?.data.len();
    }
    Ok((since.elapsed(), bytes))
}

fn told(what: &str, count: usize, took: Duration, beside: Duration) {
    let ratio = per_second(count, took) / per_second(EVENTS, beside);
    println!("  {what:<44} {:>9.0} /s   {ratio:.2} x of bare SQLite", per_second(count, took));
}

pub(crate) async fn measure() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bench.db");
    let store = SqliteStore::open(&SqliteConfig::new(&file))?;
    let middle = fill(&store).await?;
    let dependencies = Dependencies {
        store: Arc::new(store.clone()),
        documents: Arc::new(store.clone()),
        bus: Arc::new(EmbeddedBus::new(store.clone())),
        groups: Arc::new(Vec::<KnownGroup>::new()),
    };
    let service = EventLogService::build(Verifier::build(dependencies).await?, CancellationToken::new()).await?;

    // Once for the cache, then in turns.
    bare(&file)?;
    let baseline = tokio::task::block_in_place(|| bare(&file))?;
    told("bare SQLite, the same rows in pages", EVENTS, baseline, baseline);
    told("scan, all", EVENTS, scan(&store, &Filter::default(), EVENTS).await?, baseline);
    let types = vec![EventType::ExecutionRequested, EventType::ExecutionOutput, EventType::ExecutionCompleted];
    let some = Filter { types, ..Filter::default() };
    told("scan, 3 of 10 types, 6 of 10 events", EVENTS * 6 / 10, scan(&store, &some, EVENTS * 6 / 10).await?, baseline);
    let since = Instant::now();
    let answer = service.get_event_stats(Request::new(GetEventStatsRequest::default())).await?.into_inner();
    ensure!(answer.stats.is_some_and(|stats| stats.events == i64::try_from(EVENTS).unwrap_or_default()));
    told("stats of all", EVENTS, since.elapsed(), baseline);
    for (what, format) in [("export, NDJSON", ExportFormat::Ndjson), ("export, CSV", ExportFormat::Csv)] {
        let (took, bytes) = export(&service, format).await?;
        told(&format!("{what}, {} MB", bytes / 1_000_000), EVENTS, took, baseline);
    }

    let at = middle.occurred_at;
    let of = |filter: EventFilter| QueryEventsRequest { filter: Some(filter), ..Default::default() };
    let questions = [
        ("the newest 50", of(EventFilter::default())),
        ("the newest 50 of a type", of(EventFilter { event_types: vec![3], ..Default::default() })),
        ("an execution", of(EventFilter { execution_id: middle.aggregate_id.clone(), ..Default::default() })),
        ("50 of a user (1 of 100)", of(EventFilter { user_id: "user-7".into(), ..Default::default() })),
        ("50 before a time in the middle", of(EventFilter { until: at, ..Default::default() })),
        ("a call with 20,000 events passed over", of(EventFilter { user_id: "nobody".into(), ..Default::default() })),
    ];
    for (what, request) in questions {
        let mut times = Times::new()?;
        for _ in 0..QUESTIONS {
            let since = Instant::now();
            service.query_events(Request::new(request.clone())).await?;
            times.add(since.elapsed());
        }
        times.print(what);
    }
    let mut times = Times::new()?;
    for _ in 0..QUESTIONS {
        let since = Instant::now();
        service.get_event(Request::new(GetEventRequest { event_id: middle.event_id.clone() })).await?;
        times.add(since.elapsed());
    }
    times.print("one event with what is related to it");
    Ok(())
}
