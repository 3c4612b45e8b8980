//! Consumer groups over any bus: workers that keep each key's order, retries in place, dead letters, contiguous commits.

mod guard;
mod handler;
mod paused;
mod queue;
mod resolver;
mod worker;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use runmesh_store::{DocumentStore, StoreError};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Batch, Bus, BusError, ContiguousOffsets, DeadLetters, Delivery, Lane, Subscription};
use guard::Guard;
pub use handler::{ConsumerGroup, Handler, HandlerError, InPlaceRetry, Incoming, Severity};
pub use paused::{PausedGroup, PausedGroups};
use queue::KeyedQueue;
use resolver::Resolver;
use worker::Worker;

/// How many records of a group are taken on at once, over all workers.
const IN_FLIGHT: usize = 1_024;

/// How long finished records may wait for the commit of their offsets. A crash in between delivers them again.
const COMMIT_DELAY: Duration = Duration::from_millis(100);

/// How long a last commit is tried again. What it does not get done is delivered again.
const COMMIT_PATIENCE: Duration = Duration::from_secs(3);

/// How long a lane that is taken away may hold up the others.
const REVOKE_PATIENCE: Duration = Duration::from_secs(20);

/// How long what was begun may take at the end, and what lies before it in its lanes. What is not finished by then is
/// delivered again.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// The first and the greatest wait before a failed call to the bus is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Runs consumer groups on a bus.
#[derive(Clone)]
pub struct Consumer {
    bus: Arc<dyn Bus>,
    dead_letters: DeadLetters,
    paused: PausedGroups,
}

impl Consumer {
    /// A consumer that reads from `bus` and keeps dead letters in `documents`.
    ///
    /// # Errors
    /// When the collection of dead letters can't be made.
    pub async fn new(bus: Arc<dyn Bus>, documents: Arc<dyn DocumentStore>) -> Result<Self, StoreError> {
        let paused = PausedGroups::open(Arc::clone(&documents)).await?;
        Ok(Self { bus, dead_letters: DeadLetters::open(documents).await?, paused })
    }

    /// The same in a process of this name, under which its paused groups are told.
    #[must_use]
    pub fn of_node(self, node: &str) -> Self {
        Self { paused: self.paused.of_node(node), ..self }
    }

    /// The dead letters that it keeps, and the policies that it follows.
    pub fn dead_letters(&self) -> &DeadLetters {
        &self.dead_letters
    }

    /// Where it tells which of its groups are paused.
    pub fn paused_groups(&self) -> &PausedGroups {
        &self.paused
    }

    /// Runs a group until `shutdown`: then no record is taken on any more, those in hand are finished, their offsets
    /// committed, and the group is left. What the bus refuses for the moment is tried again.
    ///
    /// # Errors
    /// What the bus refuses for good.
    pub async fn run(&self, group: ConsumerGroup, shutdown: CancellationToken) -> Result<(), BusError> {
        let group = Arc::new(group);
        let Some(subscription) = self.join(&group, &shutdown).await? else { return Ok(()) };
        tracing::debug!(group = %group.name, bus = self.bus.name(), "joined");
        let progress = Arc::new(Progress::default());
        let queue = Arc::new(KeyedQueue::new(subscription.membership(), group.workers.max(1), shutdown.clone()));
        let stop = shutdown.child_token();
        // What an earlier run of the process has left behind is not so any more.
        self.paused.tell(group.name, None).await;
        let guard = Arc::new(Guard::new(group.name));
        let (resolve, handled) = mpsc::channel(resolver::TOGETHER);
        let resolver = Resolver {
            group: group.name,
            dead_letters: self.dead_letters.clone(),
            queue: Arc::clone(&queue),
            progress: Arc::clone(&progress),
            shutdown: stop.clone(),
        };
        let mut workers = JoinSet::new();
        workers.spawn(resolver.run(handled));
        for _ in 0..group.workers.max(1) {
            let worker = Worker {
                group: Arc::clone(&group),
                dead_letters: self.dead_letters.clone(),
                paused: self.paused.clone(),
                guard: Arc::clone(&guard),
                progress: Arc::clone(&progress),
                shutdown: stop.clone(),
                resolver: resolve.clone(),
            };
            workers.spawn(worker.run(Arc::clone(&queue)));
        }
        drop(resolve);
        let mut reader = Reader {
            subscription,
            queue,
            progress,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            waiting: VecDeque::new(),
            commit_at: None,
        };
        let result = reader.run(&shutdown).await;
        // Where the reader failed, the workers must not go on trying.
        stop.cancel();
        if result.is_ok() {
            reader.finish_begun().await;
        }
        reader.queue.close();
        while workers.join_next().await.is_some() {}
        let committed = reader.commit_all().await;
        reader.subscription.leave().await;
        tracing::debug!(group = %group.name, "left");
        result.and(committed)
    }

