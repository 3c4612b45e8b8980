//! Appending.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use runmesh_events::{AggregateId, EventType, Payload, from_timestamp};

use super::{EventIds, Harness, Job, append, event, event_of, jobs, sequences};
use crate::{Expected, StoreError};

fn id(text: &str) -> AggregateId {
    AggregateId::from(text)
}

/// Each aggregate has its own sequence; a batch gets consecutive ones.
pub async fn sequences_start_at_one_and_have_no_holes<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    assert_eq!(store.head(&id("a")).await.unwrap(), 0);
    let first = store.append(&id("a"), Expected::Sequence(0), vec![event(1)]).await.unwrap();
    assert_eq!((sequences(&first.events), first.duplicate, first.last_sequence()), (vec![1], false, 1));
    let second = store.append(&id("a"), Expected::Sequence(1), vec![event(2), event(3)]).await.unwrap();
    assert_eq!(sequences(&second.events), [2, 3]);
    append(&*store, "b", vec![event(1)]).await;
    assert_eq!((store.head(&id("a")).await.unwrap(), store.head(&id("b")).await.unwrap()), (3, 1));
    assert_eq!(sequences(&store.read(&id("a"), 0, 10, &[]).await.unwrap()), [1, 2, 3]);
}

/// An append that expects another sequence says where the aggregate is.
pub async fn an_append_elsewhere_is_a_conflict_and_adds_nothing<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    append(&*store, "a", vec![event(1), event(2)]).await;
    for expected in [0, 1, 3] {
        let result = store.append(&id("a"), Expected::Sequence(expected), vec![event(3), event(4)]).await;
        assert!(
            matches!(&result, Err(StoreError::Conflict { aggregate, expected: e, actual: 2 })
                if *aggregate == id("a") && *e == expected),
            "{result:?}"
        );
    }
    assert_eq!(store.head(&id("a")).await.unwrap(), 2);
    let result = store.append(&id("b"), Expected::Sequence(1), vec![event(1)]).await;
    assert!(matches!(result, Err(StoreError::Conflict { actual: 0, .. })), "{result:?}");
}

/// A fact that is true whatever came before it needs no sequence.
pub async fn any_sequence_may_be_expected<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    for number in 1..=3 {
        assert_eq!(append(&*store, "a", vec![event(number)]).await.last_sequence(), number);
    }
}

/// Nothing to append, or nowhere to append it to, is a mistake of the caller's.
pub async fn an_append_without_events_or_aggregate_is_invalid<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    for (aggregate, events) in [("a", vec![]), ("", vec![event(1)])] {
        let result = store.append(&id(aggregate), Expected::Any, events).await;
        assert!(matches!(&result, Err(error @ StoreError::Invalid(_)) if !error.is_transient()), "{result:?}");
    }
}

/// A document goes ahead of events: neither without the other, unless the events are refused.
pub async fn an_append_behind_a_document_needs_it<H: Harness>() {
    let harness = H::new().await;
    let (store, jobs) = (harness.events(), jobs(&harness).await);
    let job = Job::new(1, "ann", 5);
    let behind = store.append_behind(jobs.ahead(&job), &id("a"), Expected::Sequence(0), vec![event(1)]).await.unwrap();
    assert_eq!(sequences(&behind.appended.unwrap().events), [1]);
    let found = jobs.get("1").await.unwrap().unwrap();
    assert_eq!((found.document, found.revision), (job.clone(), behind.revision));
    // A document that is there already: nothing happens.
    let again = Job::new(1, "bob", 6);
    let refused = store.append_behind(jobs.ahead(&again), &id("a"), Expected::Sequence(1), vec![event(2)]).await;
    assert!(matches!(refused, Err(StoreError::RevisionMismatch { .. })), "{refused:?}");
    assert_eq!(store.head(&id("a")).await.unwrap(), 1);
    assert_eq!(jobs.get("1").await.unwrap().unwrap().document, job);
    // Events that are refused: the document stays.
    let other = Job::new(2, "ann", 7);
    let behind =
        store.append_behind(jobs.ahead(&other), &id("a"), Expected::Sequence(7), vec![event(2)]).await.unwrap();
    assert!(matches!(behind.appended, Err(StoreError::Conflict { actual: 1, .. })), "{:?}", behind.appended);
    assert_eq!(jobs.get("2").await.unwrap().unwrap().revision, behind.revision);
    // Events that can't be: neither.
    let without = store.append_behind(jobs.ahead(&Job::new(3, "ann", 8)), &id("a"), Expected::Any, Vec::new()).await;
    assert!(matches!(without, Err(StoreError::Invalid(_))), "{without:?}");
    assert!(jobs.get("3").await.unwrap().is_none());
}

/// An append whose ids are all there returns what is there: at once, after others, and whatever it expects.
pub async fn a_repeated_append_adds_nothing<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    let batch = vec![event(1), event(2)];
    let first = store.append(&id("a"), Expected::Sequence(0), batch.clone()).await.unwrap();
    for later in 0..2 {
        for expected in [Expected::Any, Expected::Sequence(0), Expected::Sequence(2 + later), Expected::Sequence(99)] {
            let again = store.append(&id("a"), expected, batch.clone()).await.unwrap();
            assert!(again.duplicate, "{expected:?}");
            assert_eq!(again.events, first.events);
        }
        let part = store.append(&id("a"), Expected::Any, batch[1..].to_vec()).await.unwrap();
        assert_eq!((part.duplicate, sequences(&part.events)), (true, vec![2]));
        append(&*store, "a", vec![event("another")]).await;
    }
    assert_eq!(store.head(&id("a")).await.unwrap(), 4);
}

