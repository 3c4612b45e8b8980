//! The gRPC service about the queue.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use futures::{Stream, stream};
use runmesh_events::{to_duration, to_timestamp};
use runmesh_proto::{
    event::QueuePriority,
    queue::{
        DrainRunnerRequest, DrainRunnerResponse, GetQueuePositionRequest, GetQueuePositionResponse,
        GetQueueStatsRequest, GetQueueStatsResponse, ListQueueRequest, ListQueueResponse, PauseQueueRequest,
        PauseQueueResponse, QueueConstraint, QueueEntry, QueuePriorityCount, QueueStats, QueueUser, ResumeQueueRequest,
        ResumeQueueResponse, Runner, UndrainRunnerRequest, UndrainRunnerResponse, UpdatePriorityRequest,
        UpdatePriorityResponse, WatchQueueEnd, WatchQueueRequest, WatchQueueResponse,
        queue_service_server::{self, QueueServiceServer},
        watch_queue_response::Item,
    },
};
use runmesh_rpc::{Violation, page_token, status};
use runmesh_store::{DocumentStore, EventStore, StoreError};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    Scheduler, SchedulerConfig, SchedulerError,
    claim::{Claim, Switches},
    handlers::State,
    queue::{Constraint, Job, Queue},
};

/// How long a client should wait before it tries again what may succeed later.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How long what was read of another process's queue is told.
const FRESH: Duration = Duration::from_secs(1);
/// How often a watched queue is looked at.
const LOOK: Duration = Duration::from_millis(250);
const DEFAULT_PAGE: usize = 100;
/// How many users stats tell of.
const TOLD_USERS: usize = 100;
/// The greatest number of characters of a reason.
const MAX_REASON: usize = 256;

/// The service. Where the store is shared one process schedules; the others tell what the documents say. Clones share
/// everything.
#[derive(Clone)]
pub struct QueueService {
    inner: Arc<Inner>,
}

struct Inner {
    config: SchedulerConfig,
    store: Arc<dyn EventStore>,
    documents: Arc<dyn DocumentStore>,
    shutdown: CancellationToken,
    /// The scheduler of this process, while it works.
    working: Mutex<Option<Scheduler>>,
    /// One that only looks, and when it did.
    looking: tokio::sync::Mutex<Option<(Instant, Scheduler)>>,
}

impl QueueService {
    /// The service over these stores. Its streams end with `shutdown`.
    pub fn new(
        config: SchedulerConfig,
        store: Arc<dyn EventStore>,
        documents: Arc<dyn DocumentStore>,
        shutdown: CancellationToken,
    ) -> Self {
        let (working, looking) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { inner: Arc::new(Inner { config, store, documents, shutdown, working, looking }) }
    }

    /// The scheduler of this process, as long as it works.
    pub fn set_working(&self, scheduler: Option<Scheduler>) {
        *self.inner.working.lock().unwrap_or_else(PoisonError::into_inner) = scheduler;
    }

    /// The service as a gRPC server takes it.
    pub fn into_server(self) -> QueueServiceServer<Self> {
        QueueServiceServer::new(self)
    }

