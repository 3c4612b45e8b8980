//! Settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of the saga.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SagaConfig {
    /// How long a runner has for the first sign of life of an execution that it was told to run.
    #[serde(with = "humantime_serde")]
    pub start_timeout: Duration,
}

impl Default for SagaConfig {
    fn default() -> Self {
        Self { start_timeout: Duration::from_secs(60) }
    }
}
