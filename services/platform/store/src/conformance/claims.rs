//! Claiming what is due, with a lease and a fencing token.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use super::{Harness, Job, jobs};
use crate::StoreError;

const LEASE: Duration = Duration::from_millis(1_000);

fn at(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// What is due comes the earliest first; what is not due yet, or never, does not come.
pub async fn a_due_document_is_claimed_once<H: Harness>() {
    let harness = H::new().await;
    let jobs = jobs(&harness).await;
    jobs.insert(&Job::new("never", "ann", 1)).await.unwrap();
    jobs.insert(&Job::new("late", "ann", 1).due_at(2_001)).await.unwrap();
    jobs.insert(&Job::new("second", "ann", 1).due_at(2_000)).await.unwrap();
    let revision = jobs.insert(&Job::new("first", "ann", 1).due_at(1_000)).await.unwrap();
    assert!(jobs.claim_due(at(999), LEASE, 10).await.unwrap().is_empty());
    let claims = jobs.claim_due(at(2_000), LEASE, 1).await.unwrap();
    assert_eq!((claims.len(), claims[0].document.id.as_str()), (1, "first"));
    assert!(claims[0].token > revision);
    let claims = jobs.claim_due(at(2_000), LEASE, 10).await.unwrap();
    assert_eq!((claims.len(), claims[0].document.id.as_str()), (1, "second"));
    assert!(jobs.claim_due(at(2_000), LEASE, 10).await.unwrap().is_empty());
    // Its holder writes when it is due next; that ends the claim.
    let next = Job::new("second", "ann", 1).due_at(2_000);
    jobs.update(&next, claims[0].token).await.unwrap();
    assert_eq!(jobs.claim_due(at(2_000), LEASE, 10).await.unwrap().len(), 1);
    let first = jobs.get("first").await.unwrap().unwrap();
    jobs.update(&Job::new("first", "ann", 1), first.revision).await.unwrap();
    let ids: HashSet<String> =
        jobs.claim_due(at(1 << 40), LEASE, 10).await.unwrap().into_iter().map(|claim| claim.document.id).collect();
    assert_eq!(ids, ["second", "late"].map(str::to_owned).into());
}

/// 16 claimers over 200 documents.
pub async fn concurrent_claims_share_nothing<H: Harness>() {
    let harness = H::new().await;
    let jobs = jobs(&harness).await;
    for number in 0..200 {
        jobs.insert(&Job::new(number, "ann", 1).due_at(number % 7)).await.unwrap();
    }
    let mut claimers = Vec::new();
    for claimer in 0..16 {
        let jobs = jobs.clone();
        claimers.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claims = jobs.claim_due(at(1_000), LEASE, 1 + claimer % 5).await.unwrap();
                if claims.is_empty() {
                    return mine;
                }
                assert!(claims.len() <= 1 + claimer % 5);
                mine.extend(claims.into_iter().map(|claim| claim.document.id));
            }
        }));
    }
    let mut all = HashSet::new();
    for claimer in claimers {
        for id in claimer.await.unwrap() {
            assert!(all.insert(id.clone()), "{id} was claimed twice");
        }
    }
    assert_eq!(all.len(), 200);
}

/// A holder that comes too late can't write any more, and does not disturb the next one.
pub async fn a_lease_that_is_over_is_claimed_again_and_fences_its_holder<H: Harness>() {
    let harness = H::new().await;
    let jobs = jobs(&harness).await;
    jobs.insert(&Job::new(1, "ann", 0).due_at(1_000)).await.unwrap();
    let first = jobs.claim_due(at(1_000), LEASE, 1).await.unwrap().remove(0);
    assert!(jobs.claim_due(at(1_999), LEASE, 1).await.unwrap().is_empty());
    let second = jobs.claim_due(at(2_000), LEASE, 1).await.unwrap().remove(0);
    assert!(second.token > first.token);
    let late = jobs.update(&Job::new(1, "late", 0), first.token).await;
    assert!(matches!(late, Err(StoreError::RevisionMismatch { .. })), "{late:?}");
    assert!(matches!(jobs.delete_if("1", first.token).await, Err(StoreError::RevisionMismatch { .. })));
    jobs.update(&Job::new(1, "in time", 0), second.token).await.unwrap();
    assert_eq!(jobs.get("1").await.unwrap().unwrap().document.owner, "in time");
}