    fn working(&self) -> Option<Scheduler> {
        self.inner.working.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn scheduler(&self) -> Result<Scheduler, Status> {
        if let Some(working) = self.working() {
            return Ok(working);
        }
        let mut looking = self.inner.looking.lock().await;
        if let Some((at, scheduler)) = &*looking
            && at.elapsed() < FRESH
        {
            return Ok(scheduler.clone());
        }
        let (store, documents) = (Arc::clone(&self.inner.store), Arc::clone(&self.inner.documents));
        let built = Scheduler::build(&self.inner.config, store, documents).await;
        let scheduler = built.map_err(|SchedulerError::Store(error)| refusal(error))?;
        scheduler.look().await.map_err(refusal)?;
        *looking = Some((Instant::now(), scheduler.clone()));
        Ok(scheduler)
    }

    /// Changes the switches, and has the scheduler of this process see it at once.
    async fn switch(&self, change: impl Fn(&mut Switches)) -> Result<(), Status> {
        let scheduler = self.scheduler().await?;
        let changed = |switches: Option<&Switches>| {
            let mut switches = switches.cloned().unwrap_or_default();
            change(&mut switches);
            Some(switches)
        };
        scheduler.inner.switches.change(Switches::ID, changed).await.map_err(refusal)?;
        self.refresh().await
    }

    async fn refresh(&self) -> Result<(), Status> {
        if let Some(scheduler) = self.working() {
            scheduler.inner.refresh().await.map_err(refusal)?;
            scheduler.inner.dispatch().await.map_err(refusal)?;
        }
        *self.inner.looking.lock().await = None;
        Ok(())
    }

    async fn drain(&self, runner: &str, draining: bool) -> Result<(), Status> {
        if runner.is_empty() {
            return Err(status::invalid_argument("runner", "is missing"));
        }
        let scheduler = self.scheduler().await?;
        if !scheduler.inner.members.set_draining(runner, draining).await.map_err(refusal)? {
            return Err(status::not_found("runner", runner));
        }
        self.refresh().await
    }

    /// Where an execution stands, if it waits.
    async fn entry(&self, execution_id: &str) -> Result<QueueEntry, Status> {
        let id = runmesh_rpc::execution_id(execution_id).map_err(refused)?;
        let scheduler = self.scheduler().await?;
        let found = {
            let state = scheduler.inner.state();
            state.queue.job(execution_id).and_then(|job| entry(&state.queue, job))
        };
        match found {
            Some(entry) => Ok(entry),
            None if self.inner.store.head(&id.aggregate()).await.map_err(refusal)? == 0 => {
                Err(status::not_found("execution", execution_id))
            }
            None => {
                let words = format!("execution {execution_id} does not wait for a slot");
                Err(status::failed_precondition("NOT_QUEUED", words))
            }
        }
    }
}

fn entry(queue: &Queue, job: &Job) -> Option<QueueEntry> {
    let standing = queue.standing(&job.execution_id, SystemTime::now())?;
    let constraint = match standing.constraint {
        Constraint::None => QueueConstraint::None,
        Constraint::Paused => QueueConstraint::Paused,
        Constraint::NoRunner => QueueConstraint::NoRunner,
        Constraint::Draining => QueueConstraint::Draining,
        Constraint::TooLarge => QueueConstraint::TooLarge,
        Constraint::UserLimit => QueueConstraint::UserLimit,
        Constraint::Slots => QueueConstraint::Slots,
    };
    Some(QueueEntry {
        execution_id: job.execution_id.clone(),
        user_id: job.user_id.clone(),
        priority: job.priority as i32,
        waiting_since: Some(to_timestamp(job.since)),
        position: standing.place.and_then(|place| i32::try_from(place).ok()),
        constraint: constraint as i32,
        reason: standing.words,
        estimated_wait: standing.estimate.map(to_duration),
    })
}

fn stats(state: &State) -> QueueStats {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let (queue, switches) = (&state.queue, &state.switches);
    let mut users: HashMap<&str, QueueUser> = HashMap::new();
    let mut priorities: HashMap<i32, i64> = HashMap::new();
    for job in queue.waiting() {
        users.entry(job.user_id.as_str()).or_default().waiting += 1;
        *priorities.entry(job.priority as i32).or_default() += 1;
    }
    for job in queue.granted() {
        users.entry(job.user_id.as_str()).or_default().running += 1;
    }
    let mut users: Vec<QueueUser> =
        users.into_iter().map(|(user_id, user)| QueueUser { user_id: user_id.to_owned(), ..user }).collect();
    users.sort_by(|a, b| (b.waiting + b.running, &a.user_id).cmp(&(a.waiting + a.running, &b.user_id)));
    users.truncate(TOLD_USERS);
    let mut priorities: Vec<_> =
        priorities.into_iter().map(|(priority, waiting)| QueuePriorityCount { priority, waiting }).collect();
    priorities.sort_by_key(|count| count.priority);
    QueueStats {
        waiting: number(queue.depth()),
        running: number(queue.in_use()),
        slots: number(queue.slots()),
        paused: queue.is_paused(),
        pause_reason: switches.reason.clone(),
        oldest_waiting_since: queue.waiting().map(|job| job.since).min().map(to_timestamp),
        users,
        priorities,
        runners: state
            .runners
            .iter()
            .map(|(member, runner)| Runner {
                runner: member.name.clone(),
                draining: member.draining,
                alive_until: Some(to_timestamp(member.until)),
                slots_in_use: i32::try_from(queue.in_use_on(&member.name)).unwrap_or(i32::MAX),
                ..runner.clone()
            })
            .collect(),
    }
}

/// The page after a token, of those who wait, the longest first.
fn page(queue: &Queue, request: &ListQueueRequest) -> Result<ListQueueResponse, Status> {
    let size = page_token::size(request.page_size, DEFAULT_PAGE).map_err(refused)?;
    let filters = request.user_id.as_bytes();
    let after = page_token::decode(&request.page_token, filters).and_then(|after| match after {
        Some(after) => parse_place(&after).map(Some),
        None => Some(None),
    });
    let after = after.ok_or_else(|| status::invalid_argument("page_token", "is not one of these"))?;
    let micros = |job: &Job| job.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    let mut jobs: Vec<(u128, &Job)> = queue
        .waiting()
        .filter(|job| request.user_id.is_empty() || job.user_id == request.user_id)
        .map(|job| (micros(job), job))
        .filter(|(since, job)| {
            after.as_ref().is_none_or(|(at, id)| (*since, job.execution_id.as_str()) > (*at, id.as_str()))
        })
        .collect();
    jobs.sort_by(|a, b| (a.0, &a.1.execution_id).cmp(&(b.0, &b.1.execution_id)));
    let more = jobs.len() > size;
    jobs.truncate(size);
    let next = jobs.last().filter(|_| more).map(|(since, job)| format!("{since} {}", job.execution_id));
    Ok(ListQueueResponse {
        entries: jobs.into_iter().filter_map(|(_, job)| entry(queue, job)).collect(),
        next_page_token: page_token::encode(next, filters),
    })
}

/// Where a page ended: since when its last one waits, and its id.
fn parse_place(text: &str) -> Option<(u128, String)> {
    let (since, id) = text.split_once(' ')?;
    Some((since.parse().ok()?, id.to_owned()))
}

type Watched = Pin<Box<dyn Stream<Item = Result<WatchQueueResponse, Status>> + Send>>;

#[tonic::async_trait]
impl queue_service_server::QueueService for QueueService {
    async fn get_queue_position(
        &self,
        request: Request<GetQueuePositionRequest>,
    ) -> Result<Response<GetQueuePositionResponse>, Status> {
        let entry = self.entry(&request.get_ref().execution_id).await?;
        Ok(Response::new(GetQueuePositionResponse { entry: Some(entry) }))
    }

