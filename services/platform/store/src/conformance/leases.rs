//! Leases: one holder at a time, and the next when it is gone.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::sleep;

use super::Harness;
use crate::Leases;

/// Long enough that no lease ends while a case looks elsewhere.
const LONG: Duration = Duration::from_secs(300);

/// Short enough to wait for its end.
const SHORT: Duration = Duration::from_millis(50);

async fn leases<H: Harness>(harness: &H, holder: &str) -> Leases {
    Leases::open(harness.documents(), holder).await.unwrap()
}

/// Waits until a lease is over by the clock that others go by.
async fn ended(leases: &Leases, name: &str) {
    while leases.is_held(name).await.unwrap() {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Of those that want a lease at the same time one gets it.
pub async fn one_of_many_gets_a_lease<H: Harness>() {
    let harness = H::new().await;
    let mut wanting = Vec::new();
    for number in 0..16 {
        wanting.push(leases(&harness, &format!("holder-{number}")).await);
    }
    for name in ["one", "two"] {
        let taken = join_all(wanting.iter().map(|leases| leases.acquire(name, LONG))).await;
        let taken: Vec<_> = taken.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(taken.len(), 1, "{name}");
        assert!(taken[0].is_in_force() && taken[0].name() == name);
    }
}

/// Who holds a lease renews it, and takes it again; nobody else gets it. Its token grows each time.
pub async fn a_lease_is_renewed_and_kept_from_others<H: Harness>() {
    let harness = H::new().await;
    let (ann, bob) = (leases(&harness, "ann").await, leases(&harness, "bob").await);
    assert!(!ann.is_held("lease").await.unwrap());
    let mut lease = ann.acquire("lease", LONG).await.unwrap().unwrap();
    assert!(bob.acquire("lease", LONG).await.unwrap().is_none());
    assert!(bob.is_held("lease").await.unwrap());
    let (token, over_at) = (lease.token(), lease.over_at());
    assert!(ann.renew(&mut lease).await.unwrap());
    assert!(lease.token() > token && lease.over_at() > over_at);
    let again = ann.acquire("lease", LONG).await.unwrap().unwrap();
    assert!(again.token() > lease.token());
    // The older of the two is no lease any more.
    assert!(!ann.renew(&mut lease).await.unwrap());
    ann.release(lease).await.unwrap();
    assert!(bob.acquire("lease", LONG).await.unwrap().is_none(), "a lease is given back by its newest token alone");
}

/// A lease that its holder let run out is another's; the holder learns of it and does not disturb.
pub async fn a_lease_that_ran_out_is_taken_over_and_its_holder_told<H: Harness>() {
    let harness = H::new().await;
    let (ann, bob) = (leases(&harness, "ann").await, leases(&harness, "bob").await);
    let mut lease = ann.acquire("lease", SHORT).await.unwrap().unwrap();
    ended(&bob, "lease").await;
    assert!(!lease.is_in_force());
    let taken = bob.acquire("lease", LONG).await.unwrap().unwrap();
    assert!(taken.token() > lease.token(), "its token fences the one before");
    assert!(!ann.renew(&mut lease).await.unwrap());
    assert!(ann.acquire("lease", LONG).await.unwrap().is_none());
    ann.release(lease).await.unwrap();
    assert!(ann.is_held("lease").await.unwrap(), "what was lost can't be given back");
    // Nobody took this one meanwhile: its holder may still go on with it.
    let mut late = ann.acquire("late", SHORT).await.unwrap().unwrap();
    ended(&ann, "late").await;
    assert!(ann.renew(&mut late).await.unwrap());
}

/// Whoever waits for a lease gets it when it is given back, with a greater token.
pub async fn a_lease_given_back_is_free_at_once<H: Harness>() {
    let harness = H::new().await;
    let (ann, bob) = (leases(&harness, "ann").await, leases(&harness, "bob").await);
    let mut newest = 0;
    for _ in 0..3 {
        for holder in [&ann, &bob] {
            let lease = holder.acquire("lease", LONG).await.unwrap().unwrap();
            assert!(lease.token() > newest);
            newest = lease.token();
            holder.release(lease).await.unwrap();
            assert!(!holder.is_held("lease").await.unwrap());
        }
    }
    let lease = ann.acquire("lease", SHORT).await.unwrap().unwrap();
    let waiting = tokio::spawn(async move { bob.wait_for("lease", SHORT).await });
    ann.release(lease).await.unwrap();
    assert!(waiting.await.unwrap().token() > newest);
}

/// Only those that ran out, and only those whose names begin so.
pub async fn leases_that_ran_out_are_found_by_their_prefix<H: Harness>() {
    let harness = H::new().await;
    let ann = leases(&harness, "ann").await;
    for (name, length) in [("a/1", SHORT), ("a/2", LONG), ("a/3", SHORT), ("b/1", SHORT), ("a", SHORT)] {
        ann.acquire(name, length).await.unwrap().unwrap();
    }
    for name in ["a/1", "a/3", "b/1", "a"] {
        ended(&ann, name).await;
    }
    let over = leases(&harness, "bob").await.run_out("a/").await.unwrap();
    assert_eq!(over.iter().map(crate::Lease::name).collect::<Vec<_>>(), ["a/1", "a/3"]);
    for lease in over {
        ann.release(lease).await.unwrap();
    }
    assert!(ann.run_out("a/").await.unwrap().is_empty());
    assert!(ann.is_held("a/2").await.unwrap());
}
