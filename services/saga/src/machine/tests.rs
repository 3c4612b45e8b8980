//! The machine against logs: each ending, attempts that are lost, and whatever order and number events come in.

use proptest::{collection::vec, prelude::*};
use runmesh_events::{Event, EventType, GroupName, Payload};
use runmesh_proto::event::{
    CreatePodCommand, DeletePodCommand, ExecutionAccepted, ExecutionCancelled, ExecutionCompleted, ExecutionFailed,
    ExecutionRequested, ExecutionStarted, ExecutionTimeout, PodCreated, PodTerminated, ResultStored, RunnerLoss,
};

use super::*;

/// A log that the saga writes to: what it decides is appended and applied.
#[derive(Default)]
struct Story {
    events: Vec<Event>,
    said: Vec<Decision>,
}

impl Story {
    fn log(&self) -> SagaLog {
        SagaLog::of(&self.events)
    }

    fn append(&mut self, payload: Payload) {
        let sequence = self.events.len() as u64 + 1;
        let occurred_at = Some(Timestamp { seconds: i64::try_from(sequence).unwrap(), nanos: 0 });
        let event = Event { event_id: sequence.to_string(), sequence, occurred_at, ..Event::default() };
        self.events.push(Event { payload: Some(payload), ..event });
    }

    /// Appends it, and what the saga says to it.
    fn add(&mut self, payload: impl Into<Payload>) -> &mut Self {
        self.append(payload.into());
        self.answer()
    }

    fn answer(&mut self) -> &mut Self {
        for decision in self.log().decide() {
            self.append(decision.payload.clone());
            self.said.push(decision);
        }
        assert_eq!(self.log().decide(), Vec::new(), "a decision is made once");
        self
    }

    fn types(&self) -> Vec<EventType> {
        self.said.iter().map(|decision| decision.payload.event_type()).collect()
    }

    fn count(&self, wanted: EventType) -> usize {
        self.types().into_iter().filter(|event_type| *event_type == wanted).count()
    }
}

fn requested() -> ExecutionRequested {
    ExecutionRequested { execution_id: "x".to_owned(), ..ExecutionRequested::default() }
}

fn with_retries(maximum_retries: i32) -> ExecutionRequested {
    ExecutionRequested { on_runner_loss: RunnerLoss::Retry as i32, maximum_retries, ..requested() }
}

fn accepted(attempt: i32) -> ExecutionAccepted {
    ExecutionAccepted { attempt, runner: format!("runner-{attempt}"), ..ExecutionAccepted::default() }
}

fn lost(lost_attempt: i32) -> PodTerminated {
    PodTerminated { lost_attempt, ..PodTerminated::default() }
}

const UNDONE: [EventType; 3] =
    [EventType::SagaCompensating, EventType::ReleaseResourcesCommand, EventType::SagaCompensated];

#[test]
fn each_ending_releases_the_slot_and_ends_the_saga_once() {
    let released = vec![EventType::ReleaseResourcesCommand];
    let endings: [(Payload, Vec<EventType>, EventType); 4] = [
        (ExecutionCompleted::default().into(), released, EventType::SagaCompleted),
        (ExecutionFailed::default().into(), UNDONE.into(), EventType::SagaFailed),
        (ExecutionTimeout::default().into(), UNDONE.into(), EventType::SagaFailed),
        (ExecutionCancelled::default().into(), UNDONE.into(), EventType::SagaCancelled),
    ];
    for (ending, undone, saga_end) in endings {
        let mut story = Story::default();
        story.add(requested()).add(ExecutionAccepted::default()).add(ending).add(ResultStored::default());
        let begun = [EventType::SagaStarted, EventType::AllocateResourcesCommand, EventType::CreatePodCommand];
        let wanted: Vec<EventType> = begun.into_iter().chain(undone).chain([saga_end]).collect();
        assert_eq!(story.types(), wanted);
    }
}

