//! Groups, their offsets and their lag, without a consumer on top.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use runmesh_events::GroupName;

use super::{Harness, TOPIC, TOPIC_2, record, until, within};
use crate::{Batch, Bus, Delivery, GroupLag, Lane, Subscription};

const GROUP: GroupName = GroupName::new("subscriptions");
const OTHER: GroupName = GroupName::new("subscriptions-other");

/// Reads so many records.
pub async fn read(subscription: &mut dyn Subscription, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        match within("a record is delivered", subscription.next()).await.unwrap() {
            Batch::Records(records) => deliveries.extend(records),
            Batch::Revoked(lanes) | Batch::Lost(lanes) => {
                assert!(deliveries.iter().all(|delivery| !lanes.contains(&delivery.lane)));
            }
        }
    }
    assert_eq!(deliveries.len(), count);
    deliveries
}

/// The last offset of each lane.
fn offsets(deliveries: &[Delivery]) -> Vec<(Lane, u64)> {
    let last: HashMap<Lane, u64> = deliveries.iter().map(|delivery| (delivery.lane, delivery.offset)).collect();
    last.into_iter().collect()
}

fn sequences(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.event().unwrap().sequence).collect()
}

async fn publish(bus: &dyn Bus, key: &str, sequences: std::ops::RangeInclusive<u64>) {
    for result in bus.publish(sequences.map(|sequence| record(TOPIC, key, sequence)).collect()).await {
        result.unwrap();
    }
}

/// A group that was never seen gets what was published before it.
pub async fn a_new_group_starts_at_the_earliest<H: Harness>() {
    let harness = H::new().await;
    publish(&*harness.bus(), "a", 1..=3).await;
    let harness = harness.reopen().await;
    let mut subscription = harness.bus().subscribe(GROUP, &[TOPIC, TOPIC_2]).await.unwrap();
    assert_eq!(sequences(&read(subscription.as_mut(), 3).await), [1, 2, 3]);
}

/// Groups do not share records.
pub async fn each_group_gets_everything<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let mut one = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    let mut other = bus.subscribe(OTHER, &[TOPIC]).await.unwrap();
    publish(&*bus, "a", 1..=5).await;
    let (one, other) = tokio::join!(read(one.as_mut(), 5), read(other.as_mut(), 5));
    assert_eq!(sequences(&one), [1, 2, 3, 4, 5]);
    assert_eq!(sequences(&other), [1, 2, 3, 4, 5]);
}

/// A group goes on where it committed, after its member left and after the process was started again.
pub async fn only_what_was_not_committed_is_delivered_again<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    publish(&*bus, "a", 1..=6).await;
    let mut subscription = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    let deliveries = read(subscription.as_mut(), 6).await;
    subscription.commit(&offsets(&deliveries[..2])).await.unwrap();
    drop(subscription);
    let mut subscription = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    let deliveries = read(subscription.as_mut(), 4).await;
    assert_eq!(sequences(&deliveries), [3, 4, 5, 6]);
    subscription.commit(&offsets(&deliveries[..2])).await.unwrap();
    drop((subscription, bus));
    let harness = harness.reopen().await;
    let mut subscription = harness.bus().subscribe(GROUP, &[TOPIC]).await.unwrap();
    assert_eq!(sequences(&read(subscription.as_mut(), 2).await), [5, 6]);
}

/// `next` may be dropped at any time.
pub async fn a_next_that_was_dropped_loses_nothing<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let mut subscription = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    let publishing = tokio::spawn({
        let bus = harness.bus();
        async move {
            for sequence in 1..=200 {
                publish(&*bus, "a", sequence..=sequence).await;
            }
        }
    });
    let mut found = Vec::new();
    let read = async {
        while found.len() < 200 {
            tokio::select! {
                biased;
                batch = subscription.next() => if let Batch::Records(records) = batch.unwrap() {
                    found.extend(sequences(&records));
                },
                () = tokio::task::yield_now() => {}
            }
        }
    };
    within("all are read", read).await;
    publishing.await.unwrap();
    assert_eq!(found, (1..=200).collect::<Vec<_>>());
}

/// A subscription that waits gets a record when it is published, not when some time-out is over.
pub async fn an_idle_subscription_wakes_at_once<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let mut subscription = bus.subscribe(GROUP, &[TOPIC, TOPIC_2]).await.unwrap();
    publish(&*bus, "a", 1..=1).await;
    // Now it has joined.
    read(subscription.as_mut(), 1).await;
    let mut waits = Vec::new();
    for sequence in 2..=6 {
        let waiting = tokio::spawn(async move {
            let found = read(subscription.as_mut(), 1).await;
            (found, subscription)
        });
        let published = Instant::now();
        publish(&*bus, "a", sequence..=sequence).await;
        let (found, back) = waiting.await.unwrap();
        waits.push(published.elapsed());
        assert_eq!(sequences(&found), [sequence]);
        subscription = back;
    }
    waits.sort();
    // The machine may be busy, but a time-out would show in each.
    assert!(waits[0] < Duration::from_millis(250), "{waits:?}");
}

/// The lag is what is behind the committed offset: everything for a group that never was, nothing after all is committed.
pub async fn lag_counts_what_was_not_committed<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    publish(&*bus, "a", 1..=4).await;
    let lag = |records| vec![GroupLag { event_type: TOPIC, records }, GroupLag { event_type: TOPIC_2, records: 0 }];
    assert_eq!(bus.lag(GROUP, &[TOPIC, TOPIC_2]).await.unwrap(), lag(4));
    let mut subscription = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    let deliveries = read(subscription.as_mut(), 4).await;
    assert_eq!(bus.lag(GROUP, &[TOPIC, TOPIC_2]).await.unwrap(), lag(4));
    subscription.commit(&offsets(&deliveries[..3])).await.unwrap();
    assert_eq!(bus.lag(GROUP, &[TOPIC, TOPIC_2]).await.unwrap(), lag(1));
    subscription.commit(&offsets(&deliveries)).await.unwrap();
    assert_eq!(bus.lag(GROUP, &[TOPIC, TOPIC_2]).await.unwrap(), lag(0));
}

/// Waits until a group has nothing to do on a topic.
pub(super) async fn until_done(bus: &dyn Bus, group: GroupName, event_type: runmesh_events::EventType) {
    until("all is committed", || async {
        bus.lag(group, &[event_type]).await.unwrap().iter().all(|lag| lag.records == 0)
    })
    .await;
}

/// How many records a group has not finished on a topic.
pub(super) async fn lag_of(bus: &dyn Bus, group: GroupName, event_type: runmesh_events::EventType) -> u64 {
    bus.lag(group, &[event_type]).await.unwrap().iter().map(|lag| lag.records).sum()
}
