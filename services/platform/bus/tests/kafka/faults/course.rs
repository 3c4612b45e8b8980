//! What happened in the course of a fault, and what must hold of it. There are two groups, one of each protocol.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures::TryStreamExt as _;
use runmesh_bus::{
    Bus, Consumer, ConsumerGroup, HandlerError, KafkaBus, Lane,
    conformance::{Probe, Running, TOPIC, record, start, until, within},
    kafka::{GroupProtocol, KafkaConfig},
};
use runmesh_events::GroupName;
use runmesh_store::{SqliteStore, sqlite::SqliteConfig};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{brokers::specs, members::KEYS};

/// How long a handler takes.
pub(crate) const WORK: Duration = Duration::from_millis(2);

/// How long it may take until all members handle events. After an outage about as long as a session (10 s) some come back as
/// new members of a classic group, which then waits for those that they were until their sessions are over, perhaps more than
/// once; and a broker takes its time to come back where others start beside it.
const OUTAGE: Duration = Duration::from_secs(180);

/// The groups.
pub(crate) const PROTOCOLS: [GroupProtocol; 2] = [GroupProtocol::Classic, GroupProtocol::Consumer];

/// The group with this protocol.
pub(crate) fn group_of(protocol: GroupProtocol) -> GroupName {
    match protocol {
        GroupProtocol::Classic => GroupName::new("faults-classic"),
        GroupProtocol::Consumer => GroupName::new("faults-consumer"),
    }
}

/// A member of a group: its protocol and its name in it.
pub(crate) type Member = (GroupProtocol, &'static str);

/// An event that a member handled, from when to when. It has no end while it is in hand, and for ever where its process
/// was killed.
#[derive(Debug, Clone)]
pub(crate) struct Handled {
    pub(crate) member: Member,
    pub(crate) key: String,
    pub(crate) sequence: u64,
    pub(crate) begun: SystemTime,
    pub(crate) ended: Option<SystemTime>,
}

/// What members handled, those of this process and those of others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Vec<Handled>>>);

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Vec<Handled>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, member: Member, key: &str, sequence: u64, begun: SystemTime) {
        self.lock().push(Handled { member, key: key.to_owned(), sequence, begun, ended: None });
    }

    pub(crate) fn end(&self, member: Member, key: &str, sequence: u64, ended: SystemTime) {
        let mut all = self.lock();
        let of = |one: &&mut Handled| one.member == member && one.key == key && one.sequence == sequence;
        let one = all.iter_mut().rev().filter(|one| one.ended.is_none()).find(of);
        one.unwrap().ended = Some(ended);
    }

    pub(crate) fn all(&self) -> Vec<Handled> {
        self.lock().clone()
    }

    /// How many events were handled, by this member and since then.
    fn count(&self, member: Member, since: SystemTime) -> usize {
        self.lock().iter().filter(|one| one.member == member && one.ended.is_some_and(|ended| ended > since)).count()
    }
}

/// A record that is durable: where it is, and what.
type Published = BTreeMap<(Lane, u64), (String, u64, String)>;

/// A load of events on a cluster.
pub(crate) struct Course {
    pub(crate) bus: Arc<KafkaBus>,
    pub(crate) journal: Journal,
    pub(crate) folder: TempDir,
    config: KafkaConfig,
    store: SqliteStore,
    commits: Commits,
    stop_publishing: CancellationToken,
    publishing: Option<JoinHandle<Published>>,
    stop_watching: CancellationToken,
    watching: Option<JoinHandle<()>>,
}

/// What a group had committed, and when that was seen.
type Commit = (GroupProtocol, SystemTime, Lane, u64);

/// What was seen so far.
type Commits = Arc<Mutex<Vec<Commit>>>;

