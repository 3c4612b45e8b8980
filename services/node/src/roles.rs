//! Roles: what a process of the mesh does.

use std::{collections::BTreeSet, fmt, str::FromStr};

/// One role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Role {
    /// ExecutionService and its group.
    Execution,
    /// The scheduler's group.
    Scheduler,
    /// The saga's group.
    Saga,
    /// The runner's group, and the scripts.
    Runner,
    /// ResultService and its group.
    Results,
    /// Publishes appended events on the bus.
    Relay,
    /// HTTP and Server-Sent Events.
    Gateway,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 7] =
        [Self::Execution, Self::Scheduler, Self::Saga, Self::Runner, Self::Results, Self::Relay, Self::Gateway];

    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Execution => "execution",
            Self::Scheduler => "scheduler",
            Self::Saga => "saga",
            Self::Runner => "runner",
            Self::Results => "results",
            Self::Relay => "relay",
            Self::Gateway => "gateway",
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
