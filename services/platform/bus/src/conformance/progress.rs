//! How a group gets on: order, parallel keys, commits, shutdown, crash.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use runmesh_events::GroupName;
use tokio::sync::{Semaphore, watch};

use super::{
    Harness, Probe, TOPIC, TOPIC_2, key_beside, publish, record, start,
    subscriptions::{lag_of, until_done},
    within,
};
use crate::{ConsumerGroup, Incoming};

const GROUP: GroupName = GroupName::new("progress");

/// A handler that waits for a permit at the events of one aggregate.
fn gated(aggregate: &'static str) -> (Arc<Semaphore>, Arc<Probe>) {
    let gate = Arc::new(Semaphore::new(0));
    let probe = Probe::new({
        let gate = Arc::clone(&gate);
        move |incoming: Incoming| {
            let gate = Arc::clone(&gate);
            async move {
                if incoming.event.aggregate_id == aggregate {
                    gate.acquire().await.unwrap().forget();
                }
                Ok(())
            }
        }
    });
    (gate, probe)
}

/// What comes behind an unfinished record in its lane is handled but not committed: after a crash it comes again.
pub async fn an_unfinished_record_holds_the_commit_back<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let beside = key_beside(TOPIC, "stuck");
    publish(
        &*bus,
        vec![record(TOPIC, "stuck", 1), record(TOPIC, &beside, 1), record(TOPIC, &beside, 2), record(TOPIC_2, "c", 1)],
    )
    .await;
    let (_gate, probe) = gated("stuck");
    let group = ConsumerGroup::new(GROUP, &[TOPIC, TOPIC_2], probe.clone());
    let running = start(&harness.consumer().await, group);
    probe.saw(&beside, 2).await;
    probe.saw("stuck", 1).await;
    // All lanes are committed together: when the other topic's is, this one's would be too.
    publish(&*bus, vec![record(TOPIC_2, "c", 2)]).await;
    until_done(&*bus, GROUP, TOPIC_2).await;
    assert_eq!(lag_of(&*bus, GROUP, TOPIC).await, 3);
    running.crash().await;
    drop(bus);

    let harness = harness.reopen().await;
    let (gate, probe) = gated("stuck");
    gate.add_permits(1);
    let running = start(&harness.consumer().await, ConsumerGroup::new(GROUP, &[TOPIC, TOPIC_2], probe.clone()));
    until_done(&*harness.bus(), GROUP, TOPIC).await;
    assert_eq!(probe.of("stuck"), [1]);
    assert_eq!(probe.of(&beside), [1, 2]);
    assert!(probe.of("c").is_empty(), "committed records do not come again");
    running.stop().await;
}

/// What lies between records that were begun is begun during a shutdown too, so that nothing of them comes again.
pub async fn a_shutdown_closes_the_gaps_between_what_was_begun<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let beside = key_beside(TOPIC, "stuck");
    publish(&*bus, vec![record(TOPIC, "stuck", 1), record(TOPIC, "stuck", 2), record(TOPIC, &beside, 1)]).await;
    let (gate, probe) = gated("stuck");
    let running = start(&harness.consumer().await, ConsumerGroup::new(GROUP, &[TOPIC], probe.clone()));
    probe.saw("stuck", 1).await;
    probe.saw(&beside, 1).await;
    running.shut_down();
    gate.add_permits(2);
    running.ended().await;
    assert_eq!(probe.of("stuck"), [1, 2]);
    assert_eq!(lag_of(&*bus, GROUP, TOPIC).await, 0);
}

/// Different keys are handled at once; the events of one key one at a time, in order.
pub async fn keys_run_in_parallel_and_each_in_order<H: Harness>() {
    let harness = H::new().await;
    let keys: Vec<String> = (0..32).map(|key| format!("key-{key}")).collect();
    let records = (1..=5).flat_map(|sequence| keys.iter().map(move |key| record(TOPIC, key, sequence))).collect();
    publish(&*harness.bus(), records).await;
    let busy: Arc<Mutex<HashSet<String>>> = Arc::default();
    let most = watch::Sender::new(0);
    let probe = Probe::new({
        let most = most.clone();
        move |incoming: Incoming| {
            let (busy, most) = (Arc::clone(&busy), most.clone());
            async move {
                let key = incoming.event.aggregate_id.clone();
                let at_once = {
                    let mut busy = busy.lock().unwrap();
                    assert!(busy.insert(key.clone()), "{key} is handled twice at once");
                    busy.len()
                };
                most.send_modify(|most| *most = at_once.max(*most));
                // Nobody goes on before two were seen at once.
                let mut seen = most.subscribe();
                within("two keys are handled at once", seen.wait_for(|most| *most >= 2)).await.unwrap();
                tokio::task::yield_now().await;
                busy.lock().unwrap().remove(&key);
                Ok(())
            }
        }
    });
    let running = start(&harness.consumer().await, ConsumerGroup::new(GROUP, &[TOPIC], probe.clone()));
    probe.saw_count(160).await;
    running.stop().await;
    let mut sequences: HashMap<String, Vec<u64>> = HashMap::new();
    for (key, sequence) in probe.seen() {
        sequences.entry(key).or_default().push(sequence);
    }
    assert!(sequences.len() == 32 && sequences.values().all(|all| *all == [1, 2, 3, 4, 5]), "{sequences:?}");
    assert_eq!(lag_of(&*harness.bus(), GROUP, TOPIC).await, 0);
    let letters = harness.dead_letters().await;
    assert!(letters.count_by("by_group").await.unwrap().is_empty());
}

/// At a shutdown the record in hand is finished and its offset committed; the next one is left for the next start.
pub async fn a_shutdown_finishes_and_commits_what_is_in_hand<H: Harness>() {
    let harness = H::new().await;
    publish(&*harness.bus(), vec![record(TOPIC, "a", 1), record(TOPIC, "a", 2)]).await;
    let (gate, probe) = gated("a");
    let running = start(&harness.consumer().await, ConsumerGroup::new(GROUP, &[TOPIC], probe.clone()));
    probe.saw("a", 1).await;
    running.shut_down();
    gate.add_permits(1);
    running.ended().await;
    assert_eq!(probe.of("a"), [1]);
    assert_eq!(lag_of(&*harness.bus(), GROUP, TOPIC).await, 1);

    let harness = harness.reopen().await;
    let probe = Probe::accepting();
    let running = start(&harness.consumer().await, ConsumerGroup::new(GROUP, &[TOPIC], probe.clone()));
    probe.saw("a", 2).await;
    assert_eq!(probe.of("a"), [2]);
    running.stop().await;
}

/// What a crash interrupts comes again, in order.
pub async fn a_crash_delivers_again_what_was_not_finished<H: Harness>() {
    let harness = H::new().await;
    publish(&*harness.bus(), (1..=3).map(|sequence| record(TOPIC, "a", sequence)).collect()).await;
    let (gate, probe) = gated("a");
    let running = start(&harness.consumer().await, ConsumerGroup::new(GROUP, &[TOPIC], probe.clone()));
    gate.add_permits(1);
    probe.saw("a", 2).await;
    running.crash().await;

    let harness = harness.reopen().await;
    let probe = Probe::accepting();
    let running = start(&harness.consumer().await, ConsumerGroup::new(GROUP, &[TOPIC], probe.clone()));
    probe.saw("a", 3).await;
    // The first was finished; whether its offset was committed in time is open.
    assert!(matches!(probe.of("a")[..], [1, 2, 3] | [2, 3]), "{:?}", probe.of("a"));
    running.stop().await;
}
