//! Reading, scanning, marking and deleting.

use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use runmesh_events::{AggregateId, Event, EventId, EventType, Payload, from_timestamp};
use runmesh_proto::event::{ExecutionStarted, PodCreated};

use super::{Harness, append, event, event_of, sequences};
use crate::{EventStore, Expected, Filter, Position, StoreError, Stored};

fn id(text: &str) -> AggregateId {
    AggregateId::from(text)
}

fn places(stored: &[Stored]) -> Vec<(String, u64)> {
    stored.iter().map(|stored| (stored.event.aggregate_id.clone(), stored.event.sequence)).collect()
}

/// `after` and `limit` page through a log; types leave out others.
pub async fn an_aggregate_is_read_in_pages_and_by_type<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    for number in 1..=10 {
        let event_type = if number % 3 == 0 { EventType::PodCreated } else { EventType::ExecutionStarted };
        append(&*store, "a", vec![event_of(event_type, number)]).await;
        append(&*store, "b", vec![event(number)]).await;
    }
    let (mut after, mut found) = (0, Vec::new());
    loop {
        let page = sequences(&store.read(&id("a"), after, 4, &[]).await.unwrap());
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 4);
        after = *last;
        found.extend(page);
    }
    assert_eq!(found, (1..=10).collect::<Vec<_>>());
    let of = |types: &'static [EventType], after, limit| {
        let store = harness.events();
        async move { sequences(&store.read(&id("a"), after, limit, types).await.unwrap()) }
    };
    assert_eq!(of(&[EventType::PodCreated], 0, 10).await, [3, 6, 9]);
    assert_eq!(of(&[EventType::PodCreated], 3, 1).await, [6]);
    assert_eq!(of(&[EventType::PodCreated, EventType::ExecutionStarted], 8, 10).await, [9, 10]);
    assert!(of(&[EventType::PodFailed], 0, 10).await.is_empty());
    assert!(of(&[], 10, 10).await.is_empty());
    assert!(store.read(&id("none"), 0, 10, &[]).await.unwrap().is_empty());
}

/// What was recorded so far is not behind the newest position, and what is recorded from now on is.
pub async fn nothing_that_was_recorded_is_behind_the_newest_position<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    let behind = async |position| places(&store.scan(&Filter::default(), position, 100).await.unwrap());
    let empty = store.newest().await.unwrap();
    append(&*store, "a", vec![event(1), event(2)]).await;
    append(&*store, "b", vec![event(1)]).await;
    let newest = store.newest().await.unwrap();
    assert_eq!(behind(empty).await.len(), 3);
    assert_eq!(behind(newest).await, []);
    append(&*store, "a", vec![event(3)]).await;
    assert_eq!(behind(newest).await, [("a".to_owned(), 3)]);
    assert!(store.newest().await.unwrap() > newest);
}

/// A scan goes over all aggregates in the order in which they were recorded, and its filters work together.
pub async fn a_scan_filters_by_type_aggregate_and_time<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    append(&*store, "a", vec![event(1), event_of(EventType::PodCreated, 2)]).await;
    append(&*store, "b", vec![event_of(EventType::PodCreated, 1)]).await;
    // Times are kept to the microsecond.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let middle = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(2)).await;
    append(&*store, "a", vec![event(3)]).await;
    append(&*store, "b", vec![event(2)]).await;
    let scan = |filter: Filter| {
        let store = harness.events();
        async move { places(&store.scan(&filter, Position(0), 100).await.unwrap()) }
    };
    let place = |aggregate: &str, sequence| (aggregate.to_owned(), sequence);
    let all = [place("a", 1), place("a", 2), place("b", 1), place("a", 3), place("b", 2)];
    assert_eq!(scan(Filter::default()).await, all);
    let types = vec![EventType::PodCreated];
    assert_eq!(scan(Filter { types: types.clone(), ..Filter::default() }).await, [place("a", 2), place("b", 1)]);
    let of_b = Filter { aggregate: Some(id("b")), ..Filter::default() };
    assert_eq!(scan(of_b.clone()).await, [place("b", 1), place("b", 2)]);
    assert_eq!(scan(Filter { until: Some(middle), ..Filter::default() }).await, all[..3]);
    assert_eq!(scan(Filter { from: Some(middle), ..Filter::default() }).await, all[3..]);
    assert_eq!(scan(Filter { from: Some(middle), ..of_b.clone() }).await, [place("b", 2)]);
    assert!(scan(Filter { from: Some(middle), types, ..of_b }).await.is_empty());
    // The time of an event itself is in from and not in until.
    let third = &store.scan(&Filter::default(), Position(0), 4).await.unwrap()[3];
    let at = from_timestamp(third.event.occurred_at.as_ref().unwrap()).unwrap();
    assert_eq!(scan(Filter { from: Some(at), ..Filter::default() }).await, all[3..]);
    assert_eq!(scan(Filter { until: Some(at), ..Filter::default() }).await, all[..3]);

    let (mut after, mut found) = (Position(0), Vec::new());
    loop {
        let page = store.scan(&Filter::default(), after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.iter().all(|stored| stored.position > after) && page.is_sorted_by_key(|stored| stored.position));
        after = last.position;
        found.extend(places(&page));
    }
    assert_eq!(found, all);
}

