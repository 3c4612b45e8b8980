//! Topics and groups seen from beside.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use futures::TryStreamExt as _;
use runmesh_events::GroupName;

use super::{Harness, TOPIC, TOPIC_2, record, subscriptions::read, within};
use crate::{Bus, Delivery, Extent, Lane, Placement, Record};

const GROUP: GroupName = GroupName::new("inspection");

async fn publish(bus: &dyn Bus, records: Vec<Record>) -> Vec<Placement> {
    bus.publish(records).await.into_iter().map(Result::unwrap).collect()
}

/// The extent of the lane of this number among those of a topic; the only one where the whole topic is a lane.
fn extent(extents: &[Extent], topic: runmesh_events::EventType, partition: i32) -> Extent {
    let of_topic: Vec<&Extent> = extents.iter().filter(|extent| extent.lane.event_type == topic).collect();
    match of_topic[..] {
        [only] => *only,
        _ => **of_topic.iter().find(|extent| extent.lane.partition == partition).unwrap(),
    }
}

async fn records(bus: &dyn Bus, lane: Lane, from: u64, until: u64) -> Vec<Delivery> {
    let stream = bus.read(lane, from, until).await.unwrap();
    within("a lane is read", stream.try_collect()).await.unwrap()
}

/// What was published lies within the extents, and what a lane has can be read again and again, in whole or in part, as it
/// was published, whatever groups do.
pub async fn what_was_published_can_be_read_from_beside<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let empty = bus.extents(&[TOPIC]).await.unwrap();
    for Extent { lane, next, .. } in &empty {
        assert!(records(&*bus, *lane, 0, *next).await.is_empty());
    }
    let keys: Vec<String> = (0..20).map(|key| format!("key-{key}")).collect();
    let published: Vec<Record> =
        (1..=15).flat_map(|sequence| keys.iter().map(move |key| record(TOPIC, key, sequence))).collect();
    let placements = publish(&*bus, published.clone()).await;
    publish(&*bus, vec![record(TOPIC_2, "other", 1)]).await;
    let extents = bus.extents(&[TOPIC, TOPIC_2]).await.unwrap();

    let mut found: HashMap<Lane, Vec<Delivery>> = HashMap::new();
    for Extent { lane, first, next } in &extents {
        found.insert(*lane, records(&*bus, *lane, *first, *next).await);
    }
    for (record, placement) in published.iter().zip(&placements) {
        let extent = extent(&extents, TOPIC, placement.partition);
        assert!((extent.first..extent.next).contains(&placement.offset), "{placement:?} {extent:?}");
        let delivery = found[&extent.lane].iter().find(|delivery| delivery.offset == placement.offset).unwrap();
        assert_eq!((&delivery.key, &delivery.value), (&record.key, &record.value));
        assert_eq!((delivery.headers(), delivery.timestamp), (record.headers.clone(), record.timestamp));
        assert_eq!((delivery.partition, delivery.lane), (placement.partition, extent.lane));
    }
    let of_topic: usize = found.iter().filter(|(lane, _)| lane.event_type == TOPIC).map(|(_, all)| all.len()).sum();
    assert_eq!(of_topic, published.len(), "nothing else");
    for (lane, all) in &found {
        let offsets: Vec<u64> = all.iter().map(|delivery| delivery.offset).collect();
        assert!(offsets.is_sorted(), "{offsets:?}");
        let [_, from, .., until, _] = offsets[..] else { continue };
        let part: Vec<u64> = records(&*bus, *lane, from, until).await.iter().map(|delivery| delivery.offset).collect();
        assert_eq!(part, offsets[1..offsets.len() - 2], "of {lane:?} from {from} to {until}");
        assert!(records(&*bus, *lane, from, from).await.is_empty());
    }
}

/// A reading that is given up in the middle harms neither the bus nor the next reading.
pub async fn a_reading_can_be_given_up<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let placements = publish(&*bus, (1..=2_000).map(|sequence| record(TOPIC, "a", sequence)).collect()).await;
    let lane = extent(&bus.extents(&[TOPIC]).await.unwrap(), TOPIC, placements[0].partition).lane;
    let (from, until) = (placements[0].offset, placements[1_999].offset + 1);
    let mut stream = bus.read(lane, from, until).await.unwrap();
    assert_eq!(within("a record is read", stream.try_next()).await.unwrap().unwrap().event().unwrap().sequence, 1);
    drop(stream);
    assert_eq!(records(&*bus, lane, from, until).await.len(), 2_000);
}

