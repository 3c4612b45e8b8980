//! Which events mean what in the life of an execution, for every service that reads an execution's log.

use runmesh_proto::event::EventType;

/// The events that end an execution. Its log has exactly one of them in the end.
pub const TERMINAL: [EventType; 4] = [
    EventType::ExecutionCompleted,
    EventType::ExecutionFailed,
    EventType::ExecutionTimeout,
    EventType::ExecutionCancelled,
];

/// The events that say what became of an execution's result.
pub const RESULT: [EventType; 2] = [EventType::ResultStored, EventType::ResultFailed];

/// The events that end an execution's saga.
pub const SAGA_END: [EventType; 3] = [EventType::SagaCompleted, EventType::SagaFailed, EventType::SagaCancelled];

/// All that can be in an execution's log but its output, which can be large.
pub const WITHOUT_OUTPUT: [EventType; 30] = [
    EventType::ExecutionRequested,
    EventType::ExecutionAccepted,
    EventType::ExecutionQueued,
    EventType::ExecutionStarted,
    EventType::ExecutionRunning,
    EventType::ExecutionCompleted,
    EventType::ExecutionFailed,
    EventType::ExecutionTimeout,
    EventType::ExecutionCancelled,
    EventType::PodCreated,
    EventType::PodScheduled,
    EventType::PodRunning,
    EventType::PodSucceeded,
    EventType::PodFailed,
    EventType::PodTerminated,
    EventType::PodDeleted,
    EventType::ResultStored,
    EventType::ResultFailed,
    EventType::SagaStarted,
    EventType::SagaCompleted,
    EventType::SagaFailed,
    EventType::SagaCancelled,
    EventType::SagaCompensating,
    EventType::SagaCompensated,
    EventType::CreatePodCommand,
    EventType::DeletePodCommand,
    EventType::AllocateResourcesCommand,
    EventType::ReleaseResourcesCommand,
    EventType::SystemError,
    EventType::ResourceLimitExceeded,
];
