//! What becomes of dead letters: redrives, order, outages.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::{Duration, SystemTime},
};

use runmesh_events::{EventType, GroupName};
use runmesh_proto::event::RetryPreset;
use runmesh_store::PageQuery;

use super::{Harness, Probe, TOPIC, TOPIC_2, publish, record, start, subscriptions::until_done, until, within};
use crate::{
    ConsumerGroup, DeadLetter, DeadLetters, HandlerError, InPlaceRetry, LetterState, Override, Pending, Record,
    RetryPolicy,
};

const GROUP: GroupName = GroupName::new("letters");

fn group(handler: Arc<Probe>) -> ConsumerGroup {
    let retry = InPlaceRetry { tries: 2, first_wait: Duration::from_millis(1) };
    ConsumerGroup { retry, ..ConsumerGroup::new(GROUP, &[TOPIC, TOPIC_2], handler) }
}

async fn all(letters: &DeadLetters) -> Vec<DeadLetter> {
    let query = PageQuery {
        index: DeadLetter::BY_GROUP,
        equal: vec![GROUP.as_str().into()],
        limit: 1_000,
        ..Default::default()
    };
    let page = letters.documents().page(query).await.unwrap();
    let mut found: Vec<DeadLetter> = page.documents.into_iter().map(|found| found.document).collect();
    found.sort_by_key(|letter| (letter.aggregate_id.clone(), letter.sequence));
    found
}

/// The redrive of a letter, as what delivers letters again publishes it.
fn redrive(letter: &DeadLetter) -> Record {
    letter.redelivery(letter.retries + 1)
}

/// It is handled once, however often it comes, and the letter says so; the record is as it was.
pub async fn a_redrive_resolves_its_letter_once<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let failures = AtomicI32::new(2);
    let probe = Probe::new(move |incoming| {
        let fails = incoming.event.aggregate_id == "bad" && failures.fetch_sub(1, Ordering::SeqCst) > 0;
        async move { if fails { Err(HandlerError::permanent("no")) } else { Ok(()) } }
    });
    let consumer = harness.consumer().await;
    let letters = consumer.dead_letters().clone();
    let running = start(&consumer, group(probe.clone()));
    publish(&*bus, vec![record(TOPIC, "bad", 1)]).await;
    until_done(&*bus, GROUP, TOPIC).await;
    let parked = all(&letters).await.remove(0);
    assert_eq!((parked.state, parked.retries, parked.pending), (LetterState::Parked, 0, Some(Pending::Tell)));
    // It fails once more.
    publish(&*bus, vec![redrive(&parked), redrive(&parked)]).await;
    until_done(&*bus, GROUP, TOPIC).await;
    let again = all(&letters).await.remove(0);
    assert_eq!((again.state, again.retries, again.attempt_count), (LetterState::Parked, 1, 2));
    assert_eq!((&again.value, &again.headers, again.offset), (&parked.value, &parked.headers, parked.offset));
    assert_eq!(again.first_failed_at, parked.first_failed_at);
    // One that is late, then the right one twice.
    publish(&*bus, vec![redrive(&parked), redrive(&again), redrive(&again)]).await;
    until_done(&*bus, GROUP, TOPIC).await;
    let resolved = all(&letters).await.remove(0);
    assert_eq!((resolved.state, resolved.retries, resolved.pending), (LetterState::Resolved, 2, None));
    assert_eq!(probe.of("bad"), [1, 1, 1]);
    running.stop().await;
}