/// A group's place is where it goes on, in the lanes in which it has committed.
pub async fn a_groups_place_is_where_it_goes_on<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let topics = [TOPIC, TOPIC_2];
    publish(&*bus, (1..=3).map(|sequence| record(TOPIC, "a", sequence)).collect()).await;
    publish(&*bus, vec![record(TOPIC_2, "a", 4)]).await;
    assert_eq!(bus.committed(GROUP, &topics).await.unwrap(), []);
    let mut subscription = bus.subscribe(GROUP, &topics).await.unwrap();
    let deliveries = read(subscription.as_mut(), 4).await;
    assert_eq!(bus.committed(GROUP, &topics).await.unwrap(), []);
    let second = deliveries.iter().filter(|delivery| delivery.event_type == TOPIC).nth(1).unwrap();
    subscription.commit(&[(second.lane, second.offset)]).await.unwrap();
    assert_eq!(bus.committed(GROUP, &topics).await.unwrap(), [(second.lane, second.offset + 1)]);
    let last = deliveries.iter().rfind(|delivery| delivery.event_type == TOPIC).unwrap();
    subscription.commit(&[(last.lane, last.offset)]).await.unwrap();
    drop((subscription, bus));

    let harness = harness.reopen().await;
    let bus = harness.bus();
    let next = bus.committed(GROUP, &topics).await.unwrap();
    assert_eq!(next, [(last.lane, last.offset + 1)]);
    let end = bus.extents(&[TOPIC]).await.unwrap().into_iter().find(|extent| extent.lane == last.lane).unwrap().next;
    assert!(records(&*bus, last.lane, next[0].1, end).await.is_empty(), "nothing is left for the group");
}

/// A new group that is to begin at the end gets what comes from then on, also if it had handled nothing by the next start.
pub async fn a_new_group_can_begin_at_the_end_and_a_known_one_stays_where_it_is<H: Harness>() {
    let mut harness = H::new().await;
    let topics = [TOPIC, TOPIC_2];
    for sequence in 1..=2 {
        let bus = harness.bus();
        bus.begin_at_end(GROUP, &topics).await.unwrap();
        publish(&*bus, vec![record(TOPIC, "a", sequence)]).await;
        drop(bus);
        harness = harness.reopen().await;
    }
    let bus = harness.bus();
    let mut subscription = bus.subscribe(GROUP, &topics).await.unwrap();
    let deliveries = read(subscription.as_mut(), 2).await;
    assert_eq!(sequences(&deliveries), [1, 2], "the group is known since its first beginning");
    subscription.commit(&[(deliveries[0].lane, deliveries[0].offset)]).await.unwrap();
    drop(subscription);
    bus.begin_at_end(GROUP, &topics).await.unwrap();
    publish(&*bus, vec![record(TOPIC_2, "a", 3)]).await;
    let other = GroupName::new("inspection-later");
    bus.begin_at_end(other, &topics).await.unwrap();
    publish(&*bus, vec![record(TOPIC, "a", 4)]).await;
    let mut subscription = bus.subscribe(GROUP, &topics).await.unwrap();
    let mut known = sequences(&read(subscription.as_mut(), 3).await);
    known.sort_unstable();
    assert_eq!(known, [2, 3, 4]);
    let mut subscription = bus.subscribe(other, &topics).await.unwrap();
    assert_eq!(sequences(&read(subscription.as_mut(), 1).await), [4]);
}

fn sequences(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.event().unwrap().sequence).collect()
}

/// A time leads to the first record of this time or later. Not of the suite: not every test cluster can do it.
pub async fn a_time_leads_to_its_first_record<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000 * unix_seconds());
    let at = |minutes: u64| start - Duration::from_secs(60 * (60 - minutes));
    let timed = |minutes| Record { timestamp: at(minutes), ..record(TOPIC, "a", minutes) };
    // Times need not rise: a redrive keeps that of what it repeats.
    let placements = publish(&*bus, [10, 20, 15, 30].map(timed).to_vec()).await;
    let lane = extent(&bus.extents(&[TOPIC]).await.unwrap(), TOPIC, placements[0].partition).lane;
    let found = async |minutes| bus.offsets_at(&[TOPIC, TOPIC_2], at(minutes)).await.unwrap();
    assert_eq!(found(5).await, [(lane, placements[0].offset)]);
    assert_eq!(found(10).await, [(lane, placements[0].offset)]);
    assert_eq!(found(11).await, [(lane, placements[1].offset)]);
    assert_eq!(found(30).await, [(lane, placements[3].offset)]);
    assert_eq!(found(31).await, []);
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}
