//! What becomes of deliveries that can't be handled.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use runmesh_events::{EventType, GroupName};
use runmesh_store::PageQuery;

use super::{
    FailingDocuments, Harness, Probe, TOPIC, TOPIC_2, key_beside, publish, record, sample, start,
    subscriptions::{lag_of, until_done},
};
use crate::{Consumer, ConsumerGroup, DeadLetter, Handler, HandlerError, InPlaceRetry, Incoming, Record};

const GROUP: GroupName = GroupName::new("failures");

#[derive(Debug, thiserror::Error)]
#[error("the outer error")]
struct Outer(#[source] std::io::Error);

fn outer() -> Outer {
    Outer(std::io::Error::other("the inner error"))
}

fn group(handler: Arc<dyn Handler>) -> ConsumerGroup {
    let retry = InPlaceRetry { tries: 3, first_wait: Duration::from_millis(1) };
    ConsumerGroup { retry, ..ConsumerGroup::new(GROUP, &[TOPIC, TOPIC_2], handler) }
}

async fn letters<H: Harness>(harness: &H) -> Vec<DeadLetter> {
    let query = PageQuery { index: "by_group", equal: vec![GROUP.as_str().into()], limit: 100, ..PageQuery::default() };
    let page = harness.dead_letters().await.page(query).await.unwrap();
    page.documents.into_iter().map(|letter| letter.document).collect()
}

/// Fails at sequence 1 of aggregate `bad`, and only there.
fn failing(error: impl Fn() -> HandlerError + Send + Sync + 'static) -> Arc<Probe> {
    Probe::new(move |incoming: Incoming| {
        let bad = incoming.event.aggregate_id == "bad" && incoming.event.sequence == 1;
        let result = if bad { Err(error()) } else { Ok(()) };
        async move { result }
    })
}

/// The letter holds the record and the error with its causes; the key's next event and the others are handled.
pub async fn a_permanent_error_becomes_one_dead_letter<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let bad = record(TOPIC, "bad", 1);
    publish(&*bus, vec![bad.clone(), record(TOPIC, "bad", 2), record(TOPIC, "good", 1)]).await;
    let probe = failing(|| HandlerError::permanent(outer()));
    let running = start(&harness.consumer().await, group(probe.clone()));
    until_done(&*bus, GROUP, TOPIC).await;
    assert_eq!(probe.of("bad"), [1, 2]);
    assert_eq!(probe.of("good"), [1]);
    let letters = letters(&harness).await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((letter.severity.as_str(), letter.attempt_count), ("permanent", 1));
    assert_eq!(letter.attempts[0].errors, ["the outer error", "the inner error"]);
    assert_eq!((letter.topic.as_str(), letter.aggregate_id.as_str()), ("execution_started", "bad"));
    assert_eq!(letter.record_time, bad.timestamp);
    assert_eq!(BASE64_STANDARD.decode(&letter.value).unwrap(), bad.value);
    assert_eq!(BASE64_STANDARD.decode(&letter.key).unwrap(), bad.key);
    assert_eq!(decoded(letter), bad.headers);
    running.stop().await;
}

fn decoded(letter: &DeadLetter) -> crate::Headers {
    let decode = |value: &String| Bytes::from(BASE64_STANDARD.decode(value).unwrap());
    letter.headers.iter().map(|(name, value)| (name.clone(), decode(value))).collect()
}

/// While the letter is being written the offset stays where it is, and other keys go on.
pub async fn a_dead_letter_is_durable_before_its_offset_is_committed<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let beside = key_beside(TOPIC, "bad");
    let documents = FailingDocuments::new(harness.documents(), 0);
    let consumer = Consumer::new(harness.bus(), documents.clone()).await.unwrap();
    publish(&*bus, vec![record(TOPIC, "bad", 1), record(TOPIC, &beside, 1), record(TOPIC_2, "other", 1)]).await;
    let probe = failing(|| HandlerError::permanent("no"));
    let running = start(&consumer, group(probe.clone()));
    documents.asked().await;
    probe.saw(&beside, 1).await;
    publish(&*bus, vec![record(TOPIC_2, "other", 2)]).await;
    // All lanes are committed together: when the other topic's is, this one's would be too.
    until_done(&*bus, GROUP, TOPIC_2).await;
    assert_eq!(lag_of(&*bus, GROUP, TOPIC).await, 2);
    assert!(letters(&harness).await.is_empty());
    documents.allow(1);
    until_done(&*bus, GROUP, TOPIC).await;
    assert_eq!(letters(&harness).await.len(), 1);
    running.stop().await;
}

/// A store that fails delays the letter; it is not given up.
pub async fn a_dead_letter_that_can_not_be_kept_is_tried_again<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let documents = FailingDocuments::new(harness.documents(), 3);
    documents.allow(1);
    let consumer = Consumer::new(harness.bus(), documents.clone()).await.unwrap();
    publish(&*bus, vec![record(TOPIC, "bad", 1), record(TOPIC, "bad", 2)]).await;
    let probe = failing(|| HandlerError::permanent("no"));
    let running = start(&consumer, group(probe.clone()));
    until_done(&*bus, GROUP, TOPIC).await;
    assert_eq!(probe.of("bad"), [1, 2]);
    assert_eq!(letters(&harness).await.len(), 1);
    running.stop().await;
}

