//! One schedule.

mod runners;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use runmesh_bus::{ConsumerGroup, Delivery, Incoming, Lane};
use runmesh_events::{AggregateId, Event, EventType, NewEvent, Payload, TraceParent, lifecycle};
use runmesh_proto::{
    event::{DeletePodCommand, ExecutionCancelled, ExecutionRequested, ResultStored, RunnerLoss},
    queue::{GetQueueStatsRequest, QueueStats, queue_service_server::QueueService as _},
};
use runmesh_scheduler::{QueueService, RUNNERS, Scheduler, SchedulerConfig};
use runmesh_store::{
    EventStore as _, Expected, Members, SqliteStore, StoreError,
    sqlite::{Durability, SqliteConfig},
};
use tokio_util::sync::CancellationToken;

use self::runners::{NODES, Taken, announce, at_the_named_runner_once};

const EXECUTIONS: usize = 8;
const RETRIES: i32 = 2;
/// More steps than any schedule takes.
const STEPS: usize = 4_000;

/// How often what happened.
#[derive(Debug, Default, Clone)]
pub(crate) struct Totals {
    deliveries: usize,
    duplicates: usize,
    crashes: usize,
    losses: usize,
    absences: usize,
    stalls: usize,
    stranded: usize,
    cancels: usize,
    completed: usize,
    failed: usize,
    timed_out: usize,
    cancelled: usize,
}

impl Totals {
    fn counts(&mut self) -> [&mut usize; 12] {
        [
            &mut self.deliveries,
            &mut self.duplicates,
            &mut self.crashes,
            &mut self.losses,
            &mut self.absences,
            &mut self.stalls,
            &mut self.stranded,
            &mut self.cancels,
            &mut self.completed,
            &mut self.failed,
            &mut self.timed_out,
            &mut self.cancelled,
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        self.counts().into_iter().zip(other.counts()).for_each(|(sum, more)| *sum += *more);
    }

    pub(crate) fn all_happened(&self) -> bool {
        self.clone().counts().into_iter().all(|count| *count > 0)
    }
}

/// Numbers from a seed (splitmix64, by Sebastiano Vigna, in the public domain).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// A delivery that is on its way to a group.
#[derive(Clone)]
struct Letter {
    group: &'static str,
    event: Arc<Event>,
}

pub(crate) struct World {
    random: Random,
    store: SqliteStore,
    members: Members,
    saga: ConsumerGroup,
    scheduler: Scheduler,
    executions: Vec<String>,
    /// How much of each log has been sent on its way.
    sent: HashMap<String, u64>,
    letters: Vec<Letter>,
    /// What was handled last: its offsets are not committed yet.
    uncommitted: Vec<Letter>,
    /// The runs in hand.
    runs: BTreeMap<String, Taken>,
    /// What runners have taken on, and have not begun with yet.
    stalled: Vec<Taken>,
    /// The runners that are not believed to be alive. They may be, and go on with what they have.
    absent: BTreeSet<&'static str>,
    totals: Totals,
}

impl World {
    pub(crate) async fn new(folder: &Path, seed: u64) -> anyhow::Result<Self> {
        let path = folder.join("store.db");
        let store = SqliteStore::open(&SqliteConfig { path, durability: Durability::Process, relayed: false })?;
        let members = Members::open(Arc::new(store.clone()), RUNNERS).await?;
        for (name, ..) in NODES {
            announce(&members, name).await?;
        }
        let scheduler = Self::scheduler(&store).await?;
        let dependencies = runmesh_saga::Dependencies {
            store: Arc::new(store.clone()),
            documents: Arc::new(store.clone()),
            shutdown: CancellationToken::new(),
        };
        let saga = runmesh_saga::SagaService::build(runmesh_saga::SagaConfig::default(), dependencies).await?;
        let saga = runmesh_saga::consumer_group(&saga);
        Ok(Self {
            random: Random(seed),
            store,
            members,
            saga,
            scheduler,
            executions: Vec::new(),
            sent: HashMap::new(),
            letters: Vec::new(),
            uncommitted: Vec::new(),
            runs: BTreeMap::new(),
            stalled: Vec::new(),
            absent: BTreeSet::new(),
            totals: Totals::default(),
        })
    }