/// Where a policy keeps order, later events of the aggregate become letters behind the first one; others go on.
pub async fn later_events_wait_behind_a_letter_where_order_is_kept<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let failing = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&failing);
    let probe = Probe::new(move |incoming| {
        let first = incoming.event.aggregate_id == "bad" && incoming.event.sequence == 1;
        let fails = first && down.load(Ordering::SeqCst);
        async move { if fails { Err(HandlerError::transient("down")) } else { Ok(()) } }
    });
    let consumer = harness.consumer().await;
    let letters = consumer.dead_letters().clone();
    let policy = RetryPolicy { keep_order: true, ..RetryPolicy::preset(RetryPreset::Aggressive) };
    for topic in ["execution_started", "pod_created"] {
        let set = Override {
            topic: topic.to_owned(),
            group: GROUP.to_string(),
            policy,
            preset: String::new(),
            actor: "ann".to_owned(),
            reason: "a test".to_owned(),
            at: SystemTime::now(),
        };
        letters.policies().set(set).await.unwrap();
    }
    let current = letters.policies().current().await.unwrap();
    assert_eq!(current.policy(EventType::ExecutionStarted, GROUP.as_str()), policy);
    assert!(!current.policy(EventType::ExecutionStarted, "other").keep_order);
    let running = start(&consumer, group(probe.clone()));
    publish(&*bus, vec![record(TOPIC, "bad", 1), record(TOPIC, "bad", 2), record(TOPIC, "good", 1)]).await;
    until_done(&*bus, GROUP, TOPIC).await;
    publish(&*bus, vec![record(TOPIC_2, "bad", 3)]).await;
    until_done(&*bus, GROUP, TOPIC_2).await;
    assert_eq!((probe.of("bad"), probe.of("good")), (vec![1, 1], vec![1]));
    let kept = all(&letters).await;
    assert_eq!(kept.iter().map(|letter| letter.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    let first = &kept[0];
    assert!(first.retry_at.is_some() && first.waits_behind.is_none());
    for letter in &kept[1..] {
        assert_eq!((letter.state, letter.retry_at), (LetterState::Scheduled, None));
        assert_eq!(letter.waits_behind.as_ref(), Some(&first.id));
    }
    failing.store(false, Ordering::SeqCst);
    publish(&*bus, vec![redrive(first)]).await;
    until_done(&*bus, GROUP, TOPIC).await;
    let kept = all(&letters).await;
    assert_eq!((kept[0].state, kept[0].pending), (LetterState::Resolved, Some(Pending::Release)));
    assert_eq!(letters.first_open(GROUP.as_str(), "bad").await.unwrap().unwrap().id, kept[1].id);
    // A newer one still goes behind those that wait.
    publish(&*bus, vec![record(TOPIC, "bad", 4), redrive(&kept[1])]).await;
    until_done(&*bus, GROUP, TOPIC).await;
    assert_eq!(probe.of("bad"), [1, 1, 1, 2]);
    running.stop().await;
}

/// All fails: the group is paused rather than that the topic becomes dead letters. It goes on by itself.
pub async fn an_outage_of_the_handler_pauses_the_group<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let failing = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&failing);
    let probe = Probe::new(move |_| {
        let fails = down.load(Ordering::SeqCst);
        async move { if fails { Err(HandlerError::transient("down")) } else { Ok(()) } }
    });
    let consumer = harness.consumer().await.of_node("node-1");
    let (letters, paused) = (consumer.dead_letters().clone(), consumer.paused_groups().clone());
    let keys: Vec<String> = (0..200).map(|key| format!("key-{key}")).collect();
    publish(&*bus, keys.iter().map(|key| record(TOPIC, key, 1)).collect()).await;
    let running = start(&consumer, group(probe.clone()));
    let pause = within("the group is paused", async {
        loop {
            if let Some(pause) = paused.list().await.unwrap().pop() {
                return pause;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!((pause.group.as_str(), pause.node.as_str(), pause.error.as_str()), ("letters", "node-1", "down"));
    failing.store(false, Ordering::SeqCst);
    until_done(&*bus, GROUP, TOPIC).await;
    let kept = all(&letters).await;
    assert!(kept.len() < 8, "{} of 200 became letters", kept.len());
    let buried: BTreeSet<String> = kept.into_iter().map(|letter| letter.aggregate_id).collect();
    for key in keys.iter().filter(|key| !buried.contains(*key)) {
        assert_eq!(probe.of(key).last(), Some(&1), "{key}");
    }
    until("it is told that the group goes on", || async { paused.list().await.unwrap().is_empty() }).await;
    running.stop().await;
}