/// A scan back is the scan reversed, for every filter, place and page size.
pub async fn a_scan_back_is_the_scan_reversed<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    for number in 0..40 {
        let event_type = if number % 3 == 0 { EventType::PodCreated } else { EventType::ExecutionStarted };
        append(&*store, if number % 2 == 0 { "a" } else { "b" }, vec![event_of(event_type, number), event(number)])
            .await;
        append(&*store, &format!("own-{number}"), vec![event_of(event_type, number)]).await;
    }
    let all = store.scan(&Filter::default(), Position(0), 1_000).await.unwrap();
    assert_eq!(all.len(), 120);
    let time = |index: usize| all[index].event.occurred_at.as_ref().and_then(from_timestamp);
    let both = vec![EventType::PodCreated, EventType::ExecutionStarted];
    let filters = [
        Filter::default(),
        Filter { types: vec![EventType::PodCreated], ..Filter::default() },
        // A type that is given twice is one type.
        Filter { types: [both.clone(), both.clone()].concat(), ..Filter::default() },
        Filter { types: vec![EventType::PodFailed, EventType::PodDeleted], ..Filter::default() },
        Filter { aggregate: Some(id("a")), ..Filter::default() },
        Filter { aggregate: Some(id("b")), types: vec![EventType::PodCreated], ..Filter::default() },
        Filter { from: time(30), until: time(90), ..Filter::default() },
        Filter { from: time(30), types: both, ..Filter::default() },
    ];
    for filter in filters {
        let forwards = store.scan(&filter, Position(0), 1_000).await.unwrap();
        for size in [1, 7, 1_000] {
            let (mut before, mut back) = (Position(u64::MAX), Vec::new());
            loop {
                let page = store.scan_back(&filter, before, size).await.unwrap();
                let Some(last) = page.last() else { break };
                assert!(page.iter().all(|stored| stored.position < before), "{filter:?}");
                before = last.position;
                back.extend(page);
            }
            back.reverse();
            let same = |one: &Stored, two: &Stored| one.position == two.position && one.event == two.event;
            assert_eq!(back.len(), forwards.len(), "{filter:?} by {size}");
            assert!(back.iter().zip(&forwards).all(|(one, two)| same(one, two)), "{filter:?} by {size}");
        }
    }
    assert!(store.scan_back(&Filter::default(), all[0].position, 10).await.unwrap().is_empty());
    assert!(store.scan_back(&Filter::default(), Position(u64::MAX), 0).await.unwrap().is_empty());
}

/// A replaced payload is seen by all who read from then on, whatever they have seen before; nothing else changes.
pub async fn a_replaced_payload_leaves_the_rest_as_it_was<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    let events: Vec<_> = (0..70).map(event).collect();
    // What is appended while somebody follows is kept in memory.
    let follower = Box::pin(crate::follow(harness.events(), id("a"), 0));
    append(&*store, "a", events.clone()).await;
    append(&*store, "b", vec![event("other")]).await;
    for (number, sequence) in [(1, 2), (69, 70)] {
        let before = store.get(&events[number].event_id).await.unwrap().unwrap();
        let payload = ExecutionStarted { pod_name: "replaced".to_owned(), ..Default::default() };
        let after = store.replace_payload(&events[number].event_id, payload.clone().into()).await.unwrap().unwrap();
        let wanted = Event { payload: Some(payload.into()), ..(*before.event).clone() };
        assert_eq!((after.position, &*after.event), (before.position, &wanted));
        let got = store.get(&events[number].event_id).await.unwrap().unwrap();
        let read = store.read(&id("a"), sequence - 1, 1, &[]).await.unwrap();
        let scanned = store.scan(&Filter::default(), Position(before.position.0 - 1), 1).await.unwrap();
        for found in [&got.event, &read[0], &scanned[0].event] {
            assert_eq!(**found, wanted);
        }
        // Again changes nothing, and another type is refused.
        let Some(payload) = wanted.payload.clone() else { panic!("no payload") };
        let again = store.replace_payload(&events[number].event_id, payload).await.unwrap().unwrap();
        assert_eq!(*again.event, wanted);
        let other = PodCreated::default().into();
        let refused = store.replace_payload(&events[number].event_id, other).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    }
    let followed: Vec<_> = follower.take(70).map(Result::unwrap).collect().await;
    for event in followed {
        let replaced = matches!(&event.payload, Some(Payload::ExecutionStarted(p)) if p.pod_name == "replaced");
        assert_eq!(replaced, [2, 70].contains(&event.sequence), "{event:?}");
    }
    assert!(store.replace_payload(&EventId::new(), PodCreated::default().into()).await.unwrap().is_none());
    let all = store.scan(&Filter::default(), Position(0), 100).await.unwrap();
    assert_eq!(all.len(), 71);
    // What was appended before is still known, and the log goes on.
    assert!(append(&*store, "a", events).await.duplicate);
    assert_eq!(append(&*store, "a", vec![event("next")]).await.last_sequence(), 71);
    drop(store);
    let harness = harness.reopen().await;
    let again = harness.events().scan(&Filter::default(), Position(0), 71).await.unwrap();
    assert!(again.iter().zip(&all).all(|(one, two)| one.event == two.event));
}

