//! How far a replay is, and what may be done with it then.

use runmesh_proto::replay::ReplayState;
use serde::{Deserialize, Serialize};

/// How far a replay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// It was not started.
    Created,
    /// It sends.
    Running,
    /// An operator has paused it.
    Paused,
    /// All was sent.
    Completed,
    /// It stopped at an event that could not be sent.
    Failed,
    /// An operator has ended it.
    Cancelled,
}

/// What an operator has done with a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Start,
    Pause,
    Resume,
    Cancel,
    Delete,
}

impl Order {
    /// The method that gives it.
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Start => "StartReplay",
            Self::Pause => "PauseReplay",
            Self::Resume => "ResumeReplay",
            Self::Cancel => "CancelReplay",
            Self::Delete => "DeleteReplay",
        }
    }
}

impl Phase {
    /// The phase after an order. `None`: it can't be given in this phase. After a deletion there is no phase; it stays.
    pub(crate) fn after(self, order: Order) -> Option<Self> {
        match (order, self) {
            (Order::Start, Self::Created) | (Order::Resume, Self::Paused | Self::Failed) => Some(Self::Running),
            (Order::Pause, Self::Running) => Some(Self::Paused),
            (Order::Cancel, Self::Created | Self::Running | Self::Paused | Self::Failed) => Some(Self::Cancelled),
            (Order::Delete, Self::Created | Self::Completed | Self::Failed | Self::Cancelled) => Some(self),
            _ => None,
        }
    }

    /// Whether it comes to nothing more unless an operator has it go on.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The state as the contract has it.
    pub(crate) fn view(self) -> ReplayState {
        match self {
            Self::Created => ReplayState::Created,
            Self::Running => ReplayState::Running,
            Self::Paused => ReplayState::Paused,
            Self::Completed => ReplayState::Completed,
            Self::Failed => ReplayState::Failed,
            Self::Cancelled => ReplayState::Cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_taken_in_the_phases_that_it_is_for() {
        use Phase::{Cancelled, Completed, Created, Failed, Paused, Running};
        let phases = [Created, Running, Paused, Completed, Failed, Cancelled];
        let after = |order: Order| phases.map(|phase| phase.after(order));
        assert_eq!(after(Order::Start), [Some(Running), None, None, None, None, None]);
        assert_eq!(after(Order::Pause), [None, Some(Paused), None, None, None, None]);
        assert_eq!(after(Order::Resume), [None, None, Some(Running), None, Some(Running), None]);
        assert_eq!(
            after(Order::Cancel),
            [Some(Cancelled), Some(Cancelled), Some(Cancelled), None, Some(Cancelled), None]
        );
        assert_eq!(after(Order::Delete), [Some(Created), None, None, Some(Completed), Some(Failed), Some(Cancelled)]);
        assert_eq!(phases.map(Phase::is_over), [false, false, false, true, true, true]);
    }
}
