//! Feeds the state machine from the bus and appends what it decides.

use std::sync::Arc;

use async_trait::async_trait;
use runmesh_bus::{ConsumerGroup, Handler, HandlerError, Incoming};
use runmesh_events::{AggregateId, Cause, EventType, GroupName, NewEvent, Payload, TraceParent};
use runmesh_store::{Expected, StoreError};

use crate::{
    machine::{Decision, TRIGGERS},
    service::{Loaded, SagaService},
};

/// The saga's group.
pub const GROUP: GroupName = GroupName::new("saga-orchestrator");

/// What the group reads.
pub const TOPICS: [EventType; 9] = TRIGGERS;

/// How often a decision is made anew when the log has moved on in between.
pub(crate) const TRIES: usize = 32;

/// The consumer group that runs sagas.
pub fn consumer_group(service: &SagaService) -> ConsumerGroup {
    ConsumerGroup::new(GROUP, &TOPICS, Arc::new(Orchestrator { service: service.clone() }))
}

struct Orchestrator {
    service: SagaService,
}

#[async_trait]
impl Handler for Orchestrator {
    async fn handle(&self, incoming: &Incoming) -> Result<(), HandlerError> {
        // What was ended, not lost, has a terminal event beside it.
        if let Some(Payload::PodTerminated(terminated)) = &incoming.event.payload
            && terminated.lost_attempt == 0
        {
            return Ok(());
        }
        let aggregate = AggregateId::from(incoming.event.aggregate_id.as_str());
        for _ in 0..TRIES {
            let loaded = self.service.load(&aggregate).await?;
            let Some(first) = loaded.first() else { return Ok(()) };
            let log = loaded.log();
            let decided = log.decide();
            if decided.is_empty() {
                // A second delivery, after a crash perhaps.
                return self.service.repair(&loaded).await.map_err(Into::into);
            }
            let events = recorded(&first.event_id, incoming.cause(), decided);
            let appended = match log.started() {
                true => self.service.store().append(&aggregate, Expected::Sequence(loaded.head), events).await,
                false => self.service.begin(&loaded, &aggregate, events).await,
            };
            match appended {
                Ok(appended) => return self.service.keep(loaded, appended.events).await.map_err(Into::into),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(HandlerError::transient(format!("the log of {aggregate} kept moving on")))
    }
}

/// The events of decisions. Each is in a log once at most, so its id follows from the log alone, whichever delivery leads
/// to it.
fn recorded(first: &str, cause: Cause<'_>, decided: Vec<Decision>) -> Vec<NewEvent> {
    let event = |decision: Decision| {
        let purpose = decision.purpose(GROUP);
        cause.derive(0, decision.payload).once(&purpose, first)
    };
    decided.into_iter().map(event).collect()
}

/// The event of a decision that a timer led to, caused by the command that was not followed. `None`: there was none.
pub(crate) fn recorded_by_timer(loaded: &Loaded, decision: Decision) -> Option<NewEvent> {
    let first = loaded.first()?;
    let is_command = |payload: &Payload| matches!(payload, Payload::CreatePodCommand(_));
    let command = loaded.events.iter().rev().find(|event| event.payload.as_ref().is_some_and(is_command))?;
    let cause = Cause::new(command, GROUP).traced(TraceParent::passed_on(&command.traceparent));
    recorded(&first.event_id, cause, vec![decision]).pop()
}
