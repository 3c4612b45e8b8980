//! One run, from the start of its sandbox to its last event.

use std::{sync::Arc, time::Duration};

use runmesh_events::{AggregateId, Cause, Event, NewEvent, Payload, TraceParent, lifecycle};
use runmesh_proto::event::{Enforcement, ExecutionErrorType, ExecutionRequested, ExecutionStep};
use runmesh_store::{Expected, StoreError, Subscription, Versioned};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    Canceller, Outcome, Run, RunSpec, Sandbox, SandboxError,
    compile::Compiled,
    lease::RunLease,
    log::{CancelRequest, RunLog},
    output::{self, Tails},
    receipt::receipt_to_proto,
    service::{Active, Inner, command_cause, ordinal},
    verdict::{self, Ended},
};

pub(crate) mod begin;

/// The first and the greatest wait before a failed append is tried again. Meanwhile the script waits with its output.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// How long a start waits for the folder of an execution with the same id to be gone.
const FOLDER_PATIENCE: Duration = Duration::from_secs(5);

/// How many sandboxes are tried for one script.
const SETUPS: u32 = 4;

/// A run that the runner has taken on.
pub(crate) struct Execution {
    pub(crate) runner: Arc<Inner>,
    /// The command to run it, the cause of all its events.
    pub(crate) command: Arc<Event>,
    pub(crate) trace: TraceParent,
    pub(crate) request: ExecutionRequested,
    /// The run of its program; with what a compiler made, once it has.
    pub(crate) spec: RunSpec,
    pub(crate) lease: Versioned<RunLease>,
    pub(crate) active: Arc<Active>,
    pub(crate) renew_at: Instant,
    /// The newest sequence of the log that this run knows of.
    pub(crate) head: u64,
    /// Tells what others add to the log. The command to end the run reaches one of the runners, and not always this one.
    pub(crate) others: Subscription,
    /// Whether the log is looked at as soon as there is more of it.
    pub(crate) is_followed: bool,
    /// The id of the event by which this attempt begins here.
    pub(crate) begun_by: String,
    /// That event, where it is not recorded yet.
    pub(crate) to_begin: Option<NewEvent>,
    /// Whether the log has it that there is a sandbox.
    pub(crate) has_sandbox: bool,
    /// What holds of the limits of `spec`.
    pub(crate) receipt: Vec<Enforcement>,
    /// Ends what runs, once this execution is to be ended.
    pub(crate) running: Option<Canceller>,
}

/// The end of an execution that is not the end of a run.
pub(crate) struct Last {
    pub(crate) event: Payload,
    /// Nobody asked for it, the node is being shut down.
    pub(crate) shutdown: bool,
}

/// Who asked for the end of a run that was told to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) cancel: CancelRequest,
    /// Nobody: the node is being shut down.
    pub(crate) shutdown: bool,
}

