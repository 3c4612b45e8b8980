//! Members that come and go, and ones that can't keep up, with both protocols.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use runmesh_bus::{
    Batch, Bus as _, BusError, KafkaBus, Lane, Subscription,
    conformance::{TOPIC, until, within},
    kafka::{GroupProtocol, KafkaConfig},
};
use tokio::sync::Semaphore;

use crate::{
    brokers::Clean,
    members::{Bench, GROUP, KEYS, taking},
};

/// Long enough that the others' records are in hand when partitions move.
const WORK: Duration = Duration::from_millis(2);

/// Runs a case with each protocol.
macro_rules! with_both_protocols {
    ($($case:ident),+ $(,)?) => {
        mod classic {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $case() {
                    super::$case(runmesh_bus::kafka::GroupProtocol::Classic).await;
                }
            )+
        }
        mod consumer {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $case() {
                    super::$case(runmesh_bus::kafka::GroupProtocol::Consumer).await;
                }
            )+
        }
    };
}

with_both_protocols!(
    partitions_move_after_what_is_in_hand_is_finished,
    a_member_without_room_hears_that_its_partitions_move,
    partitions_do_not_wait_for_ever,
    a_member_that_comes_back_by_its_name_finds_its_partitions,
    of_two_members_of_one_name_one_ends,
);

fn config(broker: &Clean, group_protocol: GroupProtocol) -> KafkaConfig {
    KafkaConfig { group_protocol, ..broker.config() }
}

/// While a second member joins and the first leaves, each event is handled once, and those of a key in order: what a
/// member has in hand is finished and committed before the partition moves.
async fn partitions_move_after_what_is_in_hand_is_finished(protocol: GroupProtocol) {
    let broker = Clean::broker().await;
    let mut bench = Bench::new(config(&broker, protocol));
    let (one, first) = bench.member("one", taking(WORK)).await;
    bench.publish_until("the first member works", || !first.seen().is_empty()).await;
    let (two, second) = bench.member("two", taking(WORK)).await;
    bench.publish_until("the second member works", || second.seen().len() > 100).await;
    let before = first.seen().len();
    bench.publish_until("the first member still works", || first.seen().len() > before + 100).await;
    one.stop().await;
    let after = second.seen().len();
    bench.publish_until("the second goes on alone", || second.seen().len() > after + 500).await;
    bench.until_done().await;
    two.stop().await;
    let told = bench.told();
    assert_eq!(bench.check(&told), [], "handled again");
    assert!(["one", "two"].iter().all(|name| told.iter().filter(|told| told.0 == *name).count() > 100));
}

/// A member that has taken on all that it can still hears at once that partitions move, and leaves to the other what it
/// has not begun.
async fn a_member_without_room_hears_that_its_partitions_move(protocol: GroupProtocol) {
    const SLOW: Duration = Duration::from_millis(300);
    let broker = Clean::broker().await;
    let mut bench = Bench::new(config(&broker, protocol));
    // More than a member takes on.
    for _ in 0..80 {
        bench.publish().await;
    }
    let (one, first) = bench.member("one", taking(SLOW)).await;
    until("the first member is at work", async || first.seen().len() >= 16).await;
    let joined = Instant::now();
    let (two, second) = bench.member("two", taking(Duration::ZERO)).await;
    until("the second member works", async || !second.seen().is_empty()).await;
    let waited = joined.elapsed();
    // At this pace the first would take 20 s for what it has taken on.
    assert!(waited < Duration::from_secs(12), "{waited:?}");
    one.stop().await;
    bench.until_done().await;
    two.stop().await;
    let told = bench.told();
    assert_eq!(bench.check(&told), [], "handled again");
}

/// What is in hand for longer than there is patience does not hold up its partition: the other member handles it again, and
/// nothing is lost or committed too early.
async fn partitions_do_not_wait_for_ever(protocol: GroupProtocol) {
    let broker = Clean::broker().await;
    let config = KafkaConfig { revoke_patience: Duration::from_millis(500), ..config(&broker, protocol) };
    let mut bench = Bench::new(config);
    bench.publish().await;
    let gate = Arc::new(Semaphore::new(0));
    let stuck = Arc::clone(&gate);
    let (one, first) = bench
        .member("one", move |_| {
            let gate = Arc::clone(&stuck);
            async move { drop(gate.acquire().await) }
        })
        .await;
    until("the first member is stuck", async || first.seen().len() == 16).await;
    let (two, second) = bench.member("two", taking(Duration::ZERO)).await;
    until("the second member works", async || !second.seen().is_empty()).await;
    assert!(bench.lag().await > 0, "what is stuck is not committed");
    gate.add_permits(KEYS);
    bench.until_done().await;
    bench.publish().await;
    bench.until_done().await;
    one.stop().await;
    two.stop().await;
    let told = bench.told();
    let again = bench.check(&told);
    assert!(again.len() <= 16, "no more than what was in hand: {again:?}");
}

/// A subscription, the lanes that it is known to have, and how far it is in each.
struct Follower {
    subscription: Box<dyn Subscription>,
    lanes: BTreeMap<Lane, u64>,
}

impl Follower {
    async fn join(bus: &KafkaBus) -> Self {
        Self { subscription: bus.subscribe(GROUP, &[TOPIC]).await.unwrap(), lanes: BTreeMap::new() }
    }

    fn lanes(&self) -> BTreeSet<Lane> {
        self.lanes.keys().copied().collect()
    }

