//! Runs in a sandbox that does what the test wants: what a run looks after while it waits for one.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use runmesh_bus::{Delivery, Handler as _, Incoming, Lane};
use runmesh_events::{AggregateId, Event, EventType, NewEvent, Payload, TraceParent, to_duration};
use runmesh_proto::event::{
    CaseCounts, CaseVerdict, CreatePodCommand, DeletePodCommand, ExecutionRequested, PodCreated, PodTerminated, RunCase,
};
use runmesh_store::{
    Documents, EventStore as _, Expected, Members, SqliteStore,
    sqlite::{Durability, SqliteConfig},
};
use tempfile::TempDir;
use tokio::{sync::watch, time::sleep};

use crate::{
    Ending, Enforcement, Level, Limit, Limits, Outcome, Recovered, Run, RunSpec, Runner, Runtimes, Sandbox,
    SandboxError, Started, Stray, Toolchains, Usage, lease::RunLease, sandbox::Demand, service::GROUP,
};

mod reconcile;

const ID: &str = "0190b1f2-7d1e-7000-8000-000000000001";
const BOUND: Duration = Duration::from_secs(60);

/// A sandbox without processes. Standard input says what a run does: `end` at once, `wait` for its end, `never` start.
struct Stage {
    started: watch::Sender<usize>,
    strays: Arc<Mutex<Vec<Stray>>>,
}

#[async_trait::async_trait]
impl Sandbox for Stage {
    fn name(&self) -> &'static str {
        "stage"
    }

    fn receipt(&self, limits: &Limits) -> Vec<Enforcement> {
        let asked = limits.memory_bytes.unwrap_or_default().to_string();
        let (enforced, mechanism, reason) = (asked.clone(), "nothing".to_owned(), String::new());
        vec![Enforcement { limit: Limit::Memory, level: Level::Full, asked, enforced, mechanism, reason }]
    }

    async fn start(&self, spec: RunSpec) -> Result<Run, SandboxError> {
        self.started.send_modify(|started| *started += 1);
        if &spec.stdin[..] == b"never" {
            return pending().await;
        }
        let receipt = self.receipt(&spec.limits);
        let started =
            Started { name: spec.part, pid: None, at: SystemTime::now(), receipt: receipt.clone(), prepared: false };
        let (run, mut side) = Run::new(started, 1);
        let waits = &spec.stdin[..] == b"wait";
        tokio::spawn(async move {
            let mut ending = Ending::Exited(0);
            if waits {
                side.demand.wait_for(|demand| *demand >= Demand::Cancel).await.ok();
                ending = Ending::Cancelled { forced: false };
            }
            drop(side.output);
            side.outcome.send(Outcome { ending, usage: Usage::default(), receipt, collected: Vec::new() }).ok();
        });
        Ok(run)
    }

    async fn recover(&self) -> Result<Recovered, SandboxError> {
        Ok(Recovered::default())
    }

    async fn strays(&self) -> Result<Vec<Stray>, SandboxError> {
        Ok(self.strays.lock().unwrap().clone())
    }

    async fn close(&self) {}

    async fn remove_strays(&self, seen: Vec<Stray>) -> Result<Vec<Stray>, SandboxError> {
        self.strays.lock().unwrap().retain(|stray| !seen.contains(stray));
        Ok(seen)
    }
}

struct Bed {
    store: SqliteStore,
    leases: Documents<RunLease>,
    started: watch::Receiver<usize>,
    strays: Arc<Mutex<Vec<Stray>>>,
    runner: Runner,
    _folder: TempDir,
}

impl Bed {
    /// A runner that has taken this request on.
    async fn run(request: ExecutionRequested) -> Self {
        let bed = Self::idle(request).await;
        let command = bed.append(CreatePodCommand { execution_id: ID.to_owned(), ..Default::default() }).await;
        bed.runner.handle(&incoming(command)).await.unwrap();
        bed
    }