/// The key waits while its event is tried again; then it goes on, and nothing is left behind.
pub async fn a_transient_error_is_tried_again_in_place<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    publish(&*bus, vec![record(TOPIC, "bad", 1), record(TOPIC, "bad", 2)]).await;
    let left = std::sync::atomic::AtomicI32::new(2);
    let probe = Probe::new(move |_| {
        let fails = left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) > 0;
        async move { if fails { Err(HandlerError::transient("not yet")) } else { Ok(()) } }
    });
    let running = start(&harness.consumer().await, group(probe.clone()));
    until_done(&*bus, GROUP, TOPIC).await;
    assert_eq!(probe.of("bad"), [1, 1, 1, 2]);
    assert!(letters(&harness).await.is_empty());
    running.stop().await;
}

/// In an outage that takes dead letters with it, the handler gets its event again when the outage is over, and no letter
/// is left.
pub async fn an_outage_of_everything_leaves_no_letter<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let documents = FailingDocuments::new(harness.documents(), 2);
    documents.allow(1);
    let consumer = Consumer::new(harness.bus(), documents.clone()).await.unwrap();
    publish(&*bus, vec![record(TOPIC, "bad", 1), record(TOPIC, "bad", 2)]).await;
    // Three tries in place, then one after each letter that could not be kept.
    let left = std::sync::atomic::AtomicI32::new(4);
    let probe = Probe::new(move |_| {
        let fails = left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) > 0;
        async move { if fails { Err(HandlerError::transient("an outage")) } else { Ok(()) } }
    });
    let running = start(&consumer, group(probe.clone()));
    until_done(&*bus, GROUP, TOPIC).await;
    assert_eq!(probe.of("bad"), [1, 1, 1, 1, 1, 2]);
    assert!(letters(&harness).await.is_empty());
    running.stop().await;
}

/// A transient error that stays becomes a letter that tells of each attempt.
pub async fn an_exhausted_transient_error_is_kept_with_each_attempt<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    publish(&*bus, vec![record(TOPIC, "bad", 1), record(TOPIC, "bad", 2)]).await;
    let tries = std::sync::atomic::AtomicU32::new(0);
    let probe = failing(move || {
        let number = tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        HandlerError::transient(format!("attempt {number}"))
    });
    let running = start(&harness.consumer().await, group(probe.clone()));
    until_done(&*bus, GROUP, TOPIC).await;
    assert_eq!(probe.of("bad"), [1, 1, 1, 2]);
    let letters = letters(&harness).await;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].severity.as_str(), letters[0].attempt_count), ("transient", 3));
    let errors: Vec<&String> = letters[0].attempts.iter().flat_map(|attempt| &attempt.errors).collect();
    assert_eq!(errors, ["attempt 1", "attempt 2", "attempt 3"]);
    running.stop().await;
}

/// Bytes that are no event, and an event on the wrong topic, are kept as they came; the partition moves on.
pub async fn what_is_no_event_of_the_topic_is_kept_as_raw_bytes<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let garbage = Record {
        event_type: TOPIC,
        key: Bytes::from_static(b"\xff\xfe key"),
        headers: vec![("x-origin".to_owned(), Bytes::from_static(b"\x00\xff"))],
        value: Bytes::from_static(b"\xff\xff\xff not protobuf"),
        timestamp: record(TOPIC, "a", 1).timestamp,
    };
    let misplaced = Record { event_type: TOPIC, ..Record::of(&sample(TOPIC_2, "a", 7)).unwrap() };
    let empty = Record { value: Bytes::new(), ..record(TOPIC, "a", 8) };
    publish(&*bus, vec![garbage.clone(), misplaced.clone(), empty, record(TOPIC, "a", 9)]).await;
    let probe = Probe::accepting();
    let running = start(&harness.consumer().await, group(probe.clone()));
    until_done(&*bus, GROUP, TOPIC).await;
    assert_eq!(probe.seen(), [("a".to_owned(), 9)]);
    let letters = letters(&harness).await;
    assert_eq!(letters.len(), 3);
    assert!(letters.iter().all(|letter| letter.severity == "poison" && letter.event_id.is_empty()));
    assert!(letters.iter().all(|letter| letter.attempts.len() == 1 && !letter.attempts[0].errors[0].is_empty()));
    for record in [&garbage, &misplaced] {
        let value = BASE64_STANDARD.encode(&record.value);
        let letter = letters.iter().find(|letter| letter.value == value).unwrap();
        assert_eq!(decoded(letter), record.headers);
        assert_eq!(letter.key, BASE64_STANDARD.encode(&record.key));
    }
    assert!(letters.iter().any(|letter| letter.attempts[0].errors[0].contains(EventType::PodCreated.as_str_name())));
    running.stop().await;
}

/// A handler that panics has failed for good; the group lives on.
pub async fn a_panic_becomes_a_dead_letter<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    publish(&*bus, vec![record(TOPIC, "bad", 1), record(TOPIC, "bad", 2), record(TOPIC, "good", 1)]).await;
    let probe = failing(|| panic!("at the disco"));
    let running = start(&harness.consumer().await, group(probe.clone()));
    until_done(&*bus, GROUP, TOPIC).await;
    assert_eq!(probe.of("bad"), [1, 2]);
    let letters = letters(&harness).await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].attempts[0].errors[0].contains("at the disco"), "{:?}", letters[0].attempts);
    running.stop().await;
}
