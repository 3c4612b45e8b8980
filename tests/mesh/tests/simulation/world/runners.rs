//! The runners of a schedule: played, by the rules that the real one keeps.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use runmesh_events::{AggregateId, Event, EventType, NewEvent, Payload, TraceParent, lifecycle};
use runmesh_proto::{
    event::{
        ExecutionCancelled, ExecutionCompleted, ExecutionErrorType, ExecutionFailed, ExecutionStarted,
        ExecutionTimeout, PodCreated, PodTerminated,
    },
    queue::Runner,
};
use runmesh_store::{EventStore as _, Expected, Members, StoreError};

use super::{Letter, World, is_one_of, lost};

/// The runners, each with its slots and the name of its group.
pub(super) const NODES: [(&str, i32, &str); 3] = [("a", 2, "runner.a"), ("b", 1, "runner.b"), ("c", 1, "runner.c")];

/// A run at a runner.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) runner: &'static str,
    pub(super) execution_id: String,
    attempt: i32,
    /// What the runner knows of the log.
    head: u64,
}

impl World {
    pub(super) async fn take_on(&mut self, runner: &'static str, letter: &Letter) -> anyhow::Result<()> {
        let execution_id = letter.event.aggregate_id.clone();
        let Some(Payload::CreatePodCommand(command)) = &letter.event.payload else {
            // To end a run that is in hand.
            if self.runs.get(&execution_id).is_some_and(|run| run.runner == runner) {
                self.runs.remove(&execution_id);
                self.append(&execution_id, "end", ExecutionCancelled::default(), |_| true).await?;
            }
            return Ok(());
        };
        let attempt = lifecycle::attempt(command.attempt);
        let is_in_hand = |taken: &Taken| (&taken.execution_id, taken.attempt) == (&execution_id, attempt);
        if command.runner != runner || self.stalled.iter().any(is_in_hand) {
            ensure!(!command.runner.is_empty(), "no runner is named");
            return Ok(());
        }
        let log = self.log(&execution_id).await?;
        let taken = Taken { runner, execution_id, attempt, head: log.len() as u64 };
        if !is_open(&log, attempt) {
            return Ok(());
        }
        if self.random.one_in(3) {
            self.totals.stalls += 1;
            self.stalled.push(taken);
            return Ok(());
        }
        self.begin(taken).await
    }

    /// A runner that stood still goes on.
    pub(super) async fn go_on(&mut self) -> anyhow::Result<()> {
        let taken = self.stalled.swap_remove(self.random.below(self.stalled.len()));
        self.begin(taken).await
    }