    /// A runner that was not told of this request.
    async fn idle(request: ExecutionRequested) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let store = SqliteStore::open(&SqliteConfig { path, durability: Durability::Process, relayed: false }).unwrap();
        let (sender, started) = watch::channel(0);
        let strays = Arc::<Mutex<Vec<Stray>>>::default();
        let toolchains = Toolchains::open(Arc::new(Runtimes::default()), folder.path().join("caches")).unwrap();
        let (events, documents) = (Arc::new(store.clone()), Arc::new(store.clone()));
        let stage = Arc::new(Stage { started: sender, strays: Arc::clone(&strays) });
        let members = Members::open(Arc::clone(&documents) as _, "runner").await.unwrap();
        let offer = (members, crate::Offer::default());
        let runner = Runner::build("node", offer, events, documents, stage, toolchains).await.unwrap();
        let leases = Documents::open(Arc::new(store.clone())).await.unwrap();
        let bed = Self { store, leases, started, strays, runner, _folder: folder };
        bed.append(request).await;
        bed
    }

    /// Tells the runner to run an attempt, which is to be begun by the runner of this name.
    async fn told(&self, runner: &str, attempt: i32) {
        let (execution_id, runner) = (ID.to_owned(), runner.to_owned());
        let command = self.append(CreatePodCommand { execution_id, runner, attempt, ..Default::default() }).await;
        self.runner.handle(&incoming(command)).await.unwrap();
    }

    fn lost(attempt: i32) -> PodTerminated {
        runmesh_events::lifecycle::attempt_lost(ID, attempt, "lost", "by the test")
    }

    /// Adds to the log what this runner is not told of.
    async fn append(&self, payload: impl Into<Payload>) -> Arc<Event> {
        let event = NewEvent::root("test", "", &TraceParent::new_root(), payload);
        let appended = self.store.append(&AggregateId::from(ID), Expected::Any, vec![event]).await.unwrap();
        Arc::clone(appended.events.last().unwrap())
    }

    async fn cancel(&self) {
        let command =
            DeletePodCommand { execution_id: ID.to_owned(), reason: "enough".to_owned(), ..Default::default() };
        self.append(command).await;
    }

    async fn has_started(&mut self, runs: usize) {
        tokio::time::timeout(BOUND, self.started.wait_for(|started| *started == runs)).await.unwrap().unwrap();
    }

    /// The log once the execution has ended.
    async fn log(&self) -> Vec<Payload> {
        let aggregate = AggregateId::from(ID);
        let mut news = self.store.live().subscribe(&aggregate);
        tokio::time::timeout(BOUND, async {
            loop {
                let head = self.store.head(&aggregate).await.unwrap();
                let events = self.store.read(&aggregate, 0, 100, &[]).await.unwrap();
                let log: Vec<Payload> = events.iter().filter_map(|event| event.payload.clone()).collect();
                let terminal = &runmesh_events::lifecycle::TERMINAL;
                if log.last().is_some_and(|last| terminal.contains(&last.event_type())) {
                    return log;
                }
                news.beyond(head).await;
            }
        })
        .await
        .expect("it did not end")
    }
}

fn incoming(event: Arc<Event>) -> Incoming {
    let delivery = Delivery {
        lane: Lane { event_type: EventType::CreatePodCommand, partition: 0 },
        offset: 0,
        event_type: EventType::CreatePodCommand,
        partition: 0,
        key: Bytes::new(),
        extra_headers: Default::default(),
        value: Bytes::new(),
        timestamp: SystemTime::now(),
        decoded: None,
    };
    Incoming { event, delivery, group: GROUP, trace: TraceParent::new_root() }
}

fn request(stdin: &'static str, cases: &[&'static str]) -> ExecutionRequested {
    let case = |stdin: &&'static str| RunCase { stdin: (*stdin).into(), ..RunCase::default() };
    ExecutionRequested {
        execution_id: ID.to_owned(),
        script: "x".to_owned(),
        runtime_command: vec!["/bin/x".to_owned(), "{file}".to_owned()],
        runtime_filename: "main.x".to_owned(),
        timeout: Some(to_duration(Duration::from_secs(60))),
        memory_limit: "1000".to_owned(),
        stdin: stdin.into(),
        cases: cases.iter().map(case).collect(),
        ..ExecutionRequested::default()
    }
}

fn cancelled(log: &[Payload]) -> &runmesh_proto::event::ExecutionCancelled {
    let Some(Payload::ExecutionCancelled(last)) = log.last() else { panic!("{:?}", log.last()) };
    assert_eq!(last.reason, "enough");
    last
}

#[tokio::test]
async fn a_cancel_that_another_runner_was_given_ends_the_case_that_runs() {
    let mut bed = Bed::run(request("", &["end", "wait", "end"])).await;
    bed.has_started(2).await;
    bed.cancel().await;
    let log = bed.log().await;
    let counts = CaseCounts { total: 3, accepted: 1, rejected: 0, not_run: 2 };
    assert_eq!(cancelled(&log).cases, Some(counts));
    assert_eq!(*bed.started.borrow(), 2, "another case was started");
}