async fn pending(store: &dyn EventStore, after: Position, limit: usize) -> Vec<Stored> {
    store.unpublished(after, limit).await.unwrap().into_iter().map(|unpublished| unpublished.stored).collect()
}

/// Every appended event is unpublished, in order, until it is marked; marking again changes nothing.
pub async fn what_is_not_marked_is_unpublished<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    append(&*store, "a", vec![event(1), event(2)]).await;
    append(&*store, "b", vec![event(1)]).await;
    let unpublished = pending(&*store, Position(0), 10).await;
    assert_eq!(places(&unpublished), [("a".to_owned(), 1), ("a".to_owned(), 2), ("b".to_owned(), 1)]);
    assert_eq!(places(&pending(&*store, Position(0), 1).await), [("a".to_owned(), 1)]);
    let after = unpublished[0].position;
    assert_eq!(pending(&*store, after, 10).await.len(), 2);
    for _ in 0..2 {
        store.mark_published(&[unpublished[0].clone(), unpublished[2].clone()]).await.unwrap();
        assert_eq!(places(&pending(&*store, Position(0), 10).await), [("a".to_owned(), 2)]);
    }
    store.mark_published(&[]).await.unwrap();
    drop(store);
    let harness = harness.reopen().await;
    let store = harness.events();
    assert_eq!(places(&pending(&*store, Position(0), 10).await), [("a".to_owned(), 2)]);
    store.mark_published(&[unpublished[1].clone()]).await.unwrap();
    assert!(store.unpublished(Position(0), 10).await.unwrap().is_empty());
    assert_eq!(store.head(&id("a")).await.unwrap(), 2);
}

/// A deleted aggregate begins anew; positions are not given again.
pub async fn a_deleted_aggregate_is_gone_and_others_are_not<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    let events = vec![event(1), event(2)];
    append(&*store, "b", vec![event(1)]).await;
    append(&*store, "a", events.clone()).await;
    let last = store.get(&events[1].event_id).await.unwrap().unwrap().position;
    store.delete_aggregate(&id("a")).await.unwrap();
    store.delete_aggregate(&id("none")).await.unwrap();
    assert_eq!((store.head(&id("a")).await.unwrap(), store.head(&id("b")).await.unwrap()), (0, 1));
    assert!(store.get(&events[0].event_id).await.unwrap().is_none());
    assert_eq!(store.scan(&Filter::default(), Position(0), 10).await.unwrap().len(), 1);
    assert_eq!(store.unpublished(Position(0), 10).await.unwrap().len(), 1);
    let again = store.append(&id("a"), Expected::Sequence(0), events.clone()).await.unwrap();
    assert_eq!((again.duplicate, sequences(&again.events)), (false, vec![1, 2]));
    assert!(store.get(&events[0].event_id).await.unwrap().unwrap().position > last);
}

/// What was appended is there after a restart, and the log goes on behind it.
pub async fn everything_survives_a_restart<H: Harness>() {
    let harness = H::new().await;
    let events: Vec<_> = (0..50).map(event).collect();
    append(&*harness.events(), "a", events.clone()).await;
    let before = harness.events().scan(&Filter::default(), Position(0), 100).await.unwrap();
    let harness = harness.reopen().await;
    let store = harness.events();
    let after = store.scan(&Filter::default(), Position(0), 100).await.unwrap();
    let same = before.iter().zip(&after).all(|(one, two)| one.position == two.position && one.event == two.event);
    assert!(before.len() == 50 && after.len() == 50 && same);
    assert!(append(&*store, "a", events).await.duplicate);
    assert_eq!(append(&*store, "a", vec![event("next")]).await.last_sequence(), 51);
}
