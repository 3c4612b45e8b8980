//! Faults on purpose: handlers that fail as they are told to, to see what becomes of the failures.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use runmesh_events::EventType;

use crate::{ConsumerGroup, Handler, HandlerError, Incoming};

/// How a handler fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// As if the same may succeed later.
    Transient,
    /// As if the same fails each time.
    Permanent,
    /// As if the record were broken.
    Poison,
    /// By a panic.
    Panic,
}

/// Which tries fail, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultRule {
    /// The group. Empty: all groups.
    pub group: String,
    /// The event type. `None`: all types.
    pub event_type: Option<EventType>,
    /// Which part of the tries fails: 0 to 1.
    pub probability: f64,
    /// How.
    pub kind: FaultKind,
    /// The error's words.
    pub text: String,
    /// How many tries fail at most. 0: no limit.
    pub times: u64,
}

/// The faults of a process.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    rules: Arc<Vec<(FaultRule, AtomicU64)>>,
}

impl Faults {
    /// These faults. The first rule that fits a try decides on it.
    pub fn new(rules: Vec<FaultRule>) -> Self {
        Self { rules: Arc::new(rules.into_iter().map(|rule| (rule, AtomicU64::new(0))).collect()) }
    }

    /// The group with a handler that fails as these say.
    #[must_use]
    pub fn into_group(&self, group: ConsumerGroup) -> ConsumerGroup {
        let concerned = self.rules.iter().any(|(rule, _)| rule.group.is_empty() || rule.group == group.name.as_str());
        if !concerned {
            return group;
        }
        let handler = Arc::new(Faulty { faults: self.clone(), handler: Arc::clone(&group.handler) });
        ConsumerGroup { handler, ..group }
    }

    /// The fault of this try, if it has one.
    fn of(&self, incoming: &Incoming) -> Option<&FaultRule> {
        let event_type = incoming.delivery.event_type;
        let (rule, count) = self.rules.iter().find(|(rule, _)| {
            (rule.group.is_empty() || rule.group == incoming.group.as_str())
                && rule.event_type.is_none_or(|known| known == event_type)
        })?;
        let hit = rule.probability >= 1.0 || rand::random::<f64>() < rule.probability;
        let left = hit && (rule.times == 0 || count.fetch_add(1, Ordering::Relaxed) < rule.times);
        left.then_some(rule)
    }
}

struct Faulty {
    faults: Faults,
    handler: Arc<dyn Handler>,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("faults", &self.faults).finish_non_exhaustive()
    }
}

#[async_trait]
impl Handler for Faulty {
    #[allow(clippy::panic, reason = "it is told to")]
    async fn handle(&self, incoming: &Incoming) -> Result<(), HandlerError> {
        let Some(fault) = self.faults.of(incoming) else { return self.handler.handle(incoming).await };
        match fault.kind {
            FaultKind::Transient => Err(HandlerError::transient(fault.text.as_str())),
            FaultKind::Permanent => Err(HandlerError::permanent(fault.text.as_str())),
            FaultKind::Poison => Err(HandlerError::poison(fault.text.as_str())),
            FaultKind::Panic => panic!("{}", fault.text),
        }
    }
}
