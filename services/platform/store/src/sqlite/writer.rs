//! What writes: one at a time, a thread for whatever waits, or whoever comes when nothing does. And the thread that makes
//! checkpoints.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

use bytes::Bytes;
use runmesh_events::AggregateId;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    Durability, backend,
    memory::Memory,
    queue::{Hurry, Kind, Queue, Sent},
    records::{Origin, TableRecord},
    tallies::Tallies,
};
use crate::{
    LiveEvents, StoreError, Stored,
    background::{PART, is_background},
};

/// After how many commits with much in them a checkpoint is due: about 16 MiB of log.
const CHECKPOINT_PAGES: u64 = 4_096;

/// From how many pages on, 256 MiB, commits wait for the log to be brought into the file.
const LOG_PAGES: i64 = 65_536;

/// What a job asks to be told to others once it is committed.
#[derive(Debug, Default)]
pub(super) struct Effects {
    records: Vec<TableRecord>,
    replaced: Vec<(Stored, Bytes)>,
    deleted: Vec<AggregateId>,
    /// What changes of the numbers of documents. They are written by the commit itself.
    pub(super) tallies: Tallies,
}

impl Effects {
    /// A record was written.
    pub(super) fn record(&mut self, record: TableRecord) {
        self.records.push(record);
    }

    /// An event was replaced by this one, which is written so.
    pub(super) fn replaced(&mut self, stored: Stored, body: Bytes) {
        self.replaced.push((stored, body));
    }

    /// An aggregate was deleted.
    pub(super) fn deleted(&mut self, aggregate: AggregateId) {
        self.deleted.push(aggregate);
    }

    /// Tells of what was committed: first the memory, so that whoever is woken finds it there.
    fn tell(self, memory: &Memory, live: &LiveEvents) {
        if self.records.is_empty() && self.replaced.is_empty() && self.deleted.is_empty() {
            return;
        }
        memory.committed(&self.records, &self.replaced, &self.deleted);
        let mut appended = Vec::with_capacity(self.records.len());
        let mut published = Vec::new();
        for TableRecord { position, event_type, origin, .. } in self.records {
            match origin {
                Origin::Fact(event) => appended.push(Stored { position, event }),
                Origin::Published { .. } => published.push(event_type),
            }
        }
        live.publish(&appended);
        for (stored, _) in &self.replaced {
            live.replaced(&stored.event);
        }
        for aggregate in &self.deleted {
            live.deleted(aggregate);
        }
        if !published.is_empty() {
            live.publish_types(&published);
        }
    }
}

/// What running a job did to the transaction that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ran {
    /// It is as the job wants it, or as it was before.
    Whole,
    /// The backend failed in the middle: nobody knows what of the job's changes is in it.
    Broken,
}

/// Whether an error says that the backend failed, and not that a job refuses what it is asked for.
pub(super) fn is_broken(error: &StoreError) -> bool {
    matches!(error, StoreError::Backend(_) | StoreError::Unavailable(_) | StoreError::Corrupt(_))
}

pub(super) trait Job: Send {
    fn run(&mut self, connection: &Connection, effects: &mut Effects) -> Ran;
    fn reply(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Work<R, F> {
    work: Option<F>,
    result: Option<Result<R, StoreError>>,
    reply: oneshot::Sender<Result<R, StoreError>>,
}

impl<R, F> Job for Work<R, F>
where
    R: Send,
    F: FnOnce(&Connection, &mut Effects) -> Result<R, StoreError> + Send,
{
    fn run(&mut self, connection: &Connection, effects: &mut Effects) -> Ran {
        let Some(work) = self.work.take() else { return Ran::Whole };
        let result = catch_unwind(AssertUnwindSafe(|| work(connection, effects)))
            .unwrap_or_else(|_| Err(StoreError::Backend("a write panicked".to_owned())));
        let ran = if result.as_ref().is_err_and(is_broken) { Ran::Broken } else { Ran::Whole };
        self.result = Some(result);
        ran
    }

    fn reply(self: Box<Self>, committed: Result<(), StoreError>) {
        let result = match (self.result, committed) {
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(result), Ok(())) => result,
            (None, Ok(())) => Err(StoreError::Backend("a write was not run".to_owned())),
        };
        // The caller may have gone away; what it asked for is done all the same.
        let _ = self.reply.send(result);
    }
}

/// The way to what writes. Dropping it lets the thread finish what it was given and waits for that.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Sent>>,
    thread: Option<thread::JoinHandle<()>>,
    desk: Arc<Desk>,
    /// Whether a commit waits for the disk: then it is made by the thread alone.
    waits: bool,
}