    async fn join(
        &self,
        group: &ConsumerGroup,
        shutdown: &CancellationToken,
    ) -> Result<Option<Box<dyn Subscription>>, BusError> {
        let mut wait = BACKOFF.0;
        loop {
            match self.bus.subscribe(group.name, &group.topics).await {
                Ok(subscription) => return Ok(Some(subscription)),
                Err(error) if error.is_transient() => {
                    tracing::warn!(group = %group.name, %error, "can't join; trying again");
                }
                Err(error) => return Err(error),
            }
            if shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return Ok(None);
            }
            wait = (wait * 2).min(BACKOFF.1);
        }
    }
}

/// What the group has taken on and finished.
#[derive(Debug, Default)]
struct Progress {
    lanes: Mutex<BTreeMap<Lane, ContiguousOffsets>>,
    finished: Notify,
}

impl Progress {
    fn lanes(&self) -> MutexGuard<'_, BTreeMap<Lane, ContiguousOffsets>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn started(&self, delivery: &Delivery) {
        self.lanes().entry(delivery.lane).or_default().started(delivery.offset);
    }

    fn finished(&self, delivery: &Delivery) {
        if let Some(lane) = self.lanes().get_mut(&delivery.lane) {
            lane.finished(delivery.offset);
        }
        self.finished.notify_one();
    }

    /// A record is left to the next start, and so is everything behind it in its lane.
    fn given_up(&self, delivery: &Delivery) {
        if let Some(lane) = self.lanes().get_mut(&delivery.lane) {
            lane.give_up_from(delivery.offset);
        }
        self.finished.notify_one();
    }

    /// The lanes of this kind are given up from these offsets on, from the beginning where there is none.
    fn give_up_from(&self, from: &BTreeMap<Lane, u64>, of: impl Fn(&Lane) -> bool) {
        for (lane, offsets) in self.lanes().iter_mut().filter(|(lane, _)| of(lane)) {
            offsets.give_up_from(from.get(lane).copied().unwrap_or_default());
        }
    }

    fn forget(&self, lanes: &[Lane]) {
        self.lanes().retain(|lane, _| !lanes.contains(lane));
    }

    fn to_commit(&self) -> Vec<(Lane, u64)> {
        self.lanes().iter().filter_map(|(lane, offsets)| Some((*lane, offsets.to_commit()?))).collect()
    }

    fn committed(&self, offsets: &[(Lane, u64)]) {
        let mut lanes = self.lanes();
        for (lane, offset) in offsets {
            if let Some(lane) = lanes.get_mut(lane) {
                lane.committed(*offset);
            }
        }
    }

    /// Waits until nothing of the lanes of this kind is being worked on.
    async fn idle(&self, of: impl Fn(&Lane) -> bool) {
        while !self.lanes().iter().all(|(lane, offsets)| !of(lane) || offsets.is_idle()) {
            self.finished.notified().await;
        }
    }
}

struct Reader {
    subscription: Box<dyn Subscription>,
    queue: Arc<KeyedQueue>,
    progress: Arc<Progress>,
    in_flight: Arc<Semaphore>,
    waiting: VecDeque<Delivery>,
    commit_at: Option<Instant>,
}