    async fn list_queue(&self, request: Request<ListQueueRequest>) -> Result<Response<ListQueueResponse>, Status> {
        let scheduler = self.scheduler().await?;
        let listed = page(&scheduler.inner.state().queue, request.get_ref());
        listed.map(Response::new)
    }

    async fn get_queue_stats(
        &self,
        _: Request<GetQueueStatsRequest>,
    ) -> Result<Response<GetQueueStatsResponse>, Status> {
        let scheduler = self.scheduler().await?;
        let stats = stats(&scheduler.inner.state());
        Ok(Response::new(GetQueueStatsResponse { stats: Some(stats) }))
    }

    type WatchQueueStream = Watched;

    async fn watch_queue(&self, _: Request<WatchQueueRequest>) -> Result<Response<Watched>, Status> {
        let service = self.clone();
        let changes = stream::unfold(Some(None::<QueueStats>), move |last| {
            let service = service.clone();
            async move { service.next_change(last?).await }
        });
        Ok(Response::new(Box::pin(changes)))
    }

    async fn update_priority(
        &self,
        request: Request<UpdatePriorityRequest>,
    ) -> Result<Response<UpdatePriorityResponse>, Status> {
        let UpdatePriorityRequest { execution_id, priority } = request.get_ref();
        let priority = match QueuePriority::try_from(*priority) {
            Ok(QueuePriority::Unspecified) => return Err(status::invalid_argument("priority", "is missing")),
            Ok(priority) => priority,
            Err(_) => return Err(status::invalid_argument("priority", "is not a priority that is known here")),
        };
        self.entry(execution_id).await?;
        let scheduler = self.scheduler().await?;
        // One whose claim is not durable yet, or not any more, is about to change anyway.
        let changed = |claim: Option<&Claim>| Some(Claim { priority: priority as i32, ..claim?.clone() });
        scheduler.inner.claims.change(execution_id, changed).await.map_err(refusal)?;
        scheduler.inner.state().queue.set_priority(execution_id, priority, SystemTime::now());
        if self.working().is_none() {
            self.switch(|switches| switches.changes += 1).await?;
        }
        Ok(Response::new(UpdatePriorityResponse { entry: Some(self.entry(execution_id).await?) }))
    }

