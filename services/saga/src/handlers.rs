//! Feeds the state machine from the bus and appends what it decides.

use std::sync::Arc;

use async_trait::async_trait;
use runmesh_bus::{ConsumerGroup, Handler, HandlerError, Incoming};
use runmesh_events::{AggregateId, EventType, GroupName, NewEvent};
use runmesh_store::{EventStore, Expected, StoreError, read_log};

use crate::machine::{SagaLog, TRIGGERS, TYPES};

/// The saga's group.
pub const GROUP: GroupName = GroupName::new("saga-orchestrator");

/// What the group reads.
pub const TOPICS: [EventType; 8] = TRIGGERS;

/// How often a decision is made anew when the log has moved on in between.
const TRIES: usize = 32;

/// The consumer group that runs sagas over this store.
pub fn consumer_group(store: Arc<dyn EventStore>) -> ConsumerGroup {
    ConsumerGroup::new(GROUP, &TOPICS, Arc::new(Orchestrator { store }))
}

struct Orchestrator {
    store: Arc<dyn EventStore>,
}

#[async_trait]
impl Handler for Orchestrator {
    async fn handle(&self, incoming: &Incoming) -> Result<(), HandlerError> {
        let aggregate = AggregateId::from(incoming.event.aggregate_id.as_str());
        for _ in 0..TRIES {
            let (events, head) = read_log(self.store.as_ref(), &aggregate, &TYPES).await?;
            let Some(first) = events.first().map(|event| event.event_id.clone()) else { return Ok(()) };
            let decided = SagaLog::of(events.iter().map(AsRef::as_ref)).decide();
            if decided.is_empty() {
                return Ok(());
            }
            let cause = incoming.cause();
            // Each type is in a log once at most, so its id follows from the log alone, whichever delivery leads to it.
            let events: Vec<NewEvent> = decided
                .into_iter()
                .map(|payload| {
                    let purpose = format!("{GROUP}/{}", payload.event_type().as_str_name());
                    cause.derive(0, payload).once(&purpose, &first)
                })
                .collect();
            match self.store.append(&aggregate, Expected::Sequence(head), events).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(HandlerError::transient(format!("the log of {aggregate} kept moving on")))
    }
}