/// An id that is in use in part of a batch or twice in one is refused, and none of the batch is stored.
pub async fn an_id_of_another_event_is_refused_with_its_batch<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    let known = event("known");
    append(&*store, "a", vec![known.clone()]).await;
    let twice = event("twice");
    let cases = [
        ("behind a new one", vec![event("new"), known.clone()], known.event_id),
        ("before a new one", vec![known.clone(), event("new")], known.event_id),
        ("twice in a batch", vec![twice.clone(), twice.clone()], twice.event_id),
    ];
    for (case, events, used) in cases {
        for expected in [Expected::Any, Expected::Sequence(1)] {
            let result = store.append(&id("a"), expected, events.clone()).await;
            assert!(matches!(&result, Err(StoreError::EventIdInUse(id)) if *id == used), "{case}: {result:?}");
            assert_eq!(store.head(&id("a")).await.unwrap(), 1, "{case}");
        }
    }
    assert!(store.get(&twice.event_id).await.unwrap().is_none());
    assert_eq!(append(&*store, "a", vec![event("next")]).await.last_sequence(), 2);
}

/// An id that another aggregate has is refused, and none of the batch is stored. Where the database is a stand-in that
/// does not enforce that, the store has at least declared it.
pub async fn an_id_of_another_aggregate_is_refused<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    if let EventIds::Taken { declared } = harness.event_ids().await {
        assert!(declared, "the store has no unique index over event ids");
        return;
    }
    let known = event("known");
    append(&*store, "a", vec![known.clone()]).await;
    append(&*store, "c", vec![event("first")]).await;
    for events in [vec![known.clone()], vec![event("new"), known.clone()], vec![known.clone(), event("new")]] {
        for (aggregate, head) in [("b", 0), ("c", 1)] {
            for expected in [Expected::Any, Expected::Sequence(head)] {
                let result = store.append(&id(aggregate), expected, events.clone()).await;
                assert!(matches!(&result, Err(StoreError::EventIdInUse(id)) if *id == known.event_id), "{result:?}");
                assert_eq!(store.head(&id(aggregate)).await.unwrap(), head);
            }
        }
    }
    assert_eq!(store.get(&known.event_id).await.unwrap().unwrap().event.aggregate_id, "a");
    assert_eq!(append(&*store, "c", vec![event("next")]).await.last_sequence(), 2);
}

/// The envelope and the payload come back as they were given, with place and time added.
pub async fn what_is_recorded_is_what_was_given<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    let mut new = event("payload");
    new.causation_id = "cause".to_owned();
    let before = SystemTime::now() - Duration::from_millis(1);
    let appended = append(&*store, "a", vec![new.clone()]).await.events.remove(0);
    let read = store.read(&id("a"), 0, 1, &[]).await.unwrap().remove(0);
    assert_eq!(appended, read);
    let found = store.get(&new.event_id).await.unwrap().unwrap();
    assert_eq!(found.event, read);
    assert!(found.position.0 > 0);
    assert_eq!((read.event_id.as_str(), read.aggregate_id.as_str()), (new.event_id.to_string().as_str(), "a"));
    assert_eq!((&read.causation_id, &read.correlation_id), (&new.causation_id, &new.correlation_id));
    assert_eq!((&read.producer, &read.user_id, &read.traceparent), (&new.producer, &new.user_id, &new.traceparent));
    assert_eq!(read.payload.as_ref(), Some(&new.payload));
    assert_eq!(read.payload.as_ref().map(Payload::event_type), Some(EventType::ExecutionStarted));
    let at = from_timestamp(read.occurred_at.as_ref().unwrap()).unwrap();
    assert!(at >= before && at <= SystemTime::now());
}

/// 16 writers on one aggregate.
pub async fn concurrent_appends_leave_no_hole_and_no_duplicate<H: Harness>() {
    let harness = H::new().await;
    let mut writers = Vec::new();
    for writer in 0..16 {
        let store = harness.events();
        writers.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            for number in 0..12 {
                let batch = (0..=number % 3).map(|_| event_of(EventType::PodCreated, writer)).collect();
                mine.extend(sequences(&append(&*store, "a", batch).await.events));
            }
            mine
        }));
    }
    let mut all = BTreeSet::new();
    for writer in writers {
        let mine = writer.await.unwrap();
        assert!(mine.is_sorted());
        for sequence in mine {
            assert!(all.insert(sequence), "{sequence} twice");
        }
    }
    let expected: Vec<u64> = (1..=16 * 24).collect();
    assert!(all.iter().eq(&expected));
    let store = harness.events();
    assert_eq!(sequences(&store.read(&id("a"), 0, 1_000, &[]).await.unwrap()), expected);
}

/// Of the writers that expect one sequence one gets it; the others are told, and come in when they try again.
pub async fn concurrent_appends_that_expect_a_sequence_have_one_winner<H: Harness>() {
    let harness = H::new().await;
    let mut writers = Vec::new();
    for writer in 0..16 {
        let store = harness.events();
        writers.push(tokio::spawn(async move {
            let (mut expected, mut conflicts) = (0, 0);
            loop {
                match store.append(&id("a"), Expected::Sequence(expected), vec![event(writer)]).await {
                    Ok(appended) => return (appended.last_sequence(), conflicts),
                    Err(StoreError::Conflict { actual, .. }) => (expected, conflicts) = (actual, conflicts + 1),
                    Err(error) => panic!("{error}"),
                }
            }
        }));
    }
    let (mut all, mut conflicts) = (BTreeSet::new(), 0);
    for writer in writers {
        let (sequence, lost) = writer.await.unwrap();
        all.insert(sequence);
        conflicts += lost;
    }
    assert!(all.into_iter().eq(1..=16));
    assert!(conflicts >= 15, "all but one began at a sequence that was gone");
}
