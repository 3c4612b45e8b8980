//! Replays by a clock that the test moves.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use runmesh_bus::{
    EmbeddedBus,
    conformance::{TOPIC, sample},
};
use runmesh_events::{Event, json, to_timestamp};
use runmesh_proto::replay::{CreateReplayRequest, FileTarget, ReplayOptions, ReplaySpec, replay_spec};
use runmesh_store::{SqliteStore, sqlite::SqliteConfig};
use tempfile::TempDir;

use super::*;
use crate::{
    document::Range,
    service::{Dependencies, ReplayService, Settings},
};

/// The gaps between the events, in milliseconds.
const GAPS: [u64; 9] = [2_000, 500, 0, 10_000, 1_000, 40_000, 3_000, 250, 60_000];

type Sent = Arc<Mutex<Vec<(Instant, String)>>>;

/// Tells when it was given what, and fails as often as it is told to.
struct Telling {
    sent: Sent,
    fails: Arc<Mutex<u32>>,
    transient: bool,
}

#[async_trait]
impl Target for Telling {
    async fn send(&mut self, events: &[Arc<Event>]) -> Vec<Result<(), SendError>> {
        let mut results = Vec::new();
        for event in events {
            let mut fails = self.fails.lock().unwrap_or_else(PoisonError::into_inner);
            if *fails > 0 && event.aggregate_id == "bad" {
                *fails -= 1;
                results.push(Err(SendError { transient: self.transient, words: "no room".to_owned() }));
                continue;
            }
            self.sent.lock().unwrap().push((Instant::now(), event.aggregate_id.clone()));
            results.push(Ok(()));
        }
        results
    }
}

struct Bench {
    _folder: TempDir,
    service: ReplayService,
    sent: Sent,
}

impl Bench {
    /// A file of these events, as their aggregates and the gaps before them.
    async fn new(events: &[(&str, u64)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("runmesh.db"))).unwrap();
        let mut at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut lines = String::new();
        for (aggregate, gap) in events {
            at += Duration::from_millis(*gap);
            let event = Event { occurred_at: Some(to_timestamp(at)), ..sample(TOPIC, aggregate, 1) };
            lines.push_str(&json::of(json::EVENT, &event));
            lines.push('\n');
        }
        std::fs::write(folder.path().join("events.ndjson"), lines).unwrap();
        let settings = Settings { folder: folder.path().to_owned(), topics: Vec::new(), at_a_time: 1 };
        let dependencies = Dependencies {
            events: Arc::new(store.clone()),
            documents: Arc::new(store.clone()),
            bus: Arc::new(EmbeddedBus::new(store)),
            groups: Arc::new(Vec::new()),
            read_models: Vec::new(),
            shutdown: CancellationToken::new(),
        };
        let service = ReplayService::build(settings, dependencies).await.unwrap();
        Self { _folder: folder, service, sent: Sent::default() }
    }

    /// Replays the file. The aggregate `bad` can't be sent the first `fails` times.
    async fn replay(&self, options: ReplayOptions, fails: u32, transient: bool) -> ReplayDocument {
        let inner = self.service.shared();
        let spec = ReplaySpec {
            source_file: "events.ndjson".to_owned(),
            target: Some(replay_spec::Target::File(FileTarget {})),
            options: Some(options),
            ..ReplaySpec::default()
        };
        let request = CreateReplayRequest { spec: Some(spec), ..CreateReplayRequest::default() };
        let id = Uuid::new_v4().to_string();
        let mut replay = ReplayDocument::new(id.clone(), &request, SystemTime::now());
        let plan = inner.plan_of(&replay).unwrap();
        replay.range = Range { first: None, end: inner.sources.end(&plan).await.unwrap() };
        (replay.phase, replay.due_at) = (Phase::Running, Some(SystemTime::now()));
        inner.replays.insert(&replay).await.unwrap();
        let replay = inner.take_over(&id, "test").await.unwrap().unwrap();
        let source = inner.sources.open(&plan, 0, replay.range, SystemTime::now()).await.unwrap();
        let target = Telling { sent: Arc::clone(&self.sent), fails: Arc::new(Mutex::new(fails)), transient };
        let carrier = "test".to_owned();
        let mut carried = Carried::new(&inner, replay, plan, carrier, Box::new(target), source);
        carried.run(&CancellationToken::new()).await.unwrap();
        inner.replays.get(&id).await.unwrap().unwrap().document
    }

    fn sent(&self) -> Vec<(Instant, String)> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }
}