    async fn scheduler(store: &SqliteStore) -> anyhow::Result<Scheduler> {
        let config = SchedulerConfig::default();
        let scheduler = Scheduler::build(&config, Arc::new(store.clone()), Arc::new(store.clone())).await?;
        scheduler.recover().await?;
        Ok(scheduler)
    }

    /// Plays until nothing is left to happen.
    pub(crate) async fn play(mut self) -> anyhow::Result<Totals> {
        for _ in 0..STEPS {
            self.send_what_is_new().await?;
            self.never_more_than_there_are().await?;
            let (letters, runs) = (self.letters.len(), self.runs.len() + self.stalled.len());
            let rest = EXECUTIONS - self.executions.len();
            if letters + runs + rest == 0 && !self.absent.is_empty() {
                // What waits for them goes on.
                for name in std::mem::take(&mut self.absent) {
                    announce(&self.members, name).await?;
                }
                self.scheduler.look_around().await?;
                continue;
            }
            if letters + runs + rest == 0 {
                self.nothing_waits_while_a_slot_is_free().await?;
                return self.end().await;
            }
            match self.random.below(40) {
                0 => self.crash().await?,
                1 => self.cancel().await?,
                2 if !self.runs.is_empty() => self.lose_a_runner().await?,
                11 => self.come_or_go().await?,
                12..=14 if !self.stalled.is_empty() => self.go_on().await?,
                3..=6 if rest > 0 => self.create().await?,
                7..=10 if !self.runs.is_empty() => self.end_a_run().await?,
                _ if letters > 0 => self.deliver().await?,
                _ if !self.runs.is_empty() => self.end_a_run().await?,
                _ if runs > 0 => self.go_on().await?,
                _ => self.create().await?,
            }
        }
        anyhow::bail!("it does not come to an end: {} letters, {:?} run", self.letters.len(), self.runs)
    }

    async fn log(&self, execution_id: &str) -> anyhow::Result<Vec<Arc<Event>>> {
        Ok(self.store.read(&AggregateId::from(execution_id), 0, 1_000, &[]).await?)
    }

