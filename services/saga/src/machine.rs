//! The state machine: what the log says so far -> which events the saga adds now.

use runmesh_events::{Event, EventId, EventType, Payload, lifecycle};
use runmesh_proto::event::{
    AllocateResourcesCommand, CreatePodCommand, ExecutionRequested, ReleaseResourcesCommand, SagaCancelled,
    SagaCompleted, SagaFailed, SagaStarted,
};

/// The saga's name in its events.
pub const NAME: &str = "execution";

/// The steps, by their names in events.
pub mod step {
    /// A slot was asked for.
    pub const ALLOCATE: &str = "allocate";
    /// The slot was given.
    pub const QUEUE: &str = "queue";
    /// The runner was told to run.
    pub const START: &str = "start";
    /// The run ended.
    pub const AWAIT: &str = "await";
    /// The slot was given back.
    pub const RELEASE: &str = "release";
}

/// How the execution ended.
#[derive(Debug, Clone, PartialEq)]
enum Ending {
    Completed,
    Failed(String),
    Cancelled { reason: String, by: Option<String> },
}

/// What the log says about the saga.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SagaLog {
    request: Option<(ExecutionRequested, String)>,
    started: bool,
    allocate_asked: bool,
    accepted: bool,
    run_asked: bool,
    ending: Option<Ending>,
    release_asked: bool,
    result_known: bool,
    ended: bool,
}

/// The types that the state machine looks at.
pub const TYPES: [EventType; 15] = [
    EventType::ExecutionRequested,
    EventType::SagaStarted,
    EventType::AllocateResourcesCommand,
    EventType::ExecutionAccepted,
    EventType::CreatePodCommand,
    EventType::ExecutionCompleted,
    EventType::ExecutionFailed,
    EventType::ExecutionTimeout,
    EventType::ExecutionCancelled,
    EventType::ReleaseResourcesCommand,
    EventType::ResultStored,
    EventType::ResultFailed,
    EventType::SagaCompleted,
    EventType::SagaFailed,
    EventType::SagaCancelled,
];

/// The types after which the saga may have something to do.
pub const TRIGGERS: [EventType; 8] = [
    EventType::ExecutionRequested,
    EventType::ExecutionAccepted,
    EventType::ExecutionCompleted,
    EventType::ExecutionFailed,
    EventType::ExecutionTimeout,
    EventType::ExecutionCancelled,
    EventType::ResultStored,
    EventType::ResultFailed,
];

/// The id of an execution's saga.
pub fn saga_id(execution_id: &str) -> String {
    EventId::derived("saga", execution_id, 0).to_string()
}

impl SagaLog {
    /// What these events say.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut log = Self::default();
        for event in events {
            log.apply(event);
        }
        log
    }

    fn apply(&mut self, event: &Event) {
        let Some(payload) = &event.payload else { return };
        match payload {
            Payload::ExecutionRequested(request) => self.request = Some((request.clone(), event.event_id.clone())),
            Payload::SagaStarted(_) => self.started = true,
            Payload::AllocateResourcesCommand(_) => self.allocate_asked = true,
            Payload::ExecutionAccepted(_) => self.accepted = true,
            Payload::CreatePodCommand(_) => self.run_asked = true,
            Payload::ExecutionCompleted(_) => self.end(Ending::Completed),
            Payload::ExecutionFailed(failed) => self.end(Ending::Failed(failed.error_message.clone())),
            Payload::ExecutionTimeout(_) => self.end(Ending::Failed("the wall-clock limit was reached".to_owned())),
            Payload::ExecutionCancelled(cancelled) => {
                self.end(Ending::Cancelled { reason: cancelled.reason.clone(), by: cancelled.cancelled_by.clone() })
            }
            Payload::ReleaseResourcesCommand(_) => self.release_asked = true,
            other => {
                self.result_known |= lifecycle::RESULT.contains(&other.event_type());
                self.ended |= lifecycle::SAGA_END.contains(&other.event_type());
            }
        }
    }

    fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// The events that the saga adds now. Applied to the log they leave nothing to add until another service does.
    pub fn decide(&self) -> Vec<Payload> {
        let Some((request, request_event)) = &self.request else { return Vec::new() };
        let mut events: Vec<Payload> = Vec::new();
        if self.ended {
            return events;
        }
        let (execution_id, saga_id) = (request.execution_id.clone(), saga_id(&request.execution_id));
        if !self.started {
            let (saga_id, execution_id) = (saga_id.clone(), execution_id.clone());
            events.push(
                SagaStarted {
                    saga_id,
                    saga_name: NAME.to_owned(),
                    execution_id,
                    initial_event_id: request_event.clone(),
                }
                .into(),
            );
        }
        let Some(ending) = &self.ending else {
            if !self.allocate_asked {
                events.push(allocate(request).into());
            } else if self.accepted && !self.run_asked {
                events.push(run(request, saga_id).into());
            }
            return events;
        };
        if self.allocate_asked && !self.release_asked {
            events.push(release(request).into());
        }
        if self.result_known {
            events.push(self.ended_by(ending, saga_id, execution_id));
        }
        events
    }

    fn ended_by(&self, ending: &Ending, saga_id: String, execution_id: String) -> Payload {
        let saga_name = NAME.to_owned();
        match ending.clone() {
            Ending::Completed => {
                let completed_steps = self.completed_steps();
                SagaCompleted { saga_id, saga_name, execution_id, completed_steps }.into()
            }
            Ending::Failed(error) => {
                let failed_step = if self.run_asked { step::AWAIT } else { step::START }.to_owned();
                SagaFailed { saga_id, saga_name, execution_id, failed_step, error }.into()
            }
            Ending::Cancelled { reason, by } => SagaCancelled {
                saga_id,
                saga_name,
                execution_id,
                reason,
                completed_steps: self.completed_steps(),
                compensated_steps: Vec::new(),
                cancelled_at: None,
                cancelled_by: by,
            }
            .into(),
        }
    }

    fn completed_steps(&self) -> Vec<String> {
        let completed = matches!(self.ending, Some(Ending::Completed));
        let steps = [
            (step::ALLOCATE, self.allocate_asked),
            (step::QUEUE, self.accepted),
            (step::START, self.run_asked),
            (step::AWAIT, completed),
            // It is asked for with the end at the latest.
            (step::RELEASE, self.allocate_asked),
        ];
        steps.into_iter().filter(|(_, done)| *done).map(|(name, _)| name.to_owned()).collect()
    }
}

