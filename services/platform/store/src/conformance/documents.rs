//! Single documents.

use super::{Harness, Job, OldJob, jobs};
use crate::{Documents, IndexValue, PageQuery, StoreError};

/// Insert, update, delete; each write has a greater revision.
pub async fn a_document_is_written_read_and_removed<H: Harness>() {
    let harness = H::new().await;
    let jobs = jobs(&harness).await;
    assert!(jobs.get("1").await.unwrap().is_none());
    let first = jobs.insert(&Job::new(1, "ann", 5)).await.unwrap();
    let found = jobs.get("1").await.unwrap().unwrap();
    assert_eq!((found.document, found.revision), (Job::new(1, "ann", 5), first));
    let second = jobs.update(&Job::new(1, "bob", 6), first).await.unwrap();
    assert!(second > first);
    let found = jobs.get("1").await.unwrap().unwrap();
    assert_eq!((found.document, found.revision), (Job::new(1, "bob", 6), second));
    assert!(jobs.delete("1").await.unwrap());
    assert!(!jobs.delete("1").await.unwrap());
    assert!(jobs.get("1").await.unwrap().is_none());
    jobs.insert(&Job::new("a 'quoted' \" id \u{1f980}", "", i64::MIN)).await.unwrap();
    assert!(jobs.get("a 'quoted' \" id \u{1f980}").await.unwrap().is_some());
}

fn mismatch<T>(result: Result<T, StoreError>) -> bool {
    matches!(&result, Err(error @ StoreError::RevisionMismatch { collection: "conformance_jobs", id })
        if id == "1" && !error.is_transient())
}

/// A write that saw another state changes nothing.
pub async fn a_write_from_another_revision_is_refused<H: Harness>() {
    let harness = H::new().await;
    let jobs = jobs(&harness).await;
    assert!(mismatch(jobs.update(&Job::new(1, "ann", 1), 1).await));
    let first = jobs.insert(&Job::new(1, "ann", 1)).await.unwrap();
    assert!(mismatch(jobs.insert(&Job::new(1, "bob", 2)).await));
    let second = jobs.update(&Job::new(1, "ann", 2), first).await.unwrap();
    assert!(mismatch(jobs.update(&Job::new(1, "bob", 3), first).await));
    assert!(mismatch(jobs.update(&Job::new(1, "bob", 3), second + 1).await));
    assert!(mismatch(jobs.delete_if("1", first).await));
    assert_eq!(jobs.get("1").await.unwrap().unwrap().document, Job::new(1, "ann", 2));
    assert!(jobs.delete_if("1", second).await.unwrap());
    assert!(!jobs.delete_if("1", second).await.unwrap());
}