#[tokio::test]
async fn what_can_not_be_started_keeps_its_lease_and_is_cancelled() {
    let mut bed = Bed::run(request("never", &[])).await;
    bed.has_started(1).await;
    let until = async || bed.leases.get(ID).await.unwrap().unwrap().document.until;
    let first = until().await;
    tokio::time::timeout(BOUND, async {
        while until().await == first {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the lease was not renewed");
    bed.cancel().await;
    assert!(cancelled(&bed.log().await).receipt.is_empty(), "it had no sandbox");
}

#[tokio::test]
async fn the_receipt_is_that_of_the_limits_of_the_execution_and_a_case_with_others_has_its_own() {
    let mut request = request("", &["end", "end"]);
    request.cases[0].memory_bytes = 50;
    let log = Bed::run(request).await.log().await;
    let asked = |receipt: &[runmesh_proto::event::Enforcement]| -> Vec<String> {
        receipt.iter().map(|line| line.asked.clone()).collect()
    };
    let mut of_cases = Vec::new();
    for payload in &log {
        match payload {
            Payload::ExecutionStarted(started) => assert_eq!(asked(&started.receipt), ["1000"]),
            Payload::ExecutionCompleted(completed) => assert_eq!(asked(&completed.receipt), ["1000"]),
            Payload::ExecutionRunning(running) => {
                let result = running.case_result.as_ref().unwrap();
                assert_eq!(result.verdict(), CaseVerdict::Accepted);
                of_cases.push(asked(&result.receipt));
            }
            _ => {}
        }
    }
    assert!(matches!(log.last(), Some(Payload::ExecutionCompleted(_))), "{:?}", log.last());
    assert_eq!(of_cases, [vec!["50".to_owned()], Vec::new()]);
}

#[tokio::test]
async fn what_names_another_runner_is_left_alone_and_what_is_recorded_before_anything_runs_is_the_beginning() {
    let bed = Bed::idle(request("", &[])).await;
    bed.told("another", 1).await;
    assert_eq!((bed.runner.active(), bed.leases.get(ID).await.unwrap()), (0, None));
    bed.append(Bed::lost(1)).await;
    bed.told("node", 2).await;
    let log = bed.log().await;
    let place = |wanted| log.iter().position(|payload| payload.event_type() == wanted).unwrap();
    assert!(place(EventType::PodCreated) < place(EventType::PodRunning));
    assert_eq!(*bed.started.borrow(), 1);
}

#[tokio::test]
async fn what_was_given_up_or_begun_elsewhere_is_not_begun() {
    let bed = Bed::idle(request("", &[])).await;
    let command = CreatePodCommand { execution_id: ID.to_owned(), runner: "node".to_owned(), ..Default::default() };
    let first = bed.append(command).await;
    bed.append(Bed::lost(1)).await;
    bed.runner.handle(&incoming(first)).await.unwrap();
    // Without a name, and another runner was faster.
    let second = CreatePodCommand { execution_id: ID.to_owned(), attempt: 2, ..Default::default() };
    let second = bed.append(second).await;
    bed.append(PodCreated { execution_id: ID.to_owned(), ..Default::default() }).await;
    bed.runner.handle(&incoming(second)).await.unwrap();
    assert_eq!((bed.runner.active(), *bed.started.borrow(), bed.leases.get(ID).await.unwrap()), (0, 0, None));
}

#[tokio::test]
async fn a_beginning_is_recorded_with_the_lease() {
    let bed = Bed::run(request("never", &[])).await;
    // Before anything else of it could run.
    let log = bed.store.read(&AggregateId::from(ID), 0, 10, &[]).await.unwrap();
    let last = log.last().unwrap();
    assert!(matches!(last.payload, Some(Payload::PodCreated(_))), "{last:?}");
    assert_eq!((*bed.started.borrow(), bed.leases.get(ID).await.unwrap().unwrap().document.attempt), (0, 1));
}

#[tokio::test]
async fn a_beginning_is_refused_where_the_log_has_moved_on_since_it_was_read() {
    let lost: Payload = Bed::lost(2).into();
    for elsewhere in [lost, PodCreated { execution_id: ID.to_owned(), ..Default::default() }.into()] {
        let bed = Bed::idle(request("never", &[])).await;
        bed.told("another", 1).await;
        bed.append(Bed::lost(1)).await;
        // What the lost runner left behind: it is taken over first, so the beginning is not recorded in the same step.
        let (execution_id, node, until) = (ID.to_owned(), "another".to_owned(), SystemTime::now());
        bed.leases.insert(&RunLease { execution_id, attempt: 1, node, until }).await.unwrap();
        bed.told("node", 2).await;
        // The log was read, and what begins is a task of its own, which has not run yet: there is one thread.
        let event = NewEvent::root("test", "", &TraceParent::new_root(), elsewhere);
        bed.store.append(&AggregateId::from(ID), Expected::Sequence(4), vec![event]).await.expect("the test is first");
        tokio::time::timeout(BOUND, async {
            while bed.runner.active() > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("it goes on");
        assert_eq!((*bed.started.borrow(), bed.leases.get(ID).await.unwrap()), (0, None));
    }
}
