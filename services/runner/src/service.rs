//! The runner: takes commands to run and to end executions, and records what happens.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use runmesh_bus::{ConsumerGroup, Handler, HandlerError, Incoming};
use runmesh_events::{AggregateId, Cause, Event, EventType, GroupName, Payload, lifecycle};
use runmesh_store::{Behind, DocumentStore, Documents, EventStore, Expected, Members, StoreError, Versioned};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Sandbox,
    execute::{Execution, begin},
    lease::RunLease,
    log::{self, CancelRequest, RunLog},
    plan,
    presence::Offer,
    receipt::receipt_to_proto,
    toolchains::Toolchains,
    verdict,
};

/// What the events of all runners are derived for, so that whichever records the end of an execution gives it the same
/// id. Each runner reads as a group of its own: see [`group_of`].
pub const GROUP: GroupName = GroupName::new("runner");

/// The group of the runner of this name. It sees every command, and follows those that name it.
pub fn group_of(runner: &str) -> GroupName {
    GROUP.of_member(runner)
}

/// What the group reads.
pub const TOPICS: [EventType; 2] = [EventType::CreatePodCommand, EventType::DeletePodCommand];

/// How long a runner is believed to be alive without a sign of life.
pub(crate) const LEASE: Duration = Duration::from_secs(15);

/// How long a command waits for an earlier attempt at the same runner to be quite over.
const EARLIER_PATIENCE: Duration = Duration::from_secs(5);

/// How often it looks.
const LOOK: Duration = Duration::from_millis(20);

/// How long the end of a run may take once it is asked for at a shutdown.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// The ordinals of the events that the runner derives from the command to run. The last event of an execution has the
/// same id whoever records it, so there is only one.
pub(crate) mod ordinal {
    // 0 was that of pod_created.
    pub(crate) const POD_RUNNING: u32 = 1;
    pub(crate) const STARTED: u32 = 2;
    pub(crate) const LOST: u32 = 3;
    pub(crate) const POD_ENDED: u32 = 100;
    pub(crate) const TERMINAL: u32 = 101;
    /// To be added to a case's number.
    pub(crate) const CASES: u32 = 1_000;
}

/// The runner. Clones share everything.
#[derive(Clone)]
pub struct Runner {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) node: String,
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) leases: Documents<RunLease>,
    pub(crate) sandbox: Arc<dyn Sandbox>,
    pub(crate) toolchains: Toolchains,
    pub(crate) members: Members,
    pub(crate) offer: Offer,
    active: Mutex<HashMap<String, Arc<Active>>>,
    tasks: TaskTracker,
}

/// A run that this runner has in hand.
#[derive(Debug, Default)]
pub(crate) struct Active {
    /// The id of the command to run it.
    command: String,
    attempt: u32,
    /// Cancelled when the run is to be ended.
    pub(crate) end: CancellationToken,
    why: Mutex<Option<CancelRequest>>,
}