#[test]
fn a_cancel_before_the_slot_is_given_never_starts_the_run() {
    let mut story = Story::default();
    story.add(requested()).add(ExecutionCancelled::default()).add(ExecutionAccepted::default());
    story.add(ResultStored::default());
    assert_eq!(story.count(EventType::CreatePodCommand), 0);
    assert_eq!(story.count(EventType::ReleaseResourcesCommand), 1);
    assert_eq!(story.types().last(), Some(&EventType::SagaCancelled));
}

#[test]
fn a_cancel_before_the_saga_began_asks_for_no_slot() {
    let mut story = Story::default();
    story.append(requested().into());
    story.add(ExecutionCancelled::default());
    assert_eq!(story.types(), [EventType::SagaStarted]);
}

#[test]
fn the_end_of_a_cancelled_saga_says_what_was_undone_and_when_it_was_cancelled() {
    let mut story = Story::default();
    story.add(requested()).add(accepted(1)).add(ExecutionCancelled::default());
    let cancelled_at = story.events.iter().find(|event| matches!(event.payload, Some(Payload::ExecutionCancelled(_))));
    let cancelled_at = cancelled_at.unwrap().occurred_at;
    story.add(ResultStored::default());
    let Some(Payload::SagaCancelled(end)) = story.said.last().map(|decision| decision.payload.clone()) else {
        panic!("{:?}", story.types())
    };
    assert_eq!(end.completed_steps, ["allocate", "queue", "start"]);
    assert_eq!(end.compensated_steps, ["start", "queue", "allocate"]);
    assert_eq!((end.cancelled_at, cancelled_at.is_some()), (cancelled_at, true));
}

#[test]
fn a_lost_attempt_is_undone_in_reverse_and_made_again_at_another_runner() {
    let mut story = Story::default();
    story.add(with_retries(1)).add(accepted(1)).add(ExecutionStarted::default());
    let before = story.said.len();
    story.add(lost(1));
    let again: Vec<EventType> = story.types().split_off(before);
    assert_eq!(again, [&UNDONE[..], &[EventType::AllocateResourcesCommand]].concat());
    let attempts: Vec<i32> = story.said[before..].iter().map(|decision| decision.attempt).collect();
    assert_eq!(attempts, [1, 1, 1, 2]);
    let Payload::SagaCompensated(undone) = &story.said[before + 2].payload else { panic!("{:?}", story.types()) };
    assert_eq!(undone.compensated_steps, ["start", "queue", "allocate"]);

    // What is said of the attempt before changes nothing.
    story.add(accepted(1)).add(lost(1));
    assert_eq!(story.said.len(), before + 4);
    story.add(accepted(2));
    let Some(Payload::CreatePodCommand(command)) = story.said.last().map(|decision| decision.payload.clone()) else {
        panic!("{:?}", story.types())
    };
    assert_eq!((command.attempt, command.runner.as_str()), (2, "runner-2"));
    story.add(ExecutionCompleted::default()).add(ResultStored::default());
    let Some(Payload::SagaCompleted(end)) = story.said.last().map(|decision| decision.payload.clone()) else {
        panic!("{:?}", story.types())
    };
    assert_eq!(end.completed_steps, step::ALL);
}

#[test]
fn an_attempt_that_was_lost_before_it_began_is_made_again_and_counts_as_none() {
    for (request, retries) in [(requested(), 0), (with_retries(1), 1)] {
        let mut story = Story::default();
        story.add(request);
        for attempt in 1..=3 {
            story.add(accepted(attempt)).add(lost(attempt));
        }
        for attempt in 4..=4 + retries {
            assert_eq!(story.count(EventType::ExecutionFailed), 0, "{:?}", story.types());
            story.add(accepted(attempt)).add(PodCreated::default()).add(lost(attempt));
        }
        assert_eq!(story.count(EventType::ExecutionFailed), 1, "{:?}", story.types());
        story.add(ResultStored::default());
        let of = |event_type| i32::try_from(story.count(event_type)).unwrap();
        assert_eq!(of(EventType::AllocateResourcesCommand), 4 + retries);
        assert_eq!(of(EventType::ReleaseResourcesCommand), 4 + retries);
    }
}