fn allocate(request: &ExecutionRequested) -> AllocateResourcesCommand {
    AllocateResourcesCommand {
        execution_id: request.execution_id.clone(),
        cpu_request: request.cpu_request.clone(),
        memory_request: request.memory_request.clone(),
        attempt: 1,
    }
}

fn release(request: &ExecutionRequested) -> ReleaseResourcesCommand {
    ReleaseResourcesCommand {
        execution_id: request.execution_id.clone(),
        cpu_request: request.cpu_request.clone(),
        memory_request: request.memory_request.clone(),
        attempt: 1,
    }
}

fn run(request: &ExecutionRequested, saga_id: String) -> CreatePodCommand {
    CreatePodCommand {
        saga_id,
        execution_id: request.execution_id.clone(),
        // The runner reads the sources from the log's first event, so that they are stored once.
        script: String::new(),
        language: request.language.clone(),
        language_version: request.language_version.clone(),
        runtime_image: request.runtime_image.clone(),
        runtime_command: request.runtime_command.clone(),
        runtime_filename: request.runtime_filename.clone(),
        timeout: request.timeout,
        cpu_limit: request.cpu_limit.clone(),
        memory_limit: request.memory_limit.clone(),
        cpu_request: request.cpu_request.clone(),
        memory_request: request.memory_request.clone(),
        priority: request.priority,
        runner: String::new(),
        attempt: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runmesh_proto::event::{
        ExecutionAccepted, ExecutionCancelled, ExecutionCompleted, ExecutionFailed, ExecutionTimeout, ResultStored,
    };

    /// A log that the saga writes to: what it decides is appended and applied.
    #[derive(Default)]
    struct Story {
        log: SagaLog,
        said: Vec<EventType>,
    }

    impl Story {
        fn add(&mut self, payload: impl Into<Payload>) -> &mut Self {
            self.log.apply(&Event { event_id: "e".to_owned(), payload: Some(payload.into()), ..Event::default() });
            for decided in self.log.decide() {
                self.said.push(decided.event_type());
                self.log.apply(&Event { payload: Some(decided), ..Event::default() });
            }
            assert_eq!(self.log.decide(), Vec::new(), "a decision is made once");
            self
        }
    }

    fn requested() -> ExecutionRequested {
        ExecutionRequested { execution_id: "x".to_owned(), ..ExecutionRequested::default() }
    }

    #[test]
    fn each_ending_releases_the_slot_and_ends_the_saga_once() {
        let endings: [(Payload, EventType); 4] = [
            (ExecutionCompleted::default().into(), EventType::SagaCompleted),
            (ExecutionFailed::default().into(), EventType::SagaFailed),
            (ExecutionTimeout::default().into(), EventType::SagaFailed),
            (ExecutionCancelled::default().into(), EventType::SagaCancelled),
        ];
        for (ending, saga_end) in endings {
            let mut story = Story::default();
            story.add(requested()).add(ExecutionAccepted::default()).add(ending).add(ResultStored::default());
            assert_eq!(
                story.said,
                [
                    EventType::SagaStarted,
                    EventType::AllocateResourcesCommand,
                    EventType::CreatePodCommand,
                    EventType::ReleaseResourcesCommand,
                    saga_end,
                ]
            );
        }
    }

    #[test]
    fn a_cancel_before_the_slot_is_given_never_starts_the_run() {
        let mut story = Story::default();
        story.add(requested()).add(ExecutionCancelled::default()).add(ExecutionAccepted::default());
        story.add(ResultStored::default());
        assert!(!story.said.contains(&EventType::CreatePodCommand));
        assert!(story.said.contains(&EventType::ReleaseResourcesCommand));
        assert_eq!(story.said.last(), Some(&EventType::SagaCancelled));
    }

    #[test]
    fn a_cancel_before_the_saga_began_asks_for_no_slot() {
        let mut log = SagaLog::default();
        for payload in [Payload::from(requested()), ExecutionCancelled::default().into()] {
            log.apply(&Event { payload: Some(payload), ..Event::default() });
        }
        let decided: Vec<EventType> = log.decide().iter().map(Payload::event_type).collect();
        assert_eq!(decided, [EventType::SagaStarted]);
    }
}
