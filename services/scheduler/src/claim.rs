//! The documents of the scheduler.

use std::time::SystemTime;

use runmesh_proto::event::QueuePriority;
use runmesh_store::{Document, Index, IndexValue, StoreError, from_json, to_json};
use serde::{Deserialize, Serialize};

use crate::queue::{Job, Size};

/// An execution's claim on a slot, from the allocate command to the release command. Whether it was granted is in the
/// execution's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) execution_id: String,
    pub(crate) priority: i32,
    pub(crate) since: SystemTime,
    #[serde(default)]
    pub(crate) user_id: String,
    #[serde(default = "first")]
    pub(crate) attempt: i32,
    #[serde(default)]
    pub(crate) cpu_millis: i64,
    #[serde(default)]
    pub(crate) memory_bytes: i64,
}

fn first() -> i32 {
    1
}

pub(crate) const BY_TIME: &str = "by_time";

impl Claim {
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            execution_id: job.execution_id.clone(),
            priority: job.priority as i32,
            since: job.since,
            user_id: job.user_id.clone(),
            attempt: job.attempt,
            cpu_millis: job.size.cpu_millis,
            memory_bytes: job.size.memory_bytes,
        }
    }

    pub(crate) fn into_job(self) -> Job {
        Job {
            execution_id: self.execution_id,
            user_id: self.user_id,
            priority: priority(self.priority),
            attempt: self.attempt,
            since: self.since,
            size: Size { cpu_millis: self.cpu_millis, memory_bytes: self.memory_bytes },
        }
    }
}

/// A priority by its number.
pub(crate) fn priority(number: i32) -> QueuePriority {
    match QueuePriority::try_from(number) {
        Ok(QueuePriority::Unspecified) | Err(_) => QueuePriority::Normal,
        Ok(priority) => priority,
    }
}

impl Document for Claim {
    const COLLECTION: &'static str = "slot_claims";
    const INDEXES: &'static [Index] = &[Index { name: BY_TIME, fields: &["since"] }];

    fn id(&self) -> String {
        self.execution_id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        vec![("since", self.since.into())]
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "a claim on a slot")
    }
}

/// What operators have set, for all schedulers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Switches {
    pub(crate) paused: bool,
    pub(crate) reason: String,
    /// Counts changes of claims that were made by others than the scheduler that works.
    pub(crate) changes: u64,
}

impl Switches {
    /// There is one such document.
    pub(crate) const ID: &'static str = "switches";
}

impl Document for Switches {
    const COLLECTION: &'static str = "queue_switches";
    const INDEXES: &'static [Index] = &[];

    fn id(&self) -> String {
        Self::ID.to_owned()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        Vec::new()
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "the queue's switches")
    }
}