#[test]
fn a_cancel_of_an_attempt_that_was_lost_before_it_began_ends_it() {
    let mut story = Story::default();
    story.add(requested()).add(accepted(1)).add(DeletePodCommand::default()).add(lost(1)).add(ResultStored::default());
    assert_eq!((story.count(EventType::ExecutionCancelled), story.count(EventType::CreatePodCommand)), (1, 1));
    assert_eq!(story.types().last(), Some(&EventType::SagaCancelled));
}

#[test]
fn a_loss_without_a_retry_left_is_a_failure() {
    for request in [requested(), with_retries(0)] {
        let mut story = Story::default();
        story.add(request).add(accepted(1)).add(ExecutionStarted::default()).add(lost(1)).add(ResultStored::default());
        assert_eq!(story.count(EventType::ExecutionFailed), 1, "{:?}", story.types());
        assert_eq!(story.count(EventType::AllocateResourcesCommand), 1);
        assert_eq!(story.types().last(), Some(&EventType::SagaFailed));
    }
}

#[test]
fn what_is_to_be_cancelled_is_not_made_again_when_its_runner_is_lost() {
    let mut story = Story::default();
    story.add(with_retries(3)).add(accepted(1)).add(DeletePodCommand::default());
    assert_eq!(story.log().cancellable(), Cancellable::Already);
    story.add(lost(1)).add(ResultStored::default());
    assert_eq!(story.count(EventType::ExecutionCancelled), 1);
    assert_eq!(story.count(EventType::AllocateResourcesCommand), 1);
    assert_eq!(story.types().last(), Some(&EventType::SagaCancelled));
}

#[test]
fn a_cancel_is_the_runners_only_while_there_is_one() {
    let mut story = Story::default();
    story.add(with_retries(1));
    assert_eq!(story.log().cancellable(), Cancellable::Open { runs: false });
    story.add(accepted(1));
    assert_eq!(story.log().cancellable(), Cancellable::Open { runs: true });
    story.append(lost(1).into());
    assert_eq!(story.log().cancellable(), Cancellable::Open { runs: false });
    story.answer().add(accepted(2));
    assert_eq!(story.log().cancellable(), Cancellable::Open { runs: true });
    story.add(ExecutionCompleted::default());
    assert_eq!(story.log().cancellable(), Cancellable::Ended);
}

#[test]
fn a_start_that_is_late_fails_or_is_made_again_and_one_in_time_is_left_alone() {
    let mut story = Story::default();
    story.add(requested());
    assert_eq!(story.log().start_timed_out(), None, "nothing was asked of a runner");
    story.add(accepted(1));
    let failed = story.log().start_timed_out().unwrap();
    assert!(matches!(&failed.payload, Payload::ExecutionFailed(failed) if failed.exit_code == -1), "{failed:?}");
    story.add(ExecutionStarted::default());
    assert_eq!(story.log().start_timed_out(), None);

    let mut story = Story::default();
    story.add(with_retries(1)).add(accepted(1));
    let again = story.log().start_timed_out().unwrap();
    assert!(matches!(&again.payload, Payload::PodTerminated(lost) if lost.lost_attempt == 1), "{again:?}");
    story.add(again.payload);
    assert_eq!(story.log().start_timed_out(), None, "attempt 2 has no slot yet");
    story.add(accepted(2));
    assert!(matches!(story.log().start_timed_out().unwrap().payload, Payload::ExecutionFailed(_)));
}

#[test]
fn the_events_of_the_first_attempt_keep_the_ids_that_they_have_in_old_logs() {
    let group = GroupName::new("saga-orchestrator");
    let purpose = |attempt| Decision::of(attempt, CreatePodCommand::default()).purpose(group);
    assert_eq!(purpose(1), "saga-orchestrator/EVENT_TYPE_CREATE_POD_COMMAND");
    assert_eq!(purpose(2), "saga-orchestrator/EVENT_TYPE_CREATE_POD_COMMAND/2");
}

/// Something that another service may add, at any time and any number of times.
#[derive(Debug, Clone)]
enum Other {
    Accepted(i32),
    Started,
    Lost(i32),
    StartTimer,
    Cancel,
    Completed,
    Failed,
    TimedOut,
    Cancelled,
    Result,
    /// The saga looks at the log. Between two of these it sees several events at once.
    Saga,
}