    /// What a runner does before it starts a script: it is refused what others have begun, or given up.
    pub(super) async fn begin(&mut self, mut taken: Taken) -> anyhow::Result<()> {
        let execution_id = taken.execution_id.clone();
        let (pod_name, namespace) = (lifecycle::pod_name(&execution_id, taken.attempt), taken.runner.to_owned());
        let created = PodCreated { execution_id: execution_id.clone(), pod_name, namespace };
        let created = NewEvent::root("test", "", &TraceParent::new_root(), created);
        loop {
            let (aggregate, expected) = (AggregateId::from(execution_id.as_str()), Expected::Sequence(taken.head));
            match self.store.append(&aggregate, expected, vec![created.clone()]).await {
                Ok(_) => break,
                Err(StoreError::Conflict { .. }) => {
                    let log = self.log(&execution_id).await?;
                    if !is_open(&log, taken.attempt) {
                        return Ok(());
                    }
                    taken.head = log.len() as u64;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if self.log(&execution_id).await?.iter().any(|event| is_one_of(event, &[EventType::DeletePodCommand])) {
            return self.append(&execution_id, "end", ExecutionCancelled::default(), |_| true).await.map(drop);
        }
        let started = ExecutionStarted { execution_id: execution_id.clone(), ..ExecutionStarted::default() };
        self.append(&execution_id, &format!("started {}", taken.attempt), started, |_| true).await?;
        let other = self.runs.insert(execution_id, taken);
        ensure!(other.is_none(), "it runs twice: {other:?}");
        Ok(())
    }

    /// A runner gives no sign of life any more, or gives one again.
    pub(super) async fn come_or_go(&mut self) -> anyhow::Result<()> {
        let (name, ..) = NODES[self.random.below(NODES.len())];
        if self.absent.remove(name) {
            announce(&self.members, name).await?;
        } else {
            self.totals.absences += 1;
            self.absent.insert(name);
            self.members.leave(name).await?;
        }
        Ok(self.scheduler.look_around().await?)
    }

    pub(super) async fn end_a_run(&mut self) -> anyhow::Result<()> {
        let place = self.random.below(self.runs.len());
        let Some((execution_id, _)) = self.runs.clone().into_iter().nth(place) else { return Ok(()) };
        self.runs.remove(&execution_id);
        let ending: Payload = match self.random.below(3) {
            0 => ExecutionCompleted::default().into(),
            1 => ExecutionFailed::default().into(),
            _ => ExecutionTimeout::default().into(),
        };
        self.append(&execution_id, "end", ending, |_| true).await.map(drop)
    }

    pub(super) async fn lose_a_runner(&mut self) -> anyhow::Result<()> {
        let place = self.random.below(self.runs.len());
        let Some((execution_id, Taken { attempt, .. })) = self.runs.clone().into_iter().nth(place) else {
            return Ok(());
        };
        self.runs.remove(&execution_id);
        self.totals.losses += 1;
        let log = self.log(&execution_id).await?;
        let again = log.iter().any(|event| {
            matches!(&event.payload, Some(Payload::ExecutionRequested(request))
                if lifecycle::may_retry(request, begun(&log)))
        });
        let cancelled = log.iter().any(|event| is_one_of(event, &[EventType::DeletePodCommand]));
        let (purpose, event): (_, Payload) = match (again, cancelled) {
            (_, true) => ("end".to_owned(), ExecutionCancelled::default().into()),
            (true, false) => {
                (format!("lost {attempt}"), PodTerminated { lost_attempt: attempt, ..PodTerminated::default() }.into())
            }
            (false, false) => {
                let error_type = ExecutionErrorType::RunnerLost as i32;
                ("end".to_owned(), ExecutionFailed { error_type, ..ExecutionFailed::default() }.into())
            }
        };
        self.append(&execution_id, &purpose, event, |_| true).await.map(drop)
    }
}

/// Gives a sign of life for a runner.
pub(super) async fn announce(members: &Members, name: &str) -> anyhow::Result<()> {
    let slots = NODES.into_iter().find(|(known, ..)| *known == name).map_or(0, |(_, slots, _)| slots);
    let words = prost::Message::encode_to_vec(&Runner { slots, ..Runner::default() });
    Ok(members.announce(name, &words, Duration::from_secs(600)).await?)
}

/// Whether a runner may begin with this attempt, by the log.
fn is_open(log: &[Arc<Event>], attempt: i32) -> bool {
    let of_attempt = log.iter().rev().take_while(|event| !is_one_of(event, &[EventType::CreatePodCommand]));
    let has_begun = of_attempt.into_iter().any(|event| is_one_of(event, &[EventType::PodCreated]));
    let is_over = log.iter().any(|event| is_one_of(event, &lifecycle::TERMINAL));
    !is_over && !has_begun && lost(log) < attempt
}

fn begun(log: &[Arc<Event>]) -> i32 {
    let begun = log.iter().filter(|event| is_one_of(event, &[EventType::PodCreated])).count();
    i32::try_from(begun).unwrap_or(i32::MAX)
}

/// Each attempt begins once at most, at the runner that was granted and named; what has not begun is not failed. Returns
/// how many were lost before they began.
pub(super) fn at_the_named_runner_once(log: &[Arc<Event>]) -> anyhow::Result<usize> {
    let (mut granted, mut named, mut begun, mut stranded) = (None, None, false, 0);
    for payload in log.iter().filter_map(|event| event.payload.as_ref()) {
        match payload {
            Payload::AllocateResourcesCommand(_) => begun = false,
            Payload::ExecutionAccepted(accepted) => granted = Some(accepted.runner.clone()),
            Payload::CreatePodCommand(command) => {
                ensure!(granted.as_ref() == Some(&command.runner), "{granted:?}, not {:?}", command.runner);
                (named, begun) = (Some(command.runner.clone()), false);
            }
            Payload::PodCreated(created) => {
                ensure!(!std::mem::replace(&mut begun, true), "an attempt begins twice");
                ensure!(named.as_ref() == Some(&created.namespace), "{named:?}, not {:?}", created.namespace);
            }
            Payload::PodTerminated(ended) if ended.lost_attempt > 0 && !begun => stranded += 1,
            Payload::ExecutionFailed(failed) if failed.error_type() == ExecutionErrorType::RunnerLost => {
                ensure!(begun, "it failed before it began");
            }
            _ => {}
        }
    }
    Ok(stranded)
}