impl Active {
    pub(crate) fn cancel(&self, request: CancelRequest) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(request);
        self.end.cancel();
    }

    /// Why it is to be ended. `None`: because the runner shuts down.
    pub(crate) fn why(&self) -> Option<CancelRequest> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Runner {
    /// The runner of the node with this name, which has to be the same after a restart. It offers this as one of these
    /// members.
    ///
    /// # Errors
    /// When the collection of leases can't be made.
    pub async fn build(
        node: impl Into<String>,
        (members, offer): (Members, Offer),
        store: Arc<dyn EventStore>,
        documents: Arc<dyn DocumentStore>,
        sandbox: Arc<dyn Sandbox>,
        toolchains: Toolchains,
    ) -> Result<Self, StoreError> {
        let leases = Documents::open(documents).await?;
        let (active, tasks) = (Mutex::default(), TaskTracker::new());
        let node = node.into();
        let inner = Inner { node, store, leases, sandbox, toolchains, members, offer, active, tasks };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The runner's consumer group.
    pub fn consumer_group(&self) -> ConsumerGroup {
        ConsumerGroup::new(group_of(&self.inner.node), &TOPICS, Arc::new(self.clone()))
    }

    /// Ends what this node had in hand when it was last stopped. To be called before the group is run.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn recover(&self) -> Result<(), StoreError> {
        match self.inner.sandbox.recover().await {
            Ok(found) if found.processes + found.folders > 0 => {
                tracing::warn!(
                    processes = found.processes,
                    folders = found.folders,
                    "removed leftovers of earlier runs"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "leftovers of earlier runs could not be looked for"),
        }
        loop {
            // Each turn removes what it found.
            let page = self.inner.own_leases(None).await?;
            if page.documents.is_empty() {
                return Ok(());
            }
            for lease in page.documents {
                self.inner.bury(lease, "the node was stopped while the script ran").await?;
            }
        }
    }

    /// Ends the executions of runners that gave no sign of life for too long, until `shutdown`.
    pub async fn watch_leases(&self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(sleep(LEASE / 3)).await.is_some() {
            match self.inner.leases.claim_due(SystemTime::now(), LEASE, 100).await {
                Ok(claims) => {
                    for claim in claims {
                        // After a sleep of the machine, or a step of its clock, runs in hand are due too.
                        let own = claim.document.node == self.inner.node;
                        if own && self.inner.active().contains_key(&claim.document.execution_id) {
                            continue;
                        }
                        let lease = Versioned { document: claim.document, revision: claim.token };
                        if let Err(error) = self.inner.bury(lease, "the runner gave no sign of life").await {
                            tracing::warn!(%error, "can't end the execution of a lost runner; trying again");
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "can't look for lost runners; trying again"),
            }
        }
    }

    /// The number of runs in hand.
    pub fn active(&self) -> usize {
        self.inner.active().len()
    }

    /// Waits until the runs in hand have ended, at most until `patience` is over; then ends them. To be called after the
    /// group has stopped.
    pub async fn drain(&self, patience: Duration) {
        self.inner.tasks.close();
        if timeout(patience, self.inner.tasks.wait()).await.is_ok() {
            return;
        }
        let left: Vec<Arc<Active>> = self.inner.active().values().cloned().collect();
        tracing::warn!(runs = left.len(), "ending the runs that are left");
        for active in left {
            active.end.cancel();
        }
        if timeout(KILL_PATIENCE, self.inner.tasks.wait()).await.is_err() {
            tracing::error!(runs = self.active(), "runs did not end; the next start records them as lost");
        }
    }
}

#[async_trait]
impl Handler for Runner {
    async fn handle(&self, incoming: &Incoming) -> Result<(), HandlerError> {
        match &incoming.event.payload {
            // Without a name, as in old logs, it is for whichever runner is the first to record that it has begun.
            Some(Payload::CreatePodCommand(command))
                if command.runner.is_empty() || command.runner == self.inner.node =>
            {
                self.inner.run(incoming, &command.execution_id, log::attempt_of(command)).await?;
            }
            Some(Payload::DeletePodCommand(command)) => self.inner.end(incoming, &command.execution_id).await?,
            _ => {}
        }
        Ok(())
    }
}

impl Inner {
    fn active(&self) -> MutexGuard<'_, HashMap<String, Arc<Active>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an execution on. Returns as soon as it is: the run goes on by itself.
    async fn run(self: &Arc<Self>, incoming: &Incoming, execution_id: &str, attempt: u32) -> Result<(), StoreError> {
        if self.has_in_hand(execution_id, &incoming.event.event_id).await? {
            return Ok(());
        }
        // Before the log is read, so that nothing falls between the two.
        let others = self.store.live().subscribe(&AggregateId::from(execution_id));
        let log = RunLog::read(self.store.as_ref(), execution_id).await?;
        // One that was lost was given up, and one that has begun has its runner: what is late must not begin it again.
        let open = !log.terminal && log.lost < attempt && log.attempt == attempt && log.begun_by.is_none();
        let Some(request) = log.request.filter(|_| open) else { return Ok(()) };
        if let Some(cancel) = &log.cancel {
            let ended = verdict::cancelled(execution_id, CancelRequest::of(cancel), false);
            let cause = command_cause(&incoming.event).traced(incoming.trace);
            return self.record_end(cause, execution_id, ended).await;
        }
        let lease = RunLease {
            execution_id: execution_id.to_owned(),
            attempt,
            node: self.node.clone(),
            until: SystemTime::now() + LEASE,
        };
        // Recorded before anything of it runs. Where the attempt was given up meanwhile, or another runner has begun, that is
        // refused: the log has moved on from where this runner was told to run it.
        let created = begin::created(&incoming.event, incoming.trace, &lease, self.sandbox.name());
        let begun_by = created.event_id.to_string();
        let aggregate = AggregateId::from(execution_id);
        let ahead = self.leases.ahead(&lease);
        let behind = self.store.append_behind(ahead, &aggregate, Expected::Sequence(log.head), vec![created.clone()]);
        let (revision, head, to_begin) = match behind.await {
            Ok(Behind { revision, appended: Ok(appended) }) => (revision, appended.last_sequence(), None),
            // Tried again where the run is supervised.
            Ok(Behind { revision, appended: Err(_) }) => (revision, log.head, Some(created)),
            Err(StoreError::RevisionMismatch { .. }) => {
                let Some(revision) = self.take_over(&lease, log.lost).await? else { return Ok(()) };
                (revision, log.head, Some(created))
            }
            Err(error) => return Err(error),
        };
        let active = Arc::new(Active { command: incoming.event.event_id.clone(), attempt, ..Active::default() });
        self.active().insert(execution_id.to_owned(), Arc::clone(&active));
        self.gauge();
        let spec = plan::run_spec(&request, lease.attempt);
        let execution = Execution {
            runner: Arc::clone(self),
            command: Arc::clone(&incoming.event),
            trace: incoming.trace,
            receipt: receipt_to_proto(&self.sandbox.receipt(&spec.limits)),
            spec,
            request,
            lease: Versioned { document: lease, revision },
            active,
            renew_at: Instant::now() + LEASE / 3,
            head,
            others,
            is_followed: true,
            begun_by,
            to_begin,
            has_sandbox: false,
            running: None,
        };
        self.tasks.spawn(execution.run());
        Ok(())
    }

    /// Whether this command is followed already: it was delivered twice. Waits for the end of what an earlier one began.
    async fn has_in_hand(&self, execution_id: &str, command: &str) -> Result<bool, StoreError> {
        let deadline = Instant::now() + EARLIER_PATIENCE;
        loop {
            match self.active().get(execution_id) {
                None => return Ok(false),
                Some(active) if active.command == command => return Ok(true),
                Some(_) if Instant::now() < deadline => {}
                // The execution was deleted and made again, or its last attempt was given up.
                Some(_) => {
                    let words = format!("an earlier run of execution {execution_id} is not quite over");
                    return Err(StoreError::Unavailable(words));
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Ends a run.
    async fn end(&self, incoming: &Incoming, execution_id: &str) -> Result<(), StoreError> {
        let request = CancelRequest::of(&incoming.event);
        let active = self.active().get(execution_id).cloned();
        if let Some(active) = active {
            active.cancel(request);
        }
        // Otherwise the command to run it comes later and finds this one in the log, or it has ended, or another runner
        // has it and reads the log.
        Ok(())
    }

    /// The executions in hand, and the attempts at them.
    pub(crate) fn attempts(&self) -> Vec<(String, u32)> {
        self.active().iter().map(|(execution_id, active)| (execution_id.clone(), active.attempt)).collect()
    }

    /// The attempt at an execution that is in hand.
    pub(crate) fn attempt_in_hand(&self, execution_id: &str) -> Option<u32> {
        self.active().get(execution_id).map(|active| active.attempt)
    }

    /// Ends what runs of an execution, if it is in hand.
    pub(crate) fn abandon(&self, execution_id: &str) -> bool {
        self.active().get(execution_id).inspect(|active| active.end.cancel()).is_some()
    }

    pub(crate) fn forget(&self, execution_id: &str) {
        self.active().remove(execution_id);
        self.gauge();
    }

    fn gauge(&self) {
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        metrics::gauge!("runner_active_runs").set(self.active().len() as f64);
    }

    /// Appends the last event of an execution, unless it has one: a timer may have ended it too.
    pub(crate) async fn record_end(
        &self,
        cause: Cause<'_>,
        execution_id: &str,
        ended: Payload,
    ) -> Result<(), StoreError> {
        let event = cause.derive(ordinal::TERMINAL, ended);
        let aggregate = AggregateId::from(execution_id);
        loop {
            let log = RunLog::read(self.store.as_ref(), execution_id).await?;
            if log.terminal {
                return Ok(());
            }
            match self.store.append(&aggregate, Expected::Sequence(log.head), vec![event.clone()]).await {
                Err(StoreError::Conflict { .. }) => {}
                other => return other.map(drop),
            }
        }
    }

    /// Ends the execution of a runner that is gone, or the attempt.
    pub(crate) async fn bury(&self, lease: Versioned<RunLease>, words: &str) -> Result<(), StoreError> {
        let (execution_id, attempt) = (&lease.document.execution_id, lease.document.attempt);
        loop {
            let log = RunLog::read(self.store.as_ref(), execution_id).await?;
            let open = !log.terminal && log.lost < attempt && log.attempt == attempt;
            let Some(command) = log.command.as_deref().filter(|_| open) else { break };
            tracing::warn!(execution_id, node = lease.document.node, "the runner of an execution was lost");
            let number = i32::try_from(attempt).unwrap_or(i32::MAX);
            let may_retry = |request| lifecycle::may_retry(request, log.begun);
            // What has not begun is none of a script's runs.
            let runs_again = log.begun_by.is_none() || log.request.as_ref().is_some_and(may_retry);
            if log.cancel.is_none() && runs_again {
                let lost = lifecycle::attempt_lost(execution_id, number, "runner lost", words);
                let event = command_cause(command).derive(ordinal::LOST, lost);
                let aggregate = AggregateId::from(execution_id.as_str());
                match self.store.append(&aggregate, Expected::Sequence(log.head), vec![event]).await {
                    // It may have ended just now, or been cancelled.
                    Err(StoreError::Conflict { .. }) => continue,
                    other => drop(other?),
                }
                break;
            }
            let lost = match log.cancel.as_deref() {
                Some(cancel) => verdict::cancelled(execution_id, CancelRequest::of(cancel), true),
                None => verdict::runner_lost(execution_id, words),
            };
            let cases = log.request.map_or(0, |request| request.cases.len());
            let lost = verdict::with_counts(lost, log::counts(self.store.as_ref(), execution_id, cases).await?);
            self.record_end(command_cause(command), execution_id, lost).await?;
            break;
        }
        match self.leases.delete_if(execution_id, lease.revision).await {
            // The runner is alive after all; its next event is refused.
            Err(StoreError::RevisionMismatch { .. }) => Ok(()),
            other => other.map(drop),
        }
    }
}

/// The command to run as the cause of events.
pub(crate) fn command_cause(command: &Event) -> Cause<'_> {
    Cause::new(command, GROUP)
}
