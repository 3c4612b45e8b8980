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
    Run, RunSpec,
    lease::RunLease,
    output::{self, Tails},
    service::{Active, Inner, LEASE, command_cause, ordinal},
    verdict::{self, Ended},
};

/// The first and the greatest wait before a failed append is tried again. Meanwhile the script waits with its output.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

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
        if let Err(given_up) = self.supervise().await {
            match given_up {
                GivenUp::LeaseLost => {
                    tracing::warn!(execution_id, "the lease of a run was lost; nothing more is recorded")
                }
                GivenUp::Store(error) => {
                    tracing::error!(execution_id, %error, "a run was ended because its events can't be recorded");
                    let ended = verdict::not_recorded(&execution_id, &error);
                    if let Err(error) = self.runner.record_end(self.cause(), &execution_id, ended).await {
                        tracing::error!(execution_id, %error, "neither can its end; the lease tells of it");
                        self.runner.forget(&execution_id);
                        return;
                    }
                }
            }
        }
        // The lease goes after the last event: a crash in between finds the event.
        if let Err(error) = self.runner.leases.delete(&execution_id).await {
            tracing::warn!(execution_id, %error, "the lease of a finished run stays until it runs out");
        }
        self.runner.forget(&execution_id);
    }

    fn cause(&self) -> Cause<'_> {
        command_cause(&self.command).traced(self.trace)
    }

    async fn supervise(&mut self) -> Result<(), GivenUp> {
        let run = match self.runner.sandbox.start(self.spec.clone()).await {
            Ok(run) => run,
            Err(error) => {
                let ended = verdict::not_started(&self.spec.execution_id, &error);
                return self.append(vec![self.cause().derive(ordinal::TERMINAL, ended)]).await;
            }
        };
        self.append(self.started(&run)).await?;
        let pod_name = run.started().name.clone();
        let (mut run, tails) = self.stream(run).await?;
        let outcome = run.outcome().await;
        let stopped = outcome_was_asked_for(&outcome) && self.active.why().is_none();
        let cancel = self.active.why().unwrap_or_default();
        let mut events = Ended { spec: &self.spec, pod_name: &pod_name, tails, cancel }.events(outcome);
        if stopped && let Some(last) = events.last_mut() {
            *last = verdict::runner_lost(&self.spec.execution_id, "the node was shut down while the script ran");
        }
        let cause = self.cause();
        let events = (ordinal::POD_ENDED..).zip(events).map(|(ordinal, event)| cause.derive(ordinal, event)).collect();
        self.append(events).await?;
        run.cleaned().await;
        Ok(())
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
        let mut asked = false;
        loop {
            tokio::select! {
                biased;
                () = active.end.cancelled(), if !asked => {
                    asked = true;
                    canceller.cancel();
                }
                () = sleep_until(self.renew_at) => self.renew().await?,
                pieces = output::next(&mut run, &mut tails, &self.spec.execution_id) => {
                    let Some(pieces) = pieces else { return Ok((run, tails)) };
                    let cause = self.cause();
                    let events = pieces.into_iter().map(|piece| cause.observe(piece)).collect();
                    self.append(events).await?;
                }
            }
        }
    }

    /// Appends events, again and again while the store is not available.
    async fn append(&mut self, events: Vec<NewEvent>) -> Result<(), GivenUp> {
        let aggregate = AggregateId::from(self.spec.execution_id.as_str());
        let mut wait = BACKOFF.0;
        loop {
            match self.runner.store.append(&aggregate, Expected::Any, events.clone()).await {
                Ok(_) => return Ok(()),
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
            Ok(revision) => {
                self.lease.revision = revision;
                Ok(())
            }
            Err(StoreError::RevisionMismatch { .. }) => Err(GivenUp::LeaseLost),
            Err(error) => {
                tracing::warn!(execution_id = self.spec.execution_id, %error, "can't renew the lease of a run; trying again");
                self.renew_at = Instant::now() + LEASE / 15;
                Ok(())
            }
        }
    }
}

/// Whether the run ended because it was told to.
fn outcome_was_asked_for(outcome: &crate::Outcome) -> bool {
    matches!(outcome.ending, crate::Ending::Cancelled { .. })
}
