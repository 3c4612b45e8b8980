//! When letters are delivered again by themselves: by the clock of the test, with restarts in between.

use std::time::{Duration, SystemTime};

use runmesh_bus::{
    DeadLetter, LetterState, Override, Pending, RetryPolicy,
    conformance::{TOPIC, TOPIC_2, record},
};
use runmesh_events::EventType;
use runmesh_proto::event::{RetryPreset, event::Payload};
use runmesh_store::Documents;

use crate::mesh::{GROUP, Mesh};

async fn set(mesh: &Mesh, policy: RetryPolicy) {
    let documents: Documents<Override> = Documents::open(std::sync::Arc::new(mesh.store.clone())).await.unwrap();
    for topic in ["execution_started", "pod_created"] {
        let set = Override {
            topic: topic.to_owned(),
            group: String::new(),
            policy,
            preset: String::new(),
            actor: "ann".to_owned(),
            reason: "a test".to_owned(),
            at: SystemTime::now(),
        };
        documents.change(&Override::id_of(topic, ""), |_| Some(set.clone())).await.unwrap();
    }
}

/// Each wait is exactly that of the preset with the letter's own jitter; not a microsecond earlier it is delivered, and then
/// it is, whatever was started again meanwhile. In the end it is parked.
async fn follows(preset: RetryPreset) {
    let mut mesh = Mesh::failing().await;
    let policy = RetryPolicy::preset(preset);
    set(&mesh, policy).await;
    // What was read of the policies before.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let mut letter = mesh.bury(record(TOPIC, "order-1", 1)).await;
    for retry in 1..=policy.max_retries {
        assert_eq!((letter.state, letter.retries), (LetterState::Scheduled, retry - 1), "{preset:?}");
        let at = letter.retry_at.unwrap();
        assert_eq!(at, letter.last_failed_at + policy.wait_of(&letter.id, retry), "{preset:?}, retry {retry}");
        let handled = mesh.probe.of("order-1").len();
        // The failure itself is told at once.
        mesh.turn(letter.changed_at.max(at - Duration::from_micros(1)).min(at)).await;
        if at > letter.changed_at {
            assert_eq!((mesh.get(&letter.id).await.retries, mesh.probe.of("order-1").len()), (retry - 1, handled));
        }
        mesh = mesh.restart().await;
        mesh.turn(at).await;
        letter =
            mesh.until(&letter.id, |letter| letter.retries == retry && letter.pending != Some(Pending::Send)).await;
        assert_eq!(letter.attempt_count, retry + 1);
    }
    assert_eq!((letter.state, letter.retry_at), (LetterState::Parked, None), "{preset:?}: {}", letter.cause);
    mesh.turn(SystemTime::now() + Duration::from_secs(365 * 24 * 3_600)).await;
    assert_eq!(mesh.get(&letter.id).await.retries, policy.max_retries);
    // All of it was told, in the letter's log.
    let received = mesh.told(EventType::DlqMessageReceived).await;
    let retried = mesh.told(EventType::DlqMessageRetried).await;
    assert_eq!((received.len() as u32, retried.len() as u32), (policy.max_retries + 1, policy.max_retries));
    let Some(Payload::DlqMessageReceived(last)) = &received.last().unwrap().payload else { panic!() };
    assert_eq!((last.state.as_str(), last.retry_count as u32), ("parked", policy.max_retries));
    assert_eq!((last.group.as_str(), last.error.as_str()), ("shop", "order order-1 can't be shipped"));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_preset_has_its_schedule() {
    for preset in [RetryPreset::Aggressive, RetryPreset::Cautious, RetryPreset::Immediate, RetryPreset::Default] {
        follows(preset).await;
    }
    follows(RetryPreset::Manual).await;
}

/// It reaches the group alone, with what the record had, and is over once the group has handled it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_is_handled_resolves_the_letter() {
    let mut mesh = Mesh::failing().await;
    let letter = mesh.bury(record(TOPIC, "order-1", 1)).await;
    mesh.recover();
    mesh.run();
    mesh.turn(letter.retry_at.unwrap()).await;
    let resolved = mesh.until(&letter.id, |letter| letter.state == LetterState::Resolved).await;
    assert_eq!((resolved.retries, resolved.attempt_count, resolved.pending), (1, 1, None));
    assert_eq!(mesh.probe.of("order-1"), [1, 1]);
    mesh.stop().await;
}

/// A record whose publishing a crash has cut short is published after a moment, and handled once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_was_cut_short_comes_about() {
    let mut mesh = Mesh::failing().await;
    let letter = mesh.bury(record(TOPIC, "order-1", 1)).await;
    mesh.recover();
    // What is left when the process ends after it was marked and before it was published.
    let letters = mesh.letters().await;
    let marked = |letter: Option<&DeadLetter>| Some(letter?.clone().sent("its policy", None, SystemTime::now()));
    letters.change(&letter.id, marked).await.unwrap();
    drop(letters);
    mesh = mesh.restart().await;
    mesh.turn(SystemTime::now()).await;
    assert_eq!(mesh.get(&letter.id).await.state, LetterState::Retrying, "it is left a moment to come about");
    mesh.turn(SystemTime::now() + Duration::from_secs(11)).await;
    mesh.until(&letter.id, |letter| letter.state == LetterState::Resolved).await;
    assert_eq!(mesh.told(EventType::DlqMessageRetried).await.len(), 1);
    mesh.stop().await;
}

/// Where order is kept, what waits behind a letter is delivered after it, in the order of the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_behind_a_letter_follows_in_order() {
    let mut mesh = Mesh::failing().await;
    set(&mesh, RetryPolicy { keep_order: true, ..RetryPolicy::preset(RetryPreset::Aggressive) }).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let first = mesh.bury(record(TOPIC, "order-1", 1)).await;
    let second = mesh.bury(record(TOPIC, "order-1", 2)).await;
    let third = mesh.bury(record(TOPIC_2, "order-1", 3)).await;
    assert_eq!(second.waits_behind.as_ref(), Some(&first.id));
    assert_eq!(third.waits_behind.as_ref(), Some(&first.id));
    assert_eq!(mesh.probe.of("order-1"), [1]);
    mesh.recover();
    mesh.run();
    mesh.turn(first.retry_at.unwrap()).await;
    for letter in [&first, &second, &third] {
        mesh.until(&letter.id, |letter| letter.state == LetterState::Resolved).await;
    }
    assert_eq!(mesh.probe.of("order-1"), [1, 1, 2, 3]);
    // Nothing waits any more.
    mesh.publish(vec![record(TOPIC, "order-1", 4)]).await;
    mesh.probe.saw("order-1", 4).await;
    assert_eq!(GROUP.as_str(), first.group);
    mesh.stop().await;
}
