//! Records that are not for everyone.

use runmesh_events::GroupName;

use super::{Harness, Probe, TOPIC, record, start, subscriptions::until_done};
use crate::{ConsumerGroup, DeadLetter, HandlerError, Record, header};

const GROUP: GroupName = GroupName::new("groups");
const OTHER: GroupName = GroupName::new("groups-other");

fn marked(sequence: u64, headers: &[(&str, &str)]) -> Record {
    let mut record = record(TOPIC, "a", sequence);
    record.headers.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_string().into())));
    record
}

/// Only the group that a redrive names handles it; the others pass over it.
pub async fn a_redrive_reaches_only_its_group<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let consumer = harness.consumer().await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let probe = Probe::new(move |incoming| {
        tell.send(DeadLetter::redrive_attempt(&incoming.delivery)).unwrap();
        async { Ok(()) }
    });
    let other = Probe::accepting();
    let one = start(&consumer, ConsumerGroup::new(GROUP, &[TOPIC], probe.clone()));
    let two = start(&consumer, ConsumerGroup::new(OTHER, &[TOPIC], other.clone()));
    let redrive = marked(1, &[(header::REDRIVE_GROUP, GROUP.as_str()), (header::ATTEMPT, "2")]);
    for result in bus.publish(vec![redrive, record(TOPIC, "a", 2)]).await {
        result.unwrap();
    }
    probe.saw("a", 2).await;
    other.saw("a", 2).await;
    assert_eq!(probe.of("a"), [1, 2]);
    assert_eq!(other.of("a"), [2]);
    assert_eq!((told.recv().await, told.recv().await), (Some(Some(2)), Some(None)));
    until_done(&*bus, OTHER, TOPIC).await;
    one.stop().await;
    two.stop().await;
}

/// A group sees replayed events only where it said that it wants them.
pub async fn a_replay_is_skipped_unless_opted_in<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let consumer = harness.consumer().await;
    let (probe, willing) = (Probe::accepting(), Probe::accepting());
    let one = start(&consumer, ConsumerGroup::new(GROUP, &[TOPIC], probe.clone()));
    let group = ConsumerGroup { sees_replays: true, ..ConsumerGroup::new(OTHER, &[TOPIC], willing.clone()) };
    let two = start(&consumer, group);
    for result in bus.publish(vec![marked(1, &[(header::REPLAY, "replay-1")]), record(TOPIC, "a", 2)]).await {
        result.unwrap();
    }
    probe.saw("a", 2).await;
    willing.saw("a", 2).await;
    assert_eq!(probe.of("a"), [2]);
    assert_eq!(willing.of("a"), [1, 2]);
    until_done(&*bus, GROUP, TOPIC).await;
    one.stop().await;
    two.stop().await;
}

/// A replay for one group is passed over by others, also by those that want replayed events. It is of no dead letter, also where
/// the group has one of the event.
pub async fn a_replay_for_one_group_reaches_it_alone<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let consumer = harness.consumer().await;
    let failing = Probe::new(|incoming| async move {
        match incoming.delivery.header(header::REPLAY) {
            Some(_) => Ok(()),
            None => Err(HandlerError::permanent("it can't be handled")),
        }
    });
    let other = Probe::accepting();
    let group = |name, probe| ConsumerGroup { sees_replays: true, ..ConsumerGroup::new(name, &[TOPIC], probe) };
    let one = start(&consumer, group(GROUP, failing.clone()));
    let two = start(&consumer, group(OTHER, other.clone()));
    let first = record(TOPIC, "a", 1);
    let mut replay = first.clone();
    for (name, value) in [(header::REPLAY, "replay-1"), (header::REDRIVE_GROUP, GROUP.as_str())] {
        replay.headers.push((name.to_owned(), value.to_owned().into()));
    }
    for result in bus.publish(vec![first, replay, record(TOPIC, "a", 2)]).await {
        result.unwrap();
    }
    failing.saw("a", 2).await;
    other.saw("a", 2).await;
    assert_eq!(failing.of("a"), [1, 1, 2]);
    assert_eq!(other.of("a"), [1, 2]);
    until_done(&*bus, OTHER, TOPIC).await;
    one.stop().await;
    two.stop().await;
}
