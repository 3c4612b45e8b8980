//! One run, from the start of its sandbox to its last event.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use runmesh_events::{AggregateId, Cause, Event, NewEvent, Payload, TraceParent};
use runmesh_proto::event::{ContainerStatus, ExecutionStarted, PodCreated, PodRunning};
use runmesh_store::{Expected, StoreError, Versioned};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    Run, RunSpec, SandboxError,
    lease::RunLease,
    log::{CancelRequest, RunLog},
    output::{self, Tails},
    service::{Active, Inner, LEASE, command_cause, ordinal},
    verdict::{self, Ended},
};

/// The first and the greatest wait before a failed append is tried again. Meanwhile the script waits with its output.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// How long a start waits for the folder of an execution with the same id to be gone.
const FOLDER_PATIENCE: Duration = Duration::from_secs(5);

/// A run that the runner has taken on.
pub(crate) struct Execution {
    pub(crate) runner: Arc<Inner>,
    /// The command to run it, the cause of all its events.
    pub(crate) command: Arc<Event>,
    pub(crate) trace: TraceParent,
    pub(crate) spec: RunSpec,
    pub(crate) lease: Versioned<RunLease>,
    pub(crate) active: Arc<Active>,
    pub(crate) renew_at: Instant,
    /// The newest sequence of the log that this run knows of.
    pub(crate) head: u64,
}

/// Why a run is given up without a last event of its own.
enum GivenUp {
    /// Another runner has recorded its end.
    LeaseLost,
    /// Its events can't be recorded.
    Store(StoreError),
}

impl Execution {
    /// Runs it and records what happens.
    pub(crate) async fn run(mut self) {
        let execution_id = self.spec.execution_id.clone();
        let ended = match self.supervise().await {
            Ok(ended) => ended,
            Err(GivenUp::LeaseLost) => {
                tracing::warn!(execution_id, "the lease of a run was lost; nothing more is recorded");
                self.runner.forget(&execution_id);
                return;
            }
            Err(GivenUp::Store(error)) => {
                tracing::error!(execution_id, %error, "a run was ended because its events can't be recorded");
                let ended = verdict::not_recorded(&execution_id, &error);
                if let Err(error) = self.runner.record_end(self.cause(), &execution_id, ended).await {
                    tracing::error!(execution_id, %error, "neither can its end; the lease tells of it");
                    self.runner.forget(&execution_id);
                    return;
                }
                None
            }
        };
        // The lease goes after the last event: a crash in between finds the event. Only this run's own lease: another
        // may have been given since.
        if let Err(error) = self.runner.leases.delete_if(&execution_id, self.lease.revision).await {
            tracing::warn!(execution_id, %error, "the lease of a finished run stays until it runs out");
        }
        self.runner.forget(&execution_id);
        if let Some(run) = ended {
            run.cleaned().await;
        }
    }

