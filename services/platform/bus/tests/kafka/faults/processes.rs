//! Members in processes of their own, which are stopped and killed.

use std::{
    cell::Cell,
    collections::HashSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use runmesh_bus::{
    Consumer, ConsumerGroup, HandlerError, KafkaBus,
    conformance::{Probe, TOPIC, until},
    kafka::{GroupProtocol, KafkaConfig},
};
use runmesh_servers::KafkaOptions;
use runmesh_store::{SqliteStore, sqlite::SqliteConfig};
use tokio_util::sync::CancellationToken;

use super::course::{Course, Handled, Journal, Member, PROTOCOLS, WORK, group_of};
use crate::{
    brokers::{blocking, private},
    members::KEYS,
};

const SESSION: Duration = Duration::from_secs(10);

/// How long the handler of a member takes that has to have much in hand: longer than the events take to come.
const SLOW_WORK: Duration = Duration::from_millis(50);

/// The threads that work in a process.
const THREADS: usize = 2;

/// What a process is told by its environment.
const NAME: &str = "MESH_TEST_MEMBER";
const BROKERS: &str = "MESH_TEST_MEMBER_BROKERS";
const PROTOCOL: &str = "MESH_TEST_MEMBER_PROTOCOL";
const IS_STATIC: &str = "MESH_TEST_MEMBER_IS_STATIC";
const IS_SLOW: &str = "MESH_TEST_MEMBER_IS_SLOW";
const FOLDER: &str = "MESH_TEST_MEMBER_FOLDER";

/// A member in a process of its own. Dropping it kills it.
struct Process {
    child: Child,
    listening: Option<thread::JoinHandle<()>>,
}

impl Process {
    /// `marks`: variables that say more of it.
    fn start(course: &Course, member: Member, brokers: &str, marks: &[&str]) -> Self {
        let (protocol, name) = member;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "faults::processes::a_member_of_its_own", "--ignored", "--nocapture"]);
        command.env(NAME, name).env(BROKERS, brokers).env(FOLDER, course.folder.path());
        command.env(PROTOCOL, if protocol == GroupProtocol::Consumer { "consumer" } else { "classic" });
        command.envs(marks.iter().map(|mark| (mark, "")));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (lines, journal) = (child.stdout.take().unwrap(), course.journal.clone());
        let listening = thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                told(&journal, member, &line);
            }
        });
        Self { child, listening: Some(listening) }
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.listening.take().unwrap().join().unwrap();
    }

    /// Ends it in order.
    async fn end(mut self) {
        drop(self.child.stdin.take());
        let status = blocking(move || {
            let status = self.child.wait().unwrap();
            self.listening.take().unwrap().join().unwrap();
            status
        });
        assert!(status.await.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A line of a process: `@begin KEY SEQUENCE MICROSECONDS`, or `@end …`.
fn told(journal: &Journal, member: Member, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let [what, key, sequence, at] = words[..] else { return };
    let at = || SystemTime::UNIX_EPOCH + Duration::from_micros(at.parse().unwrap());
    match what {
        "@begin" => journal.begin(member, key, sequence.parse().unwrap(), at()),
        "@end" => journal.end(member, key, sequence.parse().unwrap(), at()),
        _ => {}
    }
}

/// Not a test: the process that [`Process::start`] starts. It ends when its standard input does.
#[test]
#[ignore = "it is the process of a member, which other tests start"]
fn a_member_of_its_own() {
    let Ok(name) = std::env::var(NAME) else { return };
    let told = |variable| std::env::var(variable).unwrap();
    let group_protocol = if told(PROTOCOL) == "consumer" { GroupProtocol::Consumer } else { GroupProtocol::Classic };
    let static_member = std::env::var_os(IS_STATIC).map(|_| name.clone());
    let config =
        KafkaConfig { group_protocol, static_member, session_timeout: SESSION, ..KafkaConfig::new(told(BROKERS)) };
    let store = SqliteConfig::new(Path::new(&told(FOLDER)).join(format!("{}-{name}.db", told(PROTOCOL))));
    let work = if std::env::var_os(IS_SLOW).is_some() { SLOW_WORK } else { WORK };
    let shutdown = CancellationToken::new();
    thread::spawn({
        let shutdown = shutdown.clone();
        move || {
            std::io::stdin().read_to_end(&mut Vec::new()).ok();
            shutdown.cancel();
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().unwrap();
    runtime.block_on(async {
        let bus = Arc::new(KafkaBus::open(config).unwrap());
        let consumer = Consumer::new(bus, Arc::new(SqliteStore::open(&store).unwrap())).await.unwrap();
        let probe = Probe::new(move |incoming| async move {
            let event = &incoming.event;
            say("@begin", &event.aggregate_id, event.sequence);
            tokio::time::sleep(work).await;
            say("@end", &event.aggregate_id, event.sequence);
            Ok::<(), HandlerError>(())
        });
        consumer.run(ConsumerGroup::new(group_of(group_protocol), &[TOPIC], probe), shutdown).await.unwrap();
    });
}

/// Says at once what happened, so that it is known even if the process is killed.
fn say(what: &str, key: &str, sequence: u64) {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {key} {sequence} {at}").unwrap();
    out.flush().unwrap();
}

/// A broker and a load of events on it.
async fn start() -> (runmesh_servers::Kafka, Course) {
    let options = KafkaOptions::default().set("group.consumer.session.timeout.ms", SESSION.as_millis());
    let kafka = private(options).await;
    let config = KafkaConfig { session_timeout: SESSION, ..KafkaConfig::new(kafka.bootstrap()) };
    let course = Course::start(config).await;
    (kafka, course)
}

/// A process stands still for longer than its session, and another takes its partitions over. When it goes on it finishes
/// what it has in hand and begins nothing more of what it had; what it would commit is refused; then it is a member again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_that_stands_still_begins_nothing_that_it_has_lost() {
    let (kafka, mut course) = start().await;
    let process = |protocol, name, marks: &[&str]| Process::start(&course, (protocol, name), &kafka.bootstrap(), marks);
    let paused = PROTOCOLS.map(|protocol| process(protocol, "paused", &[IS_SLOW]));
    course.progress(&["paused"], 50).await;
    let others = PROTOCOLS.map(|protocol| process(protocol, "other", &[]));
    course.progress(&["paused", "other"], 100).await;

    paused.iter().for_each(|paused| paused.signal("-STOP"));
    let stopped = SystemTime::now();
    until("the others have all partitions", async || {
        let all = course.journal.all();
        PROTOCOLS.iter().all(|protocol| {
            let new = all.iter().filter(|one| one.member == (*protocol, "other") && one.begun > stopped);
            new.map(|one| &one.key).collect::<HashSet<_>>().len() == KEYS
        })
    })
    .await;
    course.progress(&["other"], 500).await;
    let resumed = SystemTime::now();
    paused.iter().for_each(|paused| paused.signal("-CONT"));
    course.progress(&["paused", "other"], 200).await;
    let handled = course.finish().await;
    for process in paused.into_iter().chain(others) {
        process.end().await;
    }

    for handled in handled {
        let queued = handled.iter().filter(|one| one.member.1 == "other" && one.begun > stopped && one.begun < resumed);
        assert!(queued.count() > 500, "the other had something to take over");
        let in_hand = handled.iter().filter(|one| one.begun < stopped && one.ended.is_none_or(|ended| ended > resumed));
        assert!(in_hand.count() <= 16, "no more than one for each worker");
        let begun = handled.iter().filter(|one| one.member.1 == "paused" && one.begun > resumed);
        let wrong: Vec<_> = begun.filter_map(|one| Some((one, in_the_way(one, &handled)?))).collect();
        // A thread may have been stopped on its way into the handler.
        assert!(wrong.len() <= THREADS, "{wrong:?}");
    }
}

/// What another member has in hand or has done already of what a member begins.
fn in_the_way<'a>(one: &Handled, handled: &'a [Handled]) -> Option<&'a Handled> {
    handled.iter().filter(|other| other.member != one.member && other.key == one.key).find(|other| {
        let before = other.ended.is_some_and(|ended| ended <= one.begun);
        let after = one.ended.is_some_and(|ended| other.begun >= ended);
        !(before || after) || (before && other.sequence >= one.sequence)
    })
}

/// A process with a name that is killed and started again goes on with its partitions: at once with the classic protocol,
/// and when its session has run out with the newer one. With the classic one the other notices nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_that_is_killed_goes_on_with_its_partitions() {
    let (kafka, mut course) = start().await;
    let process = |protocol, name| Process::start(&course, (protocol, name), &kafka.bootstrap(), &[IS_STATIC]);
    let killed = PROTOCOLS.map(|protocol| process(protocol, "killed"));
    course.progress(&["killed"], 100).await;
    let others = PROTOCOLS.map(|protocol| process(protocol, "other"));
    course.progress(&["other", "killed"], 200).await;
    let since = Cell::new(0);
    let keys = |name| -> HashSet<String> {
        let all = course.journal.all();
        let own = all.into_iter().skip(since.get()).filter(|one| one.member == (GroupProtocol::Classic, name));
        own.map(|one| one.key).collect()
    };
    let from_now = || since.set(course.journal.all().len());
    until("each key has one member", async || {
        let (killed, other) = (keys("killed"), keys("other"));
        if !killed.is_disjoint(&other) {
            from_now();
        }
        killed.is_disjoint(&other) && killed.len() + other.len() == KEYS
    })
    .await;
    let before = keys("killed");

    for mut process in killed {
        process.kill();
    }
    from_now();
    let again = PROTOCOLS.map(|protocol| process(protocol, "killed"));
    until("it has all its keys again", async || keys("killed").is_superset(&before)).await;
    course.progress(&["other"], 300).await;
    assert_eq!(keys("killed"), before);
    assert!(keys("other").is_disjoint(&before), "partitions moved");
    course.finish().await;
    for process in again.into_iter().chain(others) {
        process.end().await;
    }
}