impl Reader {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), BusError> {
        let progress = Arc::clone(&self.progress);
        let mut wait = BACKOFF.0;
        loop {
            let commit_at = self.commit_at;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = sleep_until(commit_at.unwrap_or_else(Instant::now)), if commit_at.is_some() => {
                    self.commit().await?;
                }
                () = progress.finished.notified(), if commit_at.is_none() => {
                    self.commit_at = Some(Instant::now() + COMMIT_DELAY);
                }
                permit = Arc::clone(&self.in_flight).acquire_owned(), if !self.waiting.is_empty() => {
                    if let Ok(permit) = permit {
                        self.assign(permit);
                    }
                }
                batch = next(self.subscription.as_mut(), self.waiting.is_empty()) => match batch {
                    Ok(Batch::Records(records)) => {
                        wait = BACKOFF.0;
                        for record in &records {
                            self.progress.started(record);
                        }
                        self.waiting.extend(records);
                        self.assign_now();
                    }
                    Ok(Batch::Revoked(lanes)) => self.let_go(&lanes, shutdown).await?,
                    Ok(Batch::Lost(lanes)) => self.drop_lost(&lanes),
                    Err(error) if error.is_transient() => {
                        tracing::warn!(%error, "can't read; trying again");
                        shutdown.run_until_cancelled(tokio::time::sleep(wait)).await;
                        wait = (wait * 2).min(BACKOFF.1);
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }

    fn assign_now(&mut self) {
        while !self.waiting.is_empty()
            && let Ok(permit) = Arc::clone(&self.in_flight).try_acquire_owned()
        {
            self.assign(permit);
        }
    }

    fn assign(&mut self, permit: OwnedSemaphorePermit) {
        if let Some(delivery) = self.waiting.pop_front() {
            self.queue.push((delivery, permit));
        }
    }

    async fn let_go(&mut self, lanes: &[Lane], shutdown: &CancellationToken) -> Result<(), BusError> {
        self.give_up_rest(|lane| lanes.contains(lane));
        // After a shutdown there is less patience with what was begun.
        let idle = self.progress.idle(|lane| lanes.contains(lane));
        if let Some(Err(_)) = shutdown.run_until_cancelled(timeout(REVOKE_PATIENCE, idle)).await {
            tracing::warn!(?lanes, "lanes are taken away with records in hand; another member handles those again");
        }
        self.commit_all().await?;
        self.progress.forget(lanes);
        self.queue.forget(lanes);
        Ok(())
    }

    /// Another member has these lanes already. What a worker is at can't be called back; nothing more of them is begun.
    fn drop_lost(&mut self, lanes: &[Lane]) {
        tracing::warn!(lanes = lanes.len(), "lanes were lost; another member goes on with them");
        self.waiting.retain(|delivery| !lanes.contains(&delivery.lane));
        self.queue.give_up(lanes);
        self.progress.forget(lanes);
        self.queue.forget(lanes);
    }

    /// At the end: finishes what was begun, so that as little as possible is handled again.
    async fn finish_begun(&mut self) {
        self.give_up_rest(|_| true);
        if timeout(END_PATIENCE, self.progress.idle(|_| true)).await.is_err() {
            tracing::debug!("not all that was begun is finished in time");
        }
    }

    /// Gives up what lies behind everything that was begun. What is left can be committed without a gap, and so nothing
    /// that was handled here is handled again.
    fn give_up_rest(&mut self, of: impl Fn(&Lane) -> bool) {
        self.waiting.retain(|delivery| !of(&delivery.lane));
        let from = self.queue.give_up_rest(&of);
        self.progress.give_up_from(&from, &of);
    }

    /// Commits all that is finished, because there is no later. What the bus refuses for the moment is tried again.
    async fn commit_all(&mut self) -> Result<(), BusError> {
        let deadline = Instant::now() + COMMIT_PATIENCE;
        loop {
            self.commit().await?;
            if self.commit_at.is_none() || Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(BACKOFF.0).await;
        }
    }

    async fn commit(&mut self) -> Result<(), BusError> {
        self.commit_at = None;
        let offsets = self.progress.to_commit();
        if offsets.is_empty() {
            return Ok(());
        }
        match self.subscription.commit(&offsets).await {
            Ok(()) => self.progress.committed(&offsets),
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "can't commit offsets; trying again");
                self.commit_at = Some(Instant::now() + BACKOFF.1.min(COMMIT_DELAY * 5));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// What comes next; without room for records, only what becomes of the lanes.
async fn next(subscription: &mut dyn Subscription, has_room: bool) -> Result<Batch, BusError> {
    if has_room { subscription.next().await } else { subscription.moved().await }
}