/// Why a run is given up without a last event of its own.
pub(crate) enum GivenUp {
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
                // Otherwise it is in the way of the next attempt until it runs out.
                self.give_lease_back(&execution_id).await;
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
        // The lease goes after the last event: a crash in between finds the event.
        self.give_lease_back(&execution_id).await;
        self.runner.forget(&execution_id);
        if let Some(run) = ended {
            run.cleaned().await;
        }
    }

    /// Only this run's own lease: another may have been given since.
    async fn give_lease_back(&self, execution_id: &str) {
        match self.runner.leases.delete_if(execution_id, self.lease.revision).await {
            Ok(_) | Err(StoreError::RevisionMismatch { .. }) => {}
            Err(error) => {
                tracing::warn!(execution_id, %error, "the lease of a finished run stays until it runs out");
            }
        }
    }

    pub(crate) fn cause(&self) -> Cause<'_> {
        command_cause(&self.command).traced(self.trace)
    }

    /// Returns what may still have to be cleaned up.
    async fn supervise(&mut self) -> Result<Option<Run>, GivenUp> {
        if let Some(created) = self.to_begin.take() {
            self.append(vec![created]).await?;
        }
        let compiled = match self.compile().await? {
            Compiled::Ready(compiled) => compiled,
            Compiled::Over(run) => return Ok(run),
        };
        if !self.request.cases.is_empty() {
            return self.run_cases(compiled).await;
        }
        let spec = self.spec.clone();
        let run = match self.start(&spec, "the script").await? {
            Ok(run) => run,
            Err(last) => return self.end(last).await.map(|()| None),
        };
        self.receipt = receipt_to_proto(&run.started().receipt);
        self.append_started(&run, compiled).await?;
        let (mut run, tails) = self.stream(run, ExecutionStep::Run).await?;
        let outcome = run.outcome().await;
        self.receipt = receipt_to_proto(&outcome.receipt);
        let Asked { cancel, shutdown } = self.asked(&outcome).await?;
        let pod_name = self.pod_name();
        let ended = Ended { spec: &spec, subject: "the script", pod_name: &pod_name, tails, cancel };
        self.append_end(ended.events(outcome), shutdown).await?;
        Ok(Some(run))
    }

    /// Who asked for the end of a run with this outcome.
    pub(crate) async fn asked(&self, outcome: &Outcome) -> Result<Asked, GivenUp> {
        match was_asked_for(outcome) {
            true => self.asked_to_end().await,
            false => Ok(Asked::default()),
        }
    }

    /// Who asked for the end of this run.
    pub(crate) async fn asked_to_end(&self) -> Result<Asked, GivenUp> {
        let mut why = self.active.why();
        if why.is_none() {
            // A shutdown ended it; a cancel may have been recorded that did not reach this runner any more.
            let log =
                RunLog::read(self.runner.store.as_ref(), &self.spec.execution_id).await.map_err(GivenUp::Store)?;
            why = log.cancel.as_deref().map(CancelRequest::of);
        }
        Ok(Asked { shutdown: why.is_none(), cancel: why.unwrap_or_default() })
    }

    /// The end of this execution where nothing runs that could be ended.
    async fn cancelled(&self) -> Result<Last, GivenUp> {
        let Asked { cancel, shutdown } = self.asked_to_end().await?;
        Ok(Last { event: verdict::cancelled(&self.spec.execution_id, cancel, false), shutdown })
    }

    /// The name of the sandboxes of this attempt in events.
    pub(crate) fn pod_name(&self) -> String {
        lifecycle::pod_name(&self.spec.execution_id, self.lease.document.attempt)
    }

    /// Waits for something. Meanwhile it keeps the lease, reads what others add to the log, and ends what runs once this
    /// execution is to be ended.
    pub(crate) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, GivenUp> {
        let active = Arc::clone(&self.active);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = active.end.cancelled(), if self.running.is_some() => {
                    if let Some(running) = self.running.take() {
                        running.cancel();
                    }
                }
                () = sleep_until(self.renew_at) => {
                    self.renew().await?;
                    self.hear().await?;
                    self.is_followed = true;
                }
                is_there = self.others.beyond(self.head), if self.is_followed => {
                    let head = self.head;
                    self.hear().await?;
                    // What can't be found is looked for at the next renewal, not again and again.
                    self.is_followed = is_there && self.head > head;
                }
                done = &mut work => return Ok(done),
            }
        }
    }

    /// The same for what is of no use once this execution is to be ended: it is dropped then.
    pub(crate) async fn unless_ended<T>(&mut self, work: impl Future<Output = T>) -> Result<Result<T, Last>, GivenUp> {
        let active = Arc::clone(&self.active);
        match self.meanwhile(active.end.run_until_cancelled(work)).await? {
            Some(done) => Ok(Ok(done)),
            None => self.cancelled().await.map(Err),
        }
    }

    /// Starts a part of it, unless it is to be ended.
    pub(crate) async fn start(&mut self, spec: &RunSpec, what: &str) -> Result<Result<Run, Last>, GivenUp> {
        let runner = Arc::clone(&self.runner);
        match self.unless_ended(start(runner.sandbox.as_ref(), spec)).await? {
            Ok(Ok(run)) => {
                self.running = Some(run.canceller());
                Ok(Ok(run))
            }
            Ok(Err(error)) => {
                let event = verdict::not_started(&self.spec.execution_id, what, &error);
                Ok(Err(Last { event, shutdown: false }))
            }
            Err(last) => Ok(Err(last)),
        }
    }

    /// The end of this execution because what it needs is not to be had.
    pub(crate) fn failed(&self, words: String) -> Last {
        let event = verdict::without_run(&self.spec.execution_id, ExecutionErrorType::SandboxError, words);
        Last { event, shutdown: false }
    }

    /// Records an end that is not the end of a run.
    pub(crate) async fn end(&mut self, Last { event, shutdown }: Last) -> Result<(), GivenUp> {
        let events = match self.has_sandbox {
            true => verdict::with_pod(&self.spec.execution_id, &self.pod_name(), event),
            false => vec![event],
        };
        self.append_end(events, shutdown).await
    }

    /// Records the end of it. `shutdown`: nobody asked for that, the node is being shut down.
    pub(crate) async fn append_end(&mut self, mut events: Vec<Payload>, shutdown: bool) -> Result<(), GivenUp> {
        if shutdown && let Some(last) = events.pop() {
            let lost = verdict::runner_lost(&self.spec.execution_id, "the node was shut down while the script ran");
            events.push(verdict::with_counts(lost, verdict::counts(&last)));
        }
        if let Some(last) = events.last_mut().filter(|_| self.has_sandbox) {
            verdict::set_receipt(last, self.receipt.clone());
        }
        let cause = self.cause();
        let places = if events.len() > 1 {
            ordinal::POD_ENDED..=ordinal::TERMINAL
        } else {
            ordinal::TERMINAL..=ordinal::TERMINAL
        };
        let events = places.zip(events).map(|(ordinal, event)| cause.derive(ordinal, event)).collect();
        self.append(events).await
    }

    /// Records the output of a step as it comes, until there is no more.
    pub(crate) async fn stream(&mut self, mut run: Run, step: ExecutionStep) -> Result<(Run, Tails), GivenUp> {
        let mut tails = Tails::default();
        let execution_id = self.spec.execution_id.clone();
        while let Some(pieces) = self.meanwhile(output::next(&mut run, &mut tails, &execution_id, step)).await? {
            let cause = self.cause();
            let events = pieces.into_iter().map(|piece| cause.observe(piece)).collect();
            self.append(events).await?;
        }
        Ok((run, tails))
    }

    /// Reads what others have added to the log.
    async fn hear(&mut self) -> Result<(), GivenUp> {
        match RunLog::read(self.runner.store.as_ref(), &self.spec.execution_id).await {
            Ok(log) => self.heard(&log),
            Err(error) => {
                tracing::warn!(execution_id = self.spec.execution_id, %error, "can't read the log of a run; later again");
                Ok(())
            }
        }
    }

    fn heard(&mut self, log: &RunLog) -> Result<(), GivenUp> {
        // The sequence that an append expects is the fencing token: it went up when this attempt was given up.
        let is_anothers = log.begun_by.as_ref().is_some_and(|event| *event != self.begun_by);
        if log.is_over(self.lease.document.attempt) || is_anothers {
            return Err(GivenUp::LeaseLost);
        }
        self.head = self.head.max(log.head);
        if let Some(cancel) = &log.cancel {
            self.active.cancel(CancelRequest::of(cancel));
        }
        Ok(())
    }

    /// Appends events behind those that were appended before, again and again while the store is not available. Others may
    /// add to the log too, a request to end the run above all; but nothing is added behind the end of the execution.
    pub(crate) async fn append(&mut self, events: Vec<NewEvent>) -> Result<(), GivenUp> {
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
                        Ok(log) => {
                            self.heard(&log)?;
                            self.head = actual.max(self.head);
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
}

/// Starts a sandbox. An execution of the same id may have been deleted a moment ago; its folder is on its way out. A
/// sandbox that could not be set up, which is never the script's fault, is tried again, in another one.
async fn start(sandbox: &dyn Sandbox, spec: &RunSpec) -> Result<Run, SandboxError> {
    let deadline = Instant::now() + FOLDER_PATIENCE;
    let mut wait = BACKOFF.0;
    let mut setups = 1;
    loop {
        match sandbox.start(spec.clone()).await {
            Err(SandboxError::AlreadyRunning { .. }) if Instant::now() < deadline => sleep(BACKOFF.0).await,
            Err(error @ SandboxError::Setup { .. }) if setups < SETUPS => {
                tracing::warn!(execution_id = spec.execution_id, %error, "trying another sandbox");
                setups += 1;
                sleep(wait).await;
                wait = (wait * 4).min(BACKOFF.1);
            }
            other => return other,
        }
    }
}

/// Whether the run ended because it was told to.
fn was_asked_for(outcome: &crate::Outcome) -> bool {
    matches!(outcome.ending, crate::Ending::Cancelled { .. })
}

#[cfg(test)]
mod tests;