fn gaps() -> Vec<(&'static str, u64)> {
    std::iter::once(0).chain(GAPS).map(|gap| ("a", gap)).collect()
}

/// The gaps are kept to within 5 %, by a clock of which a tick is a millisecond.
#[tokio::test(start_paused = true)]
async fn a_replay_keeps_the_gaps_at_every_speed() {
    let bench = Bench::new(&gaps()).await;
    for speed in [1.0, 10.0, 100.0] {
        let done = bench.replay(ReplayOptions { speed, ..Default::default() }, 0, false).await;
        assert_eq!((done.phase, done.progress.sent), (Phase::Completed, 10));
        let sent = bench.sent();
        for (gap, pair) in GAPS.iter().zip(sent.windows(2)) {
            let (wanted, found) = (*gap as f64 / 1_000.0 / speed, (pair[1].0 - pair[0].0).as_secs_f64());
            assert!((found - wanted).abs() <= (wanted * 0.05).max(0.003), "{found} s for {wanted} s at {speed}");
        }
        let wanted = GAPS.iter().sum::<u64>() as f64 / 1_000.0 / speed;
        let found = (sent[9].0 - sent[0].0).as_secs_f64();
        assert!((found - wanted).abs() <= wanted * 0.05, "{found} s for {wanted} s at {speed}");
    }
    bench.replay(ReplayOptions::default(), 0, false).await;
    let sent = bench.sent();
    assert!(sent[9].0 - sent[0].0 < Duration::from_millis(10), "without a speed there are no gaps");
}

/// A rate holds whatever the gaps are.
#[tokio::test(start_paused = true)]
async fn a_replay_keeps_its_rate() {
    let bench = Bench::new(&vec![("a", 0); 200]).await;
    bench.replay(ReplayOptions { rate: 20.0, ..Default::default() }, 0, false).await;
    let sent = bench.sent();
    let took = (sent[199].0 - sent[0].0).as_secs_f64();
    assert!((9.4..=10.5).contains(&took), "{took}");
}

/// What fails for the moment is tried again, and what fails for good, or too often, ends the replay or is left out.
#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_then_left_out_or_the_end() {
    let bench = Bench::new(&[("a", 0), ("bad", 0), ("c", 0), ("d", 0)]).await;
    let options = ReplayOptions { retry_attempts: Some(3), ..Default::default() };
    let order = || bench.sent().into_iter().map(|(_, aggregate)| aggregate).collect::<Vec<_>>();
    let done = bench.replay(options, 3, true).await;
    assert_eq!((done.phase, done.progress.sent, done.progress.retries), (Phase::Completed, 4, 3));
    assert_eq!(order(), ["a", "c", "d", "bad"]);

    let stopped = bench.replay(options, 9, true).await;
    assert_eq!((stopped.phase, stopped.progress.sent, stopped.progress.retries), (Phase::Failed, 1, 3));
    assert!(stopped.note.contains("no room") && stopped.ended_at.is_some(), "{}", stopped.note);
    assert_eq!((stopped.failures.len(), stopped.failures[0].tries), (1, 4));
    // The checkpoint is before what failed, so that a resume tries it again.
    let (first, failed) = (stopped.progress.place, stopped.failures[0].place);
    assert!(first > 0 && first < failed, "{first} {failed}");
    order();

    let done = bench.replay(ReplayOptions { skip_errors: true, ..options }, 1, false).await;
    assert_eq!((done.phase, done.progress.sent, done.progress.failed), (Phase::Completed, 3, 1));
    assert_eq!((done.failures[0].tries, done.progress.retries), (1, 0));
    assert_eq!(order(), ["a", "c", "d"]);

    let done = bench.replay(ReplayOptions { max_events: 2, ..options }, 0, false).await;
    assert_eq!((done.phase, done.progress.sent), (Phase::Completed, 2));
    assert_eq!(order(), ["a", "bad"]);
}