impl Course {
    /// Makes the topics and begins to publish. Whatever fails ends the test: outages have to be bridged.
    pub(crate) async fn start(config: KafkaConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("runmesh.db"))).unwrap();
        let bus = Arc::new(KafkaBus::open(config.clone()).unwrap());
        within("the topics are made", bus.ensure_topics(&specs())).await.unwrap();
        let (stop_publishing, stop_watching) = (CancellationToken::new(), CancellationToken::new());
        let commits = Commits::default();
        let publishing = Some(tokio::spawn(publish(Arc::clone(&bus), stop_publishing.clone())));
        let watching = Some(tokio::spawn(watch(Arc::clone(&bus), Arc::clone(&commits), stop_watching.clone())));
        let journal = Journal::default();
        Self { bus, journal, folder, config, store, commits, stop_publishing, publishing, stop_watching, watching }
    }

    fn commits_of(&self, protocol: GroupProtocol) -> Vec<Commit> {
        let commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        commits.iter().filter(|commit| commit.0 == protocol).copied().collect()
    }

    /// Members of these names in each group, in this process.
    pub(crate) async fn members(&self, names: &[&'static str]) -> Vec<Running> {
        let mut members = Vec::new();
        for protocol in PROTOCOLS {
            for name in names {
                members.push(self.member((protocol, name)).await);
            }
        }
        members
    }

    async fn member(&self, member: Member) -> Running {
        let journal = self.journal.clone();
        let probe = Probe::new(move |incoming| {
            let journal = journal.clone();
            async move {
                let event = &incoming.event;
                journal.begin(member, &event.aggregate_id, event.sequence, SystemTime::now());
                tokio::time::sleep(WORK).await;
                journal.end(member, &event.aggregate_id, event.sequence, SystemTime::now());
                Ok::<(), HandlerError>(())
            }
        });
        let config = KafkaConfig { group_protocol: member.0, ..self.config.clone() };
        let bus = Arc::new(KafkaBus::open(config).unwrap());
        let consumer = Consumer::new(bus, Arc::new(self.store.clone())).await.unwrap();
        start(&consumer, ConsumerGroup::new(group_of(member.0), &[TOPIC], probe))
    }

    /// Waits until each group's members of these names have handled so many more events from now on, each, and a commit of
    /// the group was seen.
    pub(crate) async fn progress(&self, names: &[&'static str], events: usize) {
        let now = SystemTime::now();
        let deadline = Instant::now() + OUTAGE;
        for protocol in PROTOCOLS {
            for name in names {
                let member = (protocol, *name);
                while self.journal.count(member, now) < events {
                    let of =
                        |protocol| names.iter().map(move |name| self.journal.count((protocol, name), now)).collect();
                    let counts: [Vec<usize>; 2] = PROTOCOLS.map(of);
                    assert!(
                        Instant::now() < deadline,
                        "{member:?} handles too few; of {names:?}, classic first: {counts:?}"
                    );
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            while !self.commits_of(protocol).iter().any(|(_, seen, ..)| *seen > now) {
                assert!(Instant::now() < deadline, "no commit of {protocol:?} was seen");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Ends the publishing and waits until the groups have done it all. Then: every record that was acknowledged is on its
    /// topic once; each group has handled every event, and those of a key in order, first times counted; nothing was
    /// committed before it was handled. Returns what each group handled, in the order in which it was begun.
    pub(crate) async fn finish(&mut self) -> [Vec<Handled>; 2] {
        self.stop_publishing.cancel();
        let published = within("what is on its way is published", self.publishing.take().unwrap()).await.unwrap();
        for protocol in PROTOCOLS {
            until("the group is done", async || {
                self.bus.lag(group_of(protocol), &[TOPIC]).await.is_ok_and(|lag| lag[0].records == 0)
            })
            .await;
        }
        self.stop_watching.cancel();
        within("the watching ends", self.watching.take().unwrap()).await.unwrap();
        self.check_topic(&published).await;
        let mut all = self.journal.all();
        all.sort_by_key(|one| one.begun);
        PROTOCOLS.map(|protocol| {
            let handled: Vec<Handled> = all.iter().filter(|one| one.member.0 == protocol).cloned().collect();
            check_handled(&handled, &published);
            check_commits(&handled, &published, &self.commits_of(protocol));
            handled
        })
    }

    async fn check_topic(&self, published: &Published) {
        let mut found: HashMap<String, usize> = HashMap::new();
        for extent in self.bus.extents(&[TOPIC]).await.unwrap() {
            let records = self.bus.read(extent.lane, extent.first, extent.next).await.unwrap();
            let records: Vec<_> = within("a lane is read", records.try_collect()).await.unwrap();
            for record in records {
                *found.entry(record.event().unwrap().event_id.clone()).or_default() += 1;
            }
        }
        for (place, (key, sequence, id)) in published {
            assert_eq!(found.get(id), Some(&1), "{key}/{sequence}, acknowledged at {place:?}");
        }
        assert_eq!(found.len(), published.len(), "nothing else");
    }
}

fn check_handled(handled: &[Handled], published: &Published) {
    let mut last: HashMap<&str, u64> = HashMap::new();
    for one in handled.iter().filter(|one| one.ended.is_some()) {
        let last = last.entry(&one.key).or_default();
        assert!(one.sequence <= *last + 1, "{one:?} comes before {}", *last + 1);
        *last = one.sequence.max(*last);
    }
    let expected = published.len() / KEYS;
    assert!(last.len() == KEYS && last.values().all(|last| *last == expected as u64), "{expected} of each: {last:?}");
}

fn check_commits(handled: &[Handled], published: &Published, commits: &[Commit]) {
    let mut first_end: HashMap<(&str, u64), SystemTime> = HashMap::new();
    for one in handled {
        let Some(ended) = one.ended else { continue };
        let first = first_end.entry((&one.key, one.sequence)).or_insert(ended);
        *first = ended.min(*first);
    }
    let mut checked: BTreeMap<Lane, u64> = BTreeMap::new();
    for (_, seen, lane, next) in commits {
        let from = checked.insert(*lane, *next).unwrap_or_default();
        assert!(from <= *next, "{lane:?} went back from {from} to {next}");
        for (place, (key, sequence, _)) in published.range((*lane, from)..(*lane, *next)) {
            let ended = first_end[&(key.as_str(), *sequence)];
            assert!(ended <= *seen, "{place:?} was committed before {key}/{sequence} was handled");
        }
    }
    // Everything was checked, and not only at the end.
    let ends: BTreeMap<Lane, u64> = published.keys().map(|(lane, offset)| (*lane, offset + 1)).collect();
    assert_eq!(checked, ends);
    assert!(commits.len() > ends.len(), "{commits:?}");
}

/// Publishes until it is stopped, the events of each key one after the other.
async fn publish(bus: Arc<KafkaBus>, stop: CancellationToken) -> Published {
    let mut published = Published::new();
    for sequence in 1.. {
        if stop.is_cancelled() {
            break;
        }
        let keys: Vec<String> = (0..KEYS).map(|key| format!("key-{key}")).collect();
        let records: Vec<_> = keys.iter().map(|key| record(TOPIC, key, sequence)).collect();
        let ids: Vec<String> = records.iter().map(|record| header(record, "ce_id")).collect();
        for ((key, id), result) in keys.into_iter().zip(ids).zip(bus.publish(records).await) {
            let placement = result.unwrap();
            let lane = Lane { event_type: TOPIC, partition: placement.partition };
            published.insert((lane, placement.offset), (key, sequence, id));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    published
}

fn header(record: &runmesh_bus::Record, name: &str) -> String {
    let (_, value) = record.headers.iter().find(|(header, _)| header == name).unwrap();
    String::from_utf8(value.to_vec()).unwrap()
}

/// Looks at what the groups have committed, again and again, and once more when it is stopped.
async fn watch(bus: Arc<KafkaBus>, commits: Commits, stop: CancellationToken) {
    let mut known = HashSet::new();
    loop {
        let is_last = stop.is_cancelled();
        for protocol in PROTOCOLS {
            let found = match bus.committed(group_of(protocol), &[TOPIC]).await {
                Ok(found) => found,
                // In an outage there is nothing to see.
                Err(error) => {
                    assert!(!is_last, "{error}");
                    continue;
                }
            };
            for (lane, next) in found {
                // The answer may be older than now, never younger.
                if known.insert((group_of(protocol), lane, next)) {
                    let mut commits = commits.lock().unwrap_or_else(PoisonError::into_inner);
                    commits.push((protocol, SystemTime::now(), lane, next));
                }
            }
        }
        if is_last {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