    fn cause(&self) -> Cause<'_> {
        command_cause(&self.command).traced(self.trace)
    }

    /// Returns what may still have to be cleaned up.
    async fn supervise(&mut self) -> Result<Option<Run>, GivenUp> {
        let run = match self.start().await {
            Ok(run) => run,
            Err(error) => {
                let ended = verdict::not_started(&self.spec.execution_id, &error);
                self.append(vec![self.cause().derive(ordinal::TERMINAL, ended)]).await?;
                return Ok(None);
            }
        };
        self.append(self.started(&run)).await?;
        let pod_name = run.started().name.clone();
        let (mut run, tails) = self.stream(run).await?;
        let outcome = run.outcome().await;
        let mut why = self.active.why();
        if was_asked_for(&outcome) && why.is_none() {
            // A shutdown ended it; a cancel may have been recorded that did not reach this runner any more.
            let log =
                RunLog::read(self.runner.store.as_ref(), &self.spec.execution_id).await.map_err(GivenUp::Store)?;
            why = log.cancel.as_deref().map(CancelRequest::of);
        }
        let stopped = was_asked_for(&outcome) && why.is_none();
        let cancel = why.unwrap_or_default();
        let mut events = Ended { spec: &self.spec, pod_name: &pod_name, tails, cancel }.events(outcome);
        if stopped && let Some(last) = events.last_mut() {
            *last = verdict::runner_lost(&self.spec.execution_id, "the node was shut down while the script ran");
        }
        let cause = self.cause();
        let events = (ordinal::POD_ENDED..).zip(events).map(|(ordinal, event)| cause.derive(ordinal, event)).collect();
        self.append(events).await?;
        Ok(Some(run))
    }

    /// Starts the script. An execution of the same id may have been deleted a moment ago; its folder is on its way out.
    async fn start(&self) -> Result<Run, SandboxError> {
        let deadline = Instant::now() + FOLDER_PATIENCE;
        loop {
            match self.runner.sandbox.start(self.spec.clone()).await {
                Err(SandboxError::AlreadyRunning { .. }) if Instant::now() < deadline => sleep(BACKOFF.0).await,
                other => return other,
            }
        }
    }

    fn started(&self, run: &Run) -> Vec<NewEvent> {
        let (execution_id, started) = (self.spec.execution_id.clone(), run.started());
        let status =
            ContainerStatus { name: "script".to_owned(), ready: true, restart_count: 0, state: "running".to_owned() };
        let payloads: [Payload; 3] = [
            PodCreated {
                execution_id: execution_id.clone(),
                pod_name: started.name.clone(),
                namespace: self.runner.sandbox.name().to_owned(),
            }
            .into(),
            PodRunning {
                execution_id: execution_id.clone(),
                pod_name: started.name.clone(),
                container_statuses: vec![status],
            }
            .into(),
            ExecutionStarted {
                execution_id,
                pod_name: started.name.clone(),
                node_name: Some(self.lease.document.node.clone()),
                container_id: started.pid.map(|pid| pid.to_string()),
            }
            .into(),
        ];
        let cause = self.cause();
        (ordinal::STARTED..).zip(payloads).map(|(ordinal, payload)| cause.derive(ordinal, payload)).collect()
    }

    /// Records the output as it comes, until there is no more.
    async fn stream(&mut self, mut run: Run) -> Result<(Run, Tails), GivenUp> {
        let mut tails = Tails::default();
        let canceller = run.canceller();
        let active = Arc::clone(&self.active);
        let mut others = self.runner.store.live().subscribe(&AggregateId::from(self.spec.execution_id.as_str()));
        let (mut asked, mut is_followed) = (false, true);
        loop {
            tokio::select! {
                biased;
                () = active.end.cancelled(), if !asked => {
                    asked = true;
                    canceller.cancel();
                }
                () = sleep_until(self.renew_at) => {
                    self.renew().await?;
                    self.hear().await?;
                    is_followed = true;
                }
                is_there = others.beyond(self.head), if is_followed => {
                    let head = self.head;
                    self.hear().await?;
                    // What can't be found is looked for at the next renewal, not again and again.
                    is_followed = is_there && self.head > head;
                }
                pieces = output::next(&mut run, &mut tails, &self.spec.execution_id) => {
                    let Some(pieces) = pieces else { return Ok((run, tails)) };
                    let cause = self.cause();
                    let events = pieces.into_iter().map(|piece| cause.observe(piece)).collect();
                    self.append(events).await?;
                }
            }
        }
    }

    /// Reads what others have added to the log: the command to end the run reaches one of the runners, and not always
    /// this one.
    async fn hear(&mut self) -> Result<(), GivenUp> {
        match RunLog::read(self.runner.store.as_ref(), &self.spec.execution_id).await {
            Ok(log) if log.terminal || log.request.is_none() => return Err(GivenUp::LeaseLost),
            Ok(log) => {
                self.head = self.head.max(log.head);
                if let Some(cancel) = &log.cancel {
                    self.active.cancel(CancelRequest::of(cancel));
                }
            }
            Err(error) => {
                tracing::warn!(execution_id = self.spec.execution_id, %error, "can't read the log of a run; later again");
            }
        }
        Ok(())
    }

    /// Appends events behind those that were appended before, again and again while the store is not available. Others may
    /// add to the log too, a request to end the run above all; but nothing is added behind the end of the execution.
    async fn append(&mut self, events: Vec<NewEvent>) -> Result<(), GivenUp> {
        let aggregate = AggregateId::from(self.spec.execution_id.as_str());
        let mut wait = BACKOFF.0;
        loop {
            match self.runner.store.append(&aggregate, Expected::Sequence(self.head), events.clone()).await {
                Ok(appended) => {
                    self.head = appended.last_sequence().max(self.head);
                    return Ok(());
                }
                Err(StoreError::Conflict { actual, .. }) => {
                    let log = RunLog::read(self.runner.store.as_ref(), aggregate.as_str()).await;
                    match log {
                        Ok(log) if log.terminal || log.request.is_none() => return Err(GivenUp::LeaseLost),
                        Ok(_) => {
                            self.head = actual;
                            continue;
                        }
                        Err(error) => {
                            tracing::warn!(execution_id = %aggregate, %error, "can't read the log of a run; trying again")
                        }
                    }
                }
                // The end of this execution was recorded by another runner.
                Err(StoreError::EventIdInUse(_)) => return Err(GivenUp::LeaseLost),
                Err(error) if error.is_transient() => {
                    tracing::warn!(execution_id = %aggregate, %error, "can't record events of a run; trying again");
                }
                Err(error) => return Err(GivenUp::Store(error)),
            }
            sleep(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
            if Instant::now() >= self.renew_at {
                self.renew().await?;
            }
        }
    }

    /// Gives a sign of life.
    async fn renew(&mut self) -> Result<(), GivenUp> {
        self.renew_at = Instant::now() + LEASE / 3;
        self.lease.document.until = SystemTime::now() + LEASE;
        match self.runner.leases.update(&self.lease.document, self.lease.revision).await {
            Ok(revision) => self.lease.revision = revision,
            // The lease was claimed as run out: this node slept, or its clock was set.
            Err(StoreError::RevisionMismatch { .. }) => self.adopt().await?,
            Err(error) => {
                tracing::warn!(execution_id = self.spec.execution_id, %error, "can't renew the lease of a run; trying again");
                self.renew_at = Instant::now() + LEASE / 15;
            }
        }
        Ok(())
    }

    /// Takes up the lease as it is now, if it is this node's still. If its claimer goes on to record the end, the next
    /// append finds that.
    async fn adopt(&mut self) -> Result<(), GivenUp> {
        match self.runner.leases.get(&self.spec.execution_id).await {
            Ok(Some(found)) if found.document.node == self.lease.document.node => {
                self.lease.revision = found.revision;
                self.renew_at = Instant::now();
                Ok(())
            }
            Ok(_) => Err(GivenUp::LeaseLost),
            Err(error) => {
                tracing::warn!(execution_id = self.spec.execution_id, %error, "can't read the lease of a run; trying again");
                self.renew_at = Instant::now() + LEASE / 15;
                Ok(())
            }
        }
    }
}

/// Whether the run ended because it was told to.
fn was_asked_for(outcome: &crate::Outcome) -> bool {
    matches!(outcome.ending, crate::Ending::Cancelled { .. })
}