impl Other {
    fn payload(&self, log: &SagaLog) -> Option<Payload> {
        Some(match self {
            Self::Accepted(attempt) => accepted(*attempt).into(),
            Self::Started => ExecutionStarted::default().into(),
            Self::Lost(attempt) => lost(*attempt).into(),
            Self::StartTimer => log.start_timed_out()?.payload,
            Self::Cancel => DeletePodCommand::default().into(),
            Self::Completed => ExecutionCompleted::default().into(),
            Self::Failed => ExecutionFailed::default().into(),
            Self::TimedOut => ExecutionTimeout::default().into(),
            Self::Cancelled => ExecutionCancelled::default().into(),
            Self::Result => ResultStored::default().into(),
            Self::Saga => return None,
        })
    }
}

fn others() -> impl Strategy<Value = Vec<Other>> {
    let one = prop_oneof![
        8 => (0..5).prop_map(Other::Accepted),
        2 => Just(Other::Started),
        5 => (0..5).prop_map(Other::Lost),
        2 => Just(Other::StartTimer),
        1 => Just(Other::Cancel),
        1 => Just(Other::Completed),
        1 => Just(Other::Failed),
        1 => Just(Other::TimedOut),
        1 => Just(Other::Cancelled),
        1 => Just(Other::Result),
        8 => Just(Other::Saga),
    ];
    vec(one, 0..40)
}

/// How many attempts have begun.
fn begun(events: &[Event]) -> i32 {
    let (mut asked, mut begun) = (false, 0);
    for payload in events.iter().filter_map(|event| event.payload.as_ref()) {
        match payload {
            Payload::CreatePodCommand(_) => asked = true,
            Payload::ExecutionStarted(_) => begun += i32::from(std::mem::take(&mut asked)),
            Payload::AllocateResourcesCommand(_) => asked = false,
            _ => {}
        }
    }
    begun
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_slot_is_released_and_the_saga_ends_once(others in others(), retries in 0..4) {
        let mut story = Story::default();
        story.append(with_retries(retries).into());
        for other in &others {
            match other.payload(&story.log()) {
                Some(payload) => story.append(payload),
                None => {
                    story.answer();
                }
            }
        }
        // In the end something ends the execution, and its result is known.
        story.answer().add(ExecutionFailed::default()).add(ResultStored::default());
        let types = story.types();
        prop_assert_eq!(types.iter().filter(|one| lifecycle::SAGA_END.contains(one)).count(), 1, "{:?}", types);
        prop_assert!(types.last().is_some_and(|last| lifecycle::SAGA_END.contains(last)), "{:?}", types);

        let mut purposes: Vec<String> = story.said.iter().map(|one| one.purpose(GroupName::new("g"))).collect();
        let said = purposes.len();
        purposes.sort();
        purposes.dedup();
        prop_assert_eq!(purposes.len(), said, "something is said twice: {:?}", story.said);

        let of = |wanted: EventType| -> Vec<i32> {
            let said = story.said.iter().filter(|one| one.payload.event_type() == wanted);
            said.map(|one| one.attempt).collect()
        };
        let allocated = of(EventType::AllocateResourcesCommand);
        prop_assert_eq!(&allocated, &of(EventType::ReleaseResourcesCommand));
        prop_assert_eq!(&allocated, &(1..).take(allocated.len()).collect::<Vec<i32>>());
        prop_assert!(begun(&story.events) <= retries + 1, "{:?}", types);
        prop_assert_eq!(of(EventType::SagaCompensating), of(EventType::SagaCompensated));

        // No run is asked for after the end, and of one attempt at a time.
        let mut slots = 0;
        let mut is_over = false;
        for event in &story.events {
            match event.payload.as_ref().unwrap() {
                Payload::AllocateResourcesCommand(_) => slots += 1,
                Payload::ReleaseResourcesCommand(_) => slots -= 1,
                Payload::CreatePodCommand(_) => prop_assert!(!is_over && slots == 1),
                other => is_over |= lifecycle::TERMINAL.contains(&other.event_type()),
            }
            prop_assert!((0..=1).contains(&slots));
        }
    }
}
