//! Values that can't work.

use std::time::Duration;

use super::{Config, ConfigError, bus, network, replay};
use crate::store;

/// The shortest heartbeat.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);

/// The shortest time for the start of a run: timers are looked for each second.
const SHORTEST_START_TIMEOUT: Duration = Duration::from_secs(1);

/// The shortest time between two looks of the reconciler: what is wrong at both is not on its way any more.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

impl Config {
    /// Refuses values that can't work.
    pub(super) fn check(self) -> Result<Self, ConfigError> {
        let refuse = |key, reason: String| Err(ConfigError::Setting { key, reason });
        if self.node.is_empty() {
            return refuse("node", "is empty".to_owned());
        }
        if self.auth.token.as_deref().is_some_and(|token| token.len() < 16) {
            return refuse("auth.token", "has fewer than 16 characters".to_owned());
        }
        let shared = store::is_shared(&self.store.uri);
        if !self.store.uri.is_empty() && !self.store.uri.starts_with(store::SQLITE) && !shared {
            return refuse("store.uri", "is neither sqlite:PATH nor mongodb://HOST:PORT/DATABASE".to_owned());
        }
        if self.store.pool_size == 0 {
            return refuse("store.pool_size", "is 0".to_owned());
        }
        bus::check(&self)?;
        if shared && self.bus.uri == "embedded" {
            return refuse("bus.uri", "has to be kafka://HOST:PORT where the store is MongoDB".to_owned());
        }
        network::check(&self)?;
        replay::check(&self)?;
        if let Some(problem) = self.faults.problem() {
            return refuse("faults.rules", problem);
        }
        if self.saga.start_timeout < SHORTEST_START_TIMEOUT {
            return refuse("saga.start_timeout", "is less than 1s".to_owned());
        }
        if self.reconciler.interval < SHORTEST_INTERVAL {
            return refuse("reconciler.interval", "is less than 1s".to_owned());
        }
        if self.gateway.heartbeat < SHORTEST_HEARTBEAT {
            return refuse("gateway.heartbeat", "is less than 100ms".to_owned());
        }
        let (default, maximum) = (&self.execution.default_limits, &self.execution.maximum_limits);
        let within = default.wall_time <= maximum.wall_time
            && default.output_bytes <= maximum.output_bytes
            && default.memory_bytes <= maximum.memory_bytes
            && default.cpu_millis <= maximum.cpu_millis;
        if !within {
            return refuse("execution.default_limits", "is above execution.maximum_limits".to_owned());
        }
        let policy = &self.scheduler.policy;
        if let Some((user, weight)) = policy.weights.iter().find(|(_, weight)| !(weight.is_finite() && **weight > 0.0))
        {
            return refuse("scheduler.policy.weights", format!("has {weight} for {user:?}; a weight is above 0"));
        }
        if policy.ageing.is_zero() {
            return refuse("scheduler.policy.ageing", "is 0".to_owned());
        }
        let compile = &self.execution.default_compile_limits;
        for (key, limits) in [("execution.default_limits", default), ("execution.default_compile_limits", compile)] {
            if let Some((limit, least)) = limits.too_small() {
                return refuse(key, format!("has a {limit} of less than {least}"));
            }
        }
        Ok(self)
    }
}