    async fn pause_queue(&self, request: Request<PauseQueueRequest>) -> Result<Response<PauseQueueResponse>, Status> {
        let reason = &request.get_ref().reason;
        if reason.chars().count() > MAX_REASON {
            return Err(status::invalid_argument("reason", format!("has more than {MAX_REASON} characters")));
        }
        self.switch(|switches| (switches.paused, switches.reason) = (true, reason.clone())).await?;
        Ok(Response::new(PauseQueueResponse {}))
    }

    async fn resume_queue(&self, _: Request<ResumeQueueRequest>) -> Result<Response<ResumeQueueResponse>, Status> {
        self.switch(|switches| (switches.paused, switches.reason) = (false, String::new())).await?;
        Ok(Response::new(ResumeQueueResponse {}))
    }

    async fn drain_runner(
        &self,
        request: Request<DrainRunnerRequest>,
    ) -> Result<Response<DrainRunnerResponse>, Status> {
        self.drain(&request.get_ref().runner, true).await?;
        Ok(Response::new(DrainRunnerResponse {}))
    }

    async fn undrain_runner(
        &self,
        request: Request<UndrainRunnerRequest>,
    ) -> Result<Response<UndrainRunnerResponse>, Status> {
        self.drain(&request.get_ref().runner, false).await?;
        Ok(Response::new(UndrainRunnerResponse {}))
    }
}

impl QueueService {
    /// Waits until the numbers are others than these, or the service is shut down.
    async fn next_change(
        &self,
        last: Option<QueueStats>,
    ) -> Option<(Result<WatchQueueResponse, Status>, Option<Option<QueueStats>>)> {
        let cursor =
            || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros().to_string();
        let mut pause = if last.is_none() { Duration::ZERO } else { LOOK };
        loop {
            if self.inner.shutdown.run_until_cancelled(sleep(pause)).await.is_none() {
                let end = WatchQueueEnd { reason: "the node is being shut down".to_owned() };
                return Some((Ok(WatchQueueResponse { cursor: cursor(), item: Some(Item::End(end)) }), None));
            }
            pause = LOOK;
            let now = match self.scheduler().await {
                Ok(scheduler) => stats(&scheduler.inner.state()),
                Err(status) => return Some((Err(status), None)),
            };
            if last.as_ref().is_none_or(|last| differ(last, &now)) {
                let item = Some(Item::Stats(now.clone()));
                return Some((Ok(WatchQueueResponse { cursor: cursor(), item }), Some(Some(now))));
            }
        }
    }
}

/// Whether there is news. That a runner is alive still is none.
fn differ(a: &QueueStats, b: &QueueStats) -> bool {
    let plain = |stats: &QueueStats| {
        let mut stats = stats.clone();
        stats.runners.iter_mut().for_each(|runner| runner.alive_until = None);
        stats
    };
    plain(a) != plain(b)
}

fn refusal(error: StoreError) -> Status {
    if error.is_transient() { status::unavailable(error.to_string(), RETRY_AFTER) } else { status::internal(&error) }
}

fn refused(violation: Violation) -> Status {
    status::invalid_arguments(vec![violation])
}