    /// Appends unless the log has an end, or `fits` says no.
    async fn append(
        &mut self,
        execution_id: &str,
        purpose: &str,
        payload: impl Into<Payload>,
        fits: impl Fn(&[Arc<Event>]) -> bool,
    ) -> anyhow::Result<bool> {
        let log = self.log(execution_id).await?;
        if log.iter().any(|event| is_one_of(event, &lifecycle::TERMINAL)) || !fits(&log) {
            return Ok(false);
        }
        let event = NewEvent::root("test", "", &TraceParent::new_root(), payload).once(purpose, execution_id);
        let expected = Expected::Sequence(log.len() as u64);
        match self.store.append(&AggregateId::from(execution_id), expected, vec![event]).await {
            Ok(_) => Ok(true),
            Err(StoreError::EventIdInUse(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn create(&mut self) -> anyhow::Result<()> {
        let execution_id = uuid::Uuid::now_v7().to_string();
        let on_runner_loss = if self.random.one_in(2) { RunnerLoss::Retry } else { RunnerLoss::Fail } as i32;
        let request = ExecutionRequested {
            execution_id: execution_id.clone(),
            user_id: format!("user-{}", self.random.below(3)),
            priority: self.random.below(6) as i32,
            on_runner_loss,
            maximum_retries: RETRIES,
            ..ExecutionRequested::default()
        };
        self.executions.push(execution_id.clone());
        self.append(&execution_id, "request", request, |_| true).await.map(drop)
    }

    async fn send_what_is_new(&mut self) -> anyhow::Result<()> {
        for execution_id in self.executions.clone() {
            let sent = self.sent.get(&execution_id).copied().unwrap_or(0);
            let news = self.store.read(&AggregateId::from(execution_id.as_str()), sent, 1_000, &[]).await?;
            for event in news {
                self.sent.insert(execution_id.clone(), event.sequence);
                let event_type = event.payload.as_ref().map(Payload::event_type).context("no payload")?;
                let groups = [
                    ("saga", self.saga.topics.contains(&event_type)),
                    ("scheduler", runmesh_scheduler::TOPICS.contains(&event_type)),
                    ("results", lifecycle::TERMINAL.contains(&event_type)),
                ];
                let is_for_runners = [EventType::CreatePodCommand, EventType::DeletePodCommand].contains(&event_type);
                let groups = groups.into_iter().chain(NODES.map(|(.., group)| (group, is_for_runners)));
                let letters = groups.filter(|(_, reads)| *reads);
                self.letters.extend(letters.map(|(group, _)| Letter { group, event: Arc::clone(&event) }));
            }
        }
        Ok(())
    }

    /// Delivers one of those that may be next: of one topic and key they come in order.
    async fn deliver(&mut self) -> anyhow::Result<()> {
        let mut seen = BTreeSet::new();
        let first_of_its_lane = |letter: &Letter| {
            let event_type = letter.event.payload.as_ref().map(Payload::event_type);
            seen.insert((letter.group, event_type, letter.event.aggregate_id.clone()))
        };
        let next: Vec<bool> = self.letters.iter().map(first_of_its_lane).collect();
        let ready: Vec<usize> = (0..next.len()).filter(|place| next[*place]).collect();
        let place = ready[self.random.below(ready.len())];
        let letter = self.letters.remove(place);
        self.totals.deliveries += 1;
        self.handle(&letter).await?;
        if self.random.one_in(10) {
            self.totals.duplicates += 1;
            self.handle(&letter).await?;
        }
        self.uncommitted.push(letter);
        if self.random.one_in(3) {
            self.uncommitted.clear();
        }
        Ok(())
    }

    async fn handle(&mut self, letter: &Letter) -> anyhow::Result<()> {
        let execution_id = letter.event.aggregate_id.clone();
        match letter.group {
            "saga" => {
                let handled = self.saga.handler.handle(&incoming(letter, self.saga.name)).await;
                handled.map_err(|error| anyhow::anyhow!("the saga: {error:?}"))
            }
            "scheduler" => {
                let group = self.scheduler.consumer_group();
                // Others have written the same; in a mesh it is delivered again.
                for _ in 0..5 {
                    match group.handler.handle(&incoming(letter, group.name)).await {
                        Ok(()) => return Ok(()),
                        Err(error) => println!("again: {error:?}"),
                    }
                }
                anyhow::bail!("the scheduler does not handle {:?}", letter.event.payload)
            }
            "results" => {
                let stored = ResultStored { execution_id: execution_id.clone(), ..ResultStored::default() };
                let event = NewEvent::root("test", "", &TraceParent::new_root(), stored).once("result", &execution_id);
                self.store.append(&AggregateId::from(execution_id.as_str()), Expected::Any, vec![event]).await?;
                Ok(())
            }
            group => {
                let (runner, ..) = NODES.into_iter().find(|(.., own)| *own == group).context(group)?;
                self.take_on(runner, letter).await
            }
        }
    }

    async fn cancel(&mut self) -> anyhow::Result<()> {
        if self.executions.is_empty() {
            return Ok(());
        }
        let execution_id = self.executions[self.random.below(self.executions.len())].clone();
        let log = self.log(&execution_id).await?;
        let newest = |event_type| log.iter().rposition(|event| is_one_of(event, &[event_type]));
        let given = newest(EventType::CreatePodCommand);
        // Given up since: no runner would end it.
        let lost = log.iter().rposition(|event| lost(std::slice::from_ref(event)) > 0);
        self.totals.cancels += 1;
        if given.is_some() && given > lost {
            self.append(&execution_id, "cancel", DeletePodCommand::default(), |_| true).await.map(drop)
        } else {
            self.append(&execution_id, "end", ExecutionCancelled::default(), |_| true).await.map(drop)
        }
    }

    /// The process of scheduler and saga dies; what it had not committed comes again.
    async fn crash(&mut self) -> anyhow::Result<()> {
        self.totals.crashes += 1;
        let mut again = std::mem::take(&mut self.uncommitted);
        again.append(&mut self.letters);
        self.letters = again;
        self.scheduler = Self::scheduler(&self.store).await?;
        Ok(())
    }

    async fn stats(&self) -> anyhow::Result<QueueStats> {
        let (events, documents) = (Arc::new(self.store.clone()), Arc::new(self.store.clone()));
        let service = QueueService::new(SchedulerConfig::default(), events, documents, CancellationToken::new());
        service.set_working(Some(self.scheduler.clone()));
        let answer = service.get_queue_stats(tonic::Request::new(GetQueueStatsRequest {})).await?;
        answer.into_inner().stats.context("no stats")
    }

    async fn never_more_than_there_are(&self) -> anyhow::Result<()> {
        let stats = self.stats().await?;
        let slots: i32 = NODES.iter().map(|(_, slots, _)| slots).sum();
        ensure!(stats.running <= slots.into(), "{} of {slots} slots are in use", stats.running);
        let runs = self.runs.len();
        ensure!(i64::try_from(runs)? <= stats.running, "{runs} run, and {} slots are in use", stats.running);
        for runner in &stats.runners {
            let (name, in_use) = (&runner.runner, runner.slots_in_use);
            ensure!(in_use <= runner.slots, "{in_use} of {} slots of {name} are in use", runner.slots);
            let runs = self.runs.values().filter(|run| run.runner == name).count();
            ensure!(i32::try_from(runs)? <= in_use, "{runs} run at {name}, which has {in_use} slots in use");
            // No handler is at work.
            let idle = stats.waiting > 0 && in_use < runner.slots;
            ensure!(!idle, "{} wait while {name} has {in_use} of {} slots in use", stats.waiting, runner.slots);
        }
        Ok(())
    }

    async fn nothing_waits_while_a_slot_is_free(&self) -> anyhow::Result<()> {
        let stats = self.stats().await?;
        ensure!((stats.running, stats.waiting) == (0, 0), "{} hold slots, {} wait", stats.running, stats.waiting);
        Ok(())
    }

    /// What has to be so at the end.
    async fn end(mut self) -> anyhow::Result<Totals> {
        for execution_id in self.executions.clone() {
            let log = self.log(&execution_id).await?;
            let types: Vec<&str> =
                log.iter().filter_map(|event| Some(event.payload.as_ref()?.event_type().as_str_name())).collect();
            let count = |wanted: &[EventType]| log.iter().filter(|event| is_one_of(event, wanted)).count();
            ensure!(count(&lifecycle::TERMINAL) == 1, "not one end: {types:?}");
            ensure!(count(&lifecycle::SAGA_END) == 1, "not one end of the saga: {types:?}");
            let (asked, given_back) =
                (count(&[EventType::AllocateResourcesCommand]), count(&[EventType::ReleaseResourcesCommand]));
            ensure!(asked == given_back, "{asked} slots asked for, {given_back} given back: {types:?}");
            let attempts = usize::try_from(lost(&log))? + 1;
            ensure!(count(&[EventType::CreatePodCommand]) <= attempts, "too many runs: {types:?}");
            self.totals.stranded += at_the_named_runner_once(&log).with_context(|| format!("{types:?}"))?;
            match log
                .iter()
                .find(|event| is_one_of(event, &lifecycle::TERMINAL))
                .and_then(|event| event.payload.as_ref())
            {
                Some(Payload::ExecutionCompleted(_)) => self.totals.completed += 1,
                Some(Payload::ExecutionFailed(_)) => self.totals.failed += 1,
                Some(Payload::ExecutionTimeout(_)) => self.totals.timed_out += 1,
                _ => self.totals.cancelled += 1,
            }
        }
        Ok(self.totals)
    }
}

fn is_one_of(event: &Event, types: &[EventType]) -> bool {
    event.payload.as_ref().is_some_and(|payload| types.contains(&payload.event_type()))
}

/// The newest attempt that was lost. 0: none was.
fn lost(log: &[Arc<Event>]) -> i32 {
    let attempts = log.iter().filter_map(|event| match &event.payload {
        Some(Payload::PodTerminated(ended)) => Some(ended.lost_attempt),
        _ => None,
    });
    attempts.max().unwrap_or(0)
}

fn incoming(letter: &Letter, group: runmesh_events::GroupName) -> Incoming {
    let event_type = letter.event.payload.as_ref().map_or(EventType::Unspecified, Payload::event_type);
    let delivery = Delivery {
        lane: Lane { event_type, partition: 0 },
        offset: 0,
        event_type,
        partition: 0,
        key: Bytes::new(),
        extra_headers: Default::default(),
        value: Bytes::new(),
        timestamp: SystemTime::now(),
        decoded: None,
    };
    Incoming { event: Arc::clone(&letter.event), delivery, group, trace: TraceParent::new_root() }
}
