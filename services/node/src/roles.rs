//! Roles: what a process of the mesh does.

use std::{collections::BTreeSet, fmt, str::FromStr};

use runmesh_proto::{
    dlq::dead_letter_service_server, event_log::event_log_service_server, execution::execution_service_server,
    queue::queue_service_server, replay::replay_service_server, result::result_service_server,
    saga::saga_service_server,
};

/// One role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Role {
    /// ExecutionService and its group.
    Execution,
    /// QueueService, and the scheduler's group.
    Scheduler,
    /// SagaService, its group and its timers.
    Saga,
    /// The runner's group, and the scripts.
    Runner,
    /// ResultService and its group.
    Results,
    /// DeadLetterService, retries and redrives.
    Dlq,
    /// ReplayService, and the replays.
    Replay,
    /// EventLogService.
    EventLog,
    /// Publishes appended events on the bus; where the store is shared, those that another process left behind.
    Relay,
    /// HTTP and Server-Sent Events.
    Gateway,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 10] = [
        Self::Execution,
        Self::Scheduler,
        Self::Saga,
        Self::Runner,
        Self::Results,
        Self::Dlq,
        Self::Replay,
        Self::EventLog,
        Self::Relay,
        Self::Gateway,
    ];

    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Execution => "execution",
            Self::Scheduler => "scheduler",
            Self::Saga => "saga",
            Self::Runner => "runner",
            Self::Results => "results",
            Self::Dlq => "dlq",
            Self::Replay => "replay",
            Self::EventLog => "event-log",
            Self::Relay => "relay",
            Self::Gateway => "gateway",
        }
    }

    /// The name in settings, as in `services.event_log`.
    pub fn setting(self) -> String {
        self.as_str().replace('-', "_")
    }

    /// The gRPC services that it hosts, by their full names. This is where a call's way is known from.
    pub const fn services(self) -> &'static [&'static str] {
        match self {
            Self::Execution => &[execution_service_server::SERVICE_NAME],
            Self::Results => &[result_service_server::SERVICE_NAME],
            Self::Dlq => &[dead_letter_service_server::SERVICE_NAME],
            Self::Replay => &[replay_service_server::SERVICE_NAME],
            Self::EventLog => &[event_log_service_server::SERVICE_NAME],
            Self::Scheduler => &[queue_service_server::SERVICE_NAME],
            Self::Saga => &[saga_service_server::SERVICE_NAME],
            Self::Runner | Self::Relay | Self::Gateway => &[],
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a role; one of: {}", known()))
    }
}

/// A set of roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles(BTreeSet<Role>);

impl Roles {
    /// Every role in one process.
    pub fn all() -> Self {
        Self(Role::ALL.into())
    }

    /// These roles.
    pub fn of(roles: impl IntoIterator<Item = Role>) -> Self {
        Self(roles.into_iter().collect())
    }

    /// Whether a process with these roles uses the store and the bus: the gateway alone does not.
    pub fn need_store(&self) -> bool {
        self.0.iter().any(|role| *role != Role::Gateway)
    }

    /// Whether the role is one of them.
    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|role| role.as_str()).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_of_the_contract_is_hosted_by_one_role() {
        for service in runmesh_proto::descriptors().services() {
            let hosts = Role::ALL.into_iter().filter(|role| role.services().contains(&service.full_name()));
            assert_eq!(hosts.count(), 1, "{}", service.full_name());
        }
    }
}