impl Writer {
    /// Starts the threads.
    pub(super) fn start(
        connection: Connection,
        checkpoints: Connection,
        memory: Arc<Memory>,
        live: LiveEvents,
        durability: Durability,
    ) -> Result<Self, StoreError> {
        let unavailable = |error: io::Error| StoreError::Unavailable(error.to_string());
        let (due, wanted) = mpsc::sync_channel::<()>(1);
        let pen = Pen { connection, changes: 0, due: Some(due) };
        let desk = Arc::new(Desk::new(pen, memory, live));
        let known = Arc::clone(&desk);
        let checkpointer = thread::Builder::new()
            .name("store-checkpoint".to_owned())
            .spawn(move || make_checkpoints(&checkpoints, &wanted, &known))
            .map_err(unavailable)?;
        let (jobs, queue) = mpsc::channel();
        let queue = Queue::new(queue, Arc::clone(&desk.hurry));
        let own = Arc::clone(&desk);
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write(&own, queue, checkpointer))
            .map_err(unavailable)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), desk, waits: durability == Durability::Power })
    }

    /// Runs a short `work` in the next commit and returns what it returned once that is durable. Where `work` refuses what it
    /// is asked for it has to leave everything as it was; an error of the backend undoes the whole commit, which then is
    /// not available for the others in it. The work is done even when the caller goes away.
    ///
    /// Where nobody else writes the commit is made here and now, which takes less than the way to the thread and back.
    pub(super) async fn run<R, F>(&self, work: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection, &mut Effects) -> Result<R, StoreError> + Send + 'static,
    {
        if self.waits || is_background() {
            return self.run_long(work).await;
        }
        let (mut job, answer) = job(work);
        if !self.desk.try_commit(&mut job) {
            return self.send(job, Kind::Live, answer).await;
        }
        // Of what is sent the queue does that.
        self.desk.hurry.note();
        answer.await.map_err(|_| gone())?
    }

    /// The same for a `work` that may be long, which is the thread's.
    pub(super) async fn run_long<R, F>(&self, work: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection, &mut Effects) -> Result<R, StoreError> + Send + 'static,
    {
        let kind = if is_background() { Kind::Background } else { Kind::Live };
        let (job, answer) = job(work);
        self.send(job, kind, answer).await
    }

    /// The same for a `work` on so many pieces.
    pub(super) async fn run_many<R, F>(&self, pieces: usize, work: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection, &mut Effects) -> Result<R, StoreError> + Send + 'static,
    {
        match pieces <= PART {
            true => self.run(work).await,
            false => self.run_long(work).await,
        }
    }

    /// The same for what is small and comes again and again with any work, also that of the background.
    pub(super) async fn run_upkeep<R, F>(&self, work: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection, &mut Effects) -> Result<R, StoreError> + Send + 'static,
    {
        let (job, answer) = job(work);
        self.send(job, Kind::Upkeep, answer).await
    }

    async fn send<R>(&self, job: Option<Box<dyn Job>>, kind: Kind, answer: Answer<R>) -> Result<R, StoreError> {
        let job = job.ok_or_else(gone)?;
        self.desk.sent.fetch_add(1, Ordering::AcqRel);
        self.jobs.as_ref().ok_or_else(gone)?.send((job, kind)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

type Answer<R> = oneshot::Receiver<Result<R, StoreError>>;

/// A job that is this work, and what it answers.
fn job<R, F>(work: F) -> (Option<Box<dyn Job>>, Answer<R>)
where
    R: Send + 'static,
    F: FnOnce(&Connection, &mut Effects) -> Result<R, StoreError> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    (Some(Box::new(Work { work: Some(work), result: None, reply })), answer)
}

fn gone() -> StoreError {
    StoreError::Unavailable("the writer has ended".to_owned())
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where commits are made, one at a time.
#[derive(Debug)]
struct Desk {
    pen: Mutex<Pen>,
    /// How many jobs the thread was given that it is not done with.
    sent: AtomicUsize,
    hurry: Arc<Hurry>,
    /// Whether the log has grown so much that the thread is to wait until all of it is in the file.
    overgrown: AtomicBool,
    memory: Arc<Memory>,
    live: LiveEvents,
}

/// What whoever makes a commit has in hand.
#[derive(Debug)]
struct Pen {
    connection: Connection,
    /// How many jobs were done since the last checkpoint was asked for.
    changes: u64,
    /// Asks for a checkpoint.
    due: Option<mpsc::SyncSender<()>>,
}

impl Desk {
    fn new(pen: Pen, memory: Arc<Memory>, live: LiveEvents) -> Self {
        let (sent, hurry, overgrown) = (AtomicUsize::new(0), Arc::default(), AtomicBool::new(false));
        Self { pen: Mutex::new(pen), sent, hurry, overgrown, memory, live }
    }

    fn pen(&self) -> MutexGuard<'_, Pen> {
        self.pen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a commit of one job, unless others write, or wait for it.
    fn try_commit(&self, job: &mut Option<Box<dyn Job>>) -> bool {
        if self.sent.load(Ordering::Acquire) > 0 || self.overgrown.load(Ordering::Relaxed) {
            return false;
        }
        let Ok(mut pen) = self.pen.try_lock() else { return false };
        let done = self.commit(&mut pen, |_| job.take());
        drop(pen);
        done.reply();
        true
    }

    /// Makes a commit of the jobs that `next` gives, which is told how many it gave already.
    fn commit(&self, pen: &mut Pen, next: impl FnMut(usize) -> Option<Box<dyn Job>>) -> Done {
        let (mut jobs, mut effects) = (Vec::new(), Effects::default());
        let committed = transaction(&pen.connection, next, &mut jobs, &mut effects);
        if committed.is_ok() {
            effects.tell(&self.memory, &self.live);
        }
        pen.changes += jobs.len() as u64;
        // Each job changes a few pages.
        if pen.changes * 4 >= CHECKPOINT_PAGES {
            pen.changes = 0;
            let _ = pen.due.as_ref().map(|due| due.try_send(()));
        }
        Done { jobs, committed }
    }
}

/// Jobs whose callers have yet to hear of it. They do when the next commit may begin: they may want to write more.
#[must_use]
struct Done {
    jobs: Vec<Box<dyn Job>>,
    committed: Result<(), StoreError>,
}

impl Done {
    fn reply(self) {
        for job in self.jobs {
            job.reply(self.committed.clone());
        }
    }
}

/// The thread that makes the commits of whatever is sent to it.
fn write(desk: &Desk, mut queue: Queue, checkpointer: thread::JoinHandle<()>) {
    while queue.wait() {
        let mut pen = desk.pen();
        let began = Instant::now();
        let done = desk.commit(&mut pen, |count| queue.next(began, count));
        drop(pen);
        desk.sent.fetch_sub(done.jobs.len(), Ordering::AcqRel);
        done.reply();
        if desk.overgrown.swap(false, Ordering::Relaxed) {
            // The other thread can't keep up, and the log begins anew only when all of it is in the file.
            checkpoint(&desk.pen().connection, "RESTART");
        }
    }
    desk.pen().due = None;
    let _ = checkpointer.join();
}

/// The thread that makes checkpoints.
fn make_checkpoints(connection: &Connection, wanted: &mpsc::Receiver<()>, desk: &Desk) {
    while wanted.recv().is_ok() {
        if checkpoint(connection, "PASSIVE") > LOG_PAGES {
            desk.overgrown.store(true, Ordering::Relaxed);
        }
    }
    // The store closes: leave one file behind, not a file and its log.
    checkpoint(connection, "TRUNCATE");
}

/// Brings the log into the file. Returns how many pages the log has.
fn checkpoint(connection: &Connection, mode: &str) -> i64 {
    let result = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get("log"));
    result.unwrap_or_else(|error| {
        tracing::warn!(%error, mode, "checkpoint failed; the log keeps growing until one succeeds");
        0
    })
}

/// Runs the jobs that `next` gives in one transaction. There are no savepoints in it: SQLite copies every
/// page that a job changes before the first change after one, which cost as much as the changes (docs/performance.md).
fn transaction(
    connection: &Connection,
    mut next: impl FnMut(usize) -> Option<Box<dyn Job>>,
    jobs: &mut Vec<Box<dyn Job>>,
    effects: &mut Effects,
) -> Result<(), StoreError> {
    if let Err(error) = execute(connection, "BEGIN IMMEDIATE") {
        // They are not left to wait for better times: their callers decide about that.
        jobs.extend(std::iter::from_fn(|| next(0)));
        return Err(error);
    }
    while let Some(mut job) = next(jobs.len()) {
        let ran = job.run(connection, effects);
        jobs.push(job);
        if ran == Ran::Broken {
            // On a full disk SQLite has undone the transaction by itself.
            if !connection.is_autocommit() {
                let _ = execute(connection, "ROLLBACK");
            }
            return Err(StoreError::Unavailable("a write of the same commit failed; the disk may be full".to_owned()));
        }
    }
    let written = effects.tallies.write(connection).and_then(|()| execute(connection, "COMMIT"));
    written.inspect_err(|_| {
        let _ = execute(connection, "ROLLBACK");
    })
}

fn execute(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    connection.prepare_cached(sql).and_then(|mut statement| statement.execute([])).map(drop).map_err(backend)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn insert(connection: &Connection, number: i64) -> Result<(), StoreError> {
        connection.execute("INSERT INTO numbers VALUES (?1)", [number]).map(drop).map_err(backend)
    }

    fn numbers(connection: &Connection) -> Result<Vec<i64>, StoreError> {
        let mut statement = connection.prepare("SELECT number FROM numbers ORDER BY 1").map_err(backend)?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(backend)?;
        rows.collect::<rusqlite::Result<_>>().map_err(backend)
    }

    fn writer(folder: &TempDir, durability: Durability) -> Writer {
        let open = || Connection::open(folder.path().join("numbers.db")).unwrap();
        let connection = open();
        let tables = "PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS numbers (number PRIMARY KEY)";
        connection.execute_batch(tables).unwrap();
        let memory = Arc::new(Memory::new(crate::Position(0)));
        Writer::start(connection, open(), memory, LiveEvents::default(), durability).unwrap()
    }

    #[tokio::test]
    async fn a_short_write_is_made_where_its_caller_is_if_nobody_else_writes() {
        let folder = tempfile::tempdir().unwrap();
        let here = thread::current().id();
        let place = |_: &Connection, _: &mut Effects| Ok(thread::current().id());
        let quick = writer(&folder, Durability::Process);
        assert_eq!(quick.run(place).await.unwrap(), here);
        assert_ne!(quick.run_long(place).await.unwrap(), here);
        assert_ne!(crate::in_background(quick.run(place)).await.unwrap(), here);
        assert_eq!(quick.run(place).await.unwrap(), here, "the thread is done");
        // While another one is at it, or waits.
        let (go, wait) = mpsc::channel::<()>();
        let other = quick.run_long(move |_, _| wait.recv().map_err(|error| StoreError::Invalid(error.to_string())));
        let (other, beside, ()) = tokio::join!(other, quick.run(place), async { go.send(()).unwrap() });
        other.unwrap();
        assert_ne!(beside.unwrap(), here);
        drop(quick);
        // The disk is waited for by the thread alone.
        assert_ne!(writer(&folder, Durability::Power).run(place).await.unwrap(), here);
    }

    #[tokio::test]
    async fn a_refusal_is_its_own_affair_and_a_failure_undoes_the_commit() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder, Durability::Process);
        // While the first one waits, the others gather for the same commit, in this order.
        for fails in [false, true] {
            let (go, wait) = mpsc::channel::<()>();
            let first =
                writer.run_long(move |_, _| wait.recv().map_err(|error| StoreError::Invalid(error.to_string())));
            let one = writer.run(move |connection, _| insert(connection, if fails { 2 } else { 1 }));
            let refuses = writer.run(|_, _| Err::<(), _>(StoreError::Invalid("no".to_owned())));
            let last = writer.run(move |connection, _| {
                insert(connection, 3)?;
                assert!(!fails, "on purpose");
                Ok(())
            });
            let go = async { go.send(()).unwrap() };
            let (first, one, refuses, last, ()) = tokio::join!(first, one, refuses, last, go);
            assert!(matches!(refuses, Err(StoreError::Invalid(_))), "{refuses:?}");
            if fails {
                assert!(matches!(last, Err(StoreError::Backend(_))), "{last:?}");
                for beside in [first, one] {
                    assert!(beside.as_ref().is_err_and(StoreError::is_transient), "{beside:?}");
                }
            } else {
                first.and(one).and(last).unwrap();
            }
        }
        assert_eq!(writer.run(|connection, _| numbers(connection)).await.unwrap(), [1, 3]);
    }
}