/// 16 writers count one document up.
pub async fn one_of_many_writers_from_one_revision_wins<H: Harness>() {
    let harness = H::new().await;
    let jobs = jobs(&harness).await;
    jobs.insert(&Job::new(1, "ann", 0)).await.unwrap();
    let mut writers = Vec::new();
    for _ in 0..16 {
        let jobs = jobs.clone();
        writers.push(tokio::spawn(async move {
            for _ in 0..10 {
                loop {
                    let seen = jobs.get("1").await.unwrap().unwrap();
                    let next = Job { priority: seen.document.priority + 1, ..seen.document };
                    match jobs.update(&next, seen.revision).await {
                        Ok(_) => break,
                        Err(StoreError::RevisionMismatch { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(jobs.get("1").await.unwrap().unwrap().document.priority, 160);
}

/// Counts are per value of the first field, by value.
pub async fn documents_are_counted_by_value<H: Harness>() {
    let harness = H::new().await;
    let jobs = jobs(&harness).await;
    assert!(jobs.count_by("by_owner").await.unwrap().is_empty());
    for number in 0..10 {
        let owner = if number < 7 { "ann" } else { "bob" };
        jobs.insert(&Job::new(number, owner, number / 5)).await.unwrap();
    }
    let text = |text: &str| IndexValue::Text(text.to_owned());
    assert_eq!(jobs.count_by("by_owner").await.unwrap(), [(text("ann"), 7), (text("bob"), 3)]);
    let counts = [(IndexValue::Integer(0), 5), (IndexValue::Integer(1), 5)];
    assert_eq!(jobs.count_by("by_priority").await.unwrap(), counts);
    assert!(matches!(jobs.count_by("by_nothing").await, Err(StoreError::Invalid(_))));
}

/// Counts follow every kind of write, and can be had of a part of the values.
pub async fn counts_follow_the_documents<H: Harness>() {
    let harness = H::new().await;
    let jobs = jobs(&harness).await;
    let text = |text: &str| IndexValue::Text(text.to_owned());
    for number in 0..6 {
        jobs.insert(&Job::new(number, ["a/x", "a/y", "b/x"][usize::try_from(number % 3).unwrap()], 0)).await.unwrap();
    }
    assert_eq!(jobs.count_prefix("by_owner", "a/").await.unwrap(), [(text("a/x"), 2), (text("a/y"), 2)]);
    assert!(jobs.count_prefix("by_owner", "c").await.unwrap().is_empty());
    let seen = jobs.get("0").await.unwrap().unwrap();
    let moved = Job { owner: "c".to_owned(), ..seen.document.clone() };
    jobs.update(&moved, seen.revision).await.unwrap();
    assert!(mismatch(jobs.update(&Job::new(1, "d", 0), 1).await));
    let more = Job { priority: 5, ..moved.clone() };
    let revision = jobs.get("0").await.unwrap().unwrap().revision;
    let written =
        jobs.update_many(&[(more.clone(), revision), (Job::new(1, "d", 0), 1), (moved.clone(), revision)]).await;
    assert!(mismatch(clone(&written[1])), "{written:?}");
    // Two writes of one document: one of them is first.
    let winner = if written[0].is_ok() { more } else { moved };
    assert!(written[0].is_ok() != written[2].is_ok(), "{written:?}");
    assert_eq!(jobs.get("0").await.unwrap().unwrap().document, winner);
    jobs.delete("1").await.unwrap();
    jobs.delete("4").await.unwrap();
    let expected = [(text("a/x"), 1), (text("b/x"), 2), (text("c"), 1)];
    assert_eq!(jobs.count_by("by_owner").await.unwrap(), expected);
    drop(jobs);
    let harness = harness.reopen().await;
    assert_eq!(super::jobs(&harness).await.count_by("by_owner").await.unwrap(), expected);
}

fn clone<T: Clone>(result: &Result<T, StoreError>) -> Result<T, StoreError> {
    result.clone()
}

/// Documents that were kept before there was an index are found by it, and counted.
pub async fn older_documents_are_given_the_fields_of_a_new_index<H: Harness>() {
    let harness = H::new().await;
    let before: Documents<OldJob> = Documents::open(harness.documents()).await.unwrap();
    for number in 0..300 {
        before
            .insert(&OldJob(Job::new(number, ["ann", "bob"][usize::try_from(number % 2).unwrap()], 1).due_at(7)))
            .await
            .unwrap();
    }
    let revision = before.get("7").await.unwrap().unwrap().revision;
    drop(before);
    let harness = harness.reopen().await;
    let jobs = jobs(&harness).await;
    let text = |text: &str| IndexValue::Text(text.to_owned());
    assert_eq!(jobs.count_by("by_owner").await.unwrap(), [(text("ann"), 150), (text("bob"), 150)]);
    let query = PageQuery { index: "by_owner", equal: vec!["bob".into()], limit: 1_000, ..PageQuery::default() };
    let page = jobs.page(query).await.unwrap();
    assert!(page.documents.len() == 150 && page.documents.iter().all(|found| found.document.owner == "bob"));
    let kept = jobs.get("7").await.unwrap().unwrap();
    assert_eq!((kept.document, kept.revision), (Job::new(7, "bob", 1).due_at(7), revision));
    jobs.insert(&Job::new("new", "cyd", 1)).await.unwrap();
    assert_eq!(jobs.count_prefix("by_owner", "c").await.unwrap(), [(text("cyd"), 1)]);
}

/// Documents, revisions and due times are there after a restart.
pub async fn documents_survive_a_restart<H: Harness>() {
    let harness = H::new().await;
    let before = jobs(&harness).await;
    let revision = before.insert(&Job::new(1, "ann", 1).due_at(5)).await.unwrap();
    let revision = before.update(&Job::new(1, "ann", 2).due_at(5), revision).await.unwrap();
    drop(before);
    let harness = harness.reopen().await;
    let jobs = jobs(&harness).await;
    let found = jobs.get("1").await.unwrap().unwrap();
    assert_eq!((found.document.priority, found.revision), (2, revision));
    let now = std::time::SystemTime::now();
    assert_eq!(jobs.claim_due(now, std::time::Duration::from_secs(9), 9).await.unwrap().len(), 1);
}

/// A document that was removed and made again has a revision that it never had, so that who saw it before can't write it.
pub async fn a_document_made_again_does_not_come_back_to_a_revision<H: Harness>() {
    let harness = H::new().await;
    let jobs = jobs(&harness).await;
    let mut newest = 0;
    for round in 0..5 {
        let first = jobs.insert(&Job::new(1, "ann", round)).await.unwrap();
        assert!(first > newest, "round {round}: {first} after {newest}");
        if newest > 0 {
            assert!(mismatch(jobs.update(&Job::new(1, "late", 0), newest).await));
        }
        newest = jobs.update(&Job::new(1, "bob", round), first).await.unwrap();
        assert!(jobs.delete_if("1", newest).await.unwrap());
    }
}

/// Documents that are removed some at a time are gone, and are counted no more.
pub async fn documents_are_removed_some_at_a_time<H: Harness>() {
    let harness = H::new().await;
    let jobs = jobs(&harness).await;
    for number in 0..25 {
        jobs.insert(&Job::new(number, "ann", 1)).await.unwrap();
    }
    let store = harness.documents();
    let mut removed = Vec::new();
    while let some @ 1.. = store.delete_some("conformance_jobs", 10).await.unwrap() {
        removed.push(some);
    }
    assert_eq!(removed, [10, 10, 5]);
    assert_eq!(jobs.count_by("by_owner").await.unwrap(), []);
    assert!(jobs.get("7").await.unwrap().is_none());
}