    /// Takes and commits records until none come for so long. Returns whether lanes were taken away.
    async fn follow(&mut self, quiet: Duration) -> bool {
        let mut moved = false;
        while let Ok(batch) = tokio::time::timeout(quiet, self.subscription.next()).await {
            match batch.unwrap() {
                Batch::Records(records) => {
                    for record in records {
                        let last = self.lanes.insert(record.lane, record.offset);
                        assert!(last.is_none_or(|last| last < record.offset), "{:?} again", record.lane);
                    }
                    let offsets: Vec<(Lane, u64)> = self.lanes.iter().map(|(lane, offset)| (*lane, *offset)).collect();
                    // Between two generations of the group a commit is refused for the moment.
                    while let Err(error) = self.subscription.commit(&offsets).await {
                        assert!(error.is_transient(), "{error}");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                Batch::Revoked(lanes) | Batch::Lost(lanes) => {
                    moved = true;
                    self.lanes.retain(|lane, _| !lanes.contains(lane));
                }
            }
        }
        moved
    }
}

/// With a name, a member that leaves and comes back has the partitions that it had, and the others notice nothing.
async fn a_member_that_comes_back_by_its_name_finds_its_partitions(protocol: GroupProtocol) {
    const QUIET: Duration = Duration::from_millis(250);
    let broker = Clean::broker().await;
    let named = |name: &str| KafkaConfig { static_member: Some(name.to_owned()), ..config(&broker, protocol) };
    let mut bench = Bench::new(config(&broker, protocol));
    let (one, two) = (KafkaBus::open(named("one")).unwrap(), KafkaBus::open(named("two")).unwrap());
    let (mut first, mut second) = (Follower::join(&one).await, Follower::join(&two).await);
    let settle = async {
        while first.lanes.len() != 3 || second.lanes.len() != 3 {
            bench.publish().await;
            first.follow(QUIET).await;
            second.follow(QUIET).await;
        }
    };
    within("each has half of the partitions", settle).await;

    let lanes = first.lanes();
    for _ in 0..2 {
        first.subscription.leave().await;
        drop(first);
        bench.publish().await;
        assert!(!second.follow(QUIET * 4).await, "partitions moved");
        first = Follower::join(&one).await;
        let come_back = async {
            while first.lanes() != lanes {
                first.follow(QUIET).await;
                assert!(first.lanes().is_subset(&lanes), "{:?} are not of {lanes:?}", first.lanes);
            }
        };
        within("it is back", come_back).await;
        assert!(!second.follow(QUIET).await, "partitions moved");
        assert_eq!(second.lanes.len(), 3);
    }
}

/// A name belongs to one member. Which of two ends depends on the protocol; it ends with an error that says why, and the
/// other one goes on.
async fn of_two_members_of_one_name_one_ends(protocol: GroupProtocol) {
    let broker = Clean::broker().await;
    let named = KafkaConfig {
        static_member: Some("one".to_owned()),
        // A newcomer waits so long for an earlier run of itself, times six. A member that stands still for half of it begins anew.
        session_timeout: Duration::from_secs(6),
        ..config(&broker, protocol)
    };
    let mut bench = Bench::new(named);
    let (one, first) = bench.member("one", taking(Duration::ZERO)).await;
    bench.publish_until("the first works", || !first.seen().is_empty()).await;
    let (two, second) = bench.member("two", taking(Duration::ZERO)).await;
    let (ended, goes_on, seen) = match protocol {
        GroupProtocol::Classic => (one, two, second),
        GroupProtocol::Consumer => (two, one, first),
    };
    match ended.result().await {
        Err(error @ BusError::Backend(_)) => {
            let text = error.to_string();
            assert!(text.contains("\"one\"") && text.contains(GROUP.as_str()), "{text}");
        }
        other => panic!("{other:?}"),
    }
    let before = seen.seen().len();
    bench.publish_until("the other goes on", || seen.seen().len() > before + KEYS).await;
    bench.until_done().await;
    goes_on.stop().await;
}

/// A consumer that does not ask for a long time does not fill the memory, and then gets everything, once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_gets_everything_in_order() {
    const ROUNDS: u64 = 1_000;
    let broker = Clean::broker().await;
    let mut bench = Bench::new(broker.config());
    let mut subscription = bench.bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    for _ in 0..ROUNDS {
        bench.publish().await;
    }
    let mut last: HashMap<String, u64> = HashMap::new();
    let mut left = bench.published * KEYS as u64;
    while left > 0 {
        let Batch::Records(records) = within("records come", subscription.next()).await.unwrap() else { continue };
        for delivery in records {
            let event = delivery.event().unwrap();
            let previous = last.insert(event.aggregate_id.clone(), event.sequence).unwrap_or_default();
            assert_eq!(event.sequence, previous + 1, "{}", event.aggregate_id);
            left -= 1;
        }
    }
    assert!(last.values().all(|sequence| *sequence == ROUNDS));
}

/// Who leaves its group leaves it at once: the next member does not wait for a time-out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_leaves_the_group_at_once() {
    let broker = Clean::broker().await;
    let config = KafkaConfig { session_timeout: Duration::from_secs(120), ..broker.config() };
    let mut bench = Bench::new(config);
    bench.publish().await;
    for leave in [true, false] {
        let mut subscription = bench.bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
        let batch = tokio::time::timeout(Duration::from_secs(60), subscription.next()).await.unwrap().unwrap();
        assert!(matches!(batch, Batch::Records(_)));
        if leave {
            subscription.leave().await;
        }
    }
}
