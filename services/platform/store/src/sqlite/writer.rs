//! The one thread that writes, and the one that makes checkpoints.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
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
    backend,
    memory::Memory,
    queue::{Kind, Queue, Sent},
    records::{Origin, TableRecord},
    tallies::Tallies,
};
use crate::{LiveEvents, StoreError, Stored, background::is_background};

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

/// The way to the writing thread. Dropping it lets the thread finish what it was given and waits for that.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Sent>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    /// Starts the threads.
    pub(super) fn start(
        connection: Connection,
        checkpoints: Connection,
        memory: Arc<Memory>,
        live: LiveEvents,
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write(&connection, checkpoints, Queue::new(queue), &memory, &live))
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `work` in the next commit and returns what it returned once that is durable. Where `work` refuses what it is
    /// asked for it has to leave everything as it was; an error of the backend undoes the whole commit, which then is
    /// not available for the others in it. The work is done even when the caller goes away.
    pub(super) async fn run<R, F>(&self, work: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection, &mut Effects) -> Result<R, StoreError> + Send + 'static,
    {
        self.run_as(if is_background() { Kind::Background } else { Kind::Live }, work).await
    }

    /// The same for what is small and comes again and again with any work, also that of the background.
    pub(super) async fn run_upkeep<R, F>(&self, work: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection, &mut Effects) -> Result<R, StoreError> + Send + 'static,
    {
        self.run_as(Kind::Upkeep, work).await
    }

    async fn run_as<R, F>(&self, kind: Kind, work: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection, &mut Effects) -> Result<R, StoreError> + Send + 'static,
    {
        let gone = || StoreError::Unavailable("the writer has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Work { work: Some(work), result: None, reply });
        self.jobs.as_ref().ok_or_else(gone)?.send((job, kind)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write(connection: &Connection, checkpoints: Connection, mut queue: Queue, memory: &Memory, live: &LiveEvents) {
    let (due, wanted) = mpsc::sync_channel::<()>(1);
    let overgrown = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&overgrown);
    let checkpointer = thread::Builder::new().name("store-checkpoint".to_owned()).spawn(move || {
        while wanted.recv().is_ok() {
            if checkpoint(&checkpoints, "PASSIVE") > LOG_PAGES {
                tell.store(true, Ordering::Relaxed);
            }
        }
        // The store closes: leave one file behind, not a file and its log.
        checkpoint(&checkpoints, "TRUNCATE");
    });
    let mut changes = 0_u64;
    while queue.wait() {
        let (mut jobs, mut effects) = (Vec::new(), Effects::default());
        let committed = transaction(connection, &mut queue, &mut jobs, &mut effects);
        if committed.is_ok() {
            effects.tell(memory, live);
        }
        changes += jobs.len() as u64;
        for job in jobs {
            job.reply(committed.clone());
        }
        if overgrown.swap(false, Ordering::Relaxed) {
            // The other thread can't keep up, and the log begins anew only when all of it is in the file.
            checkpoint(connection, "RESTART");
        }
        // Each job changes a few pages.
        if changes * 4 >= CHECKPOINT_PAGES {
            changes = 0;
            let _ = due.try_send(());
        }
    }
    drop(due);
    if let Ok(checkpointer) = checkpointer {
        let _ = checkpointer.join();
    }
}

/// Brings the log into the file. Returns how many pages the log has.
fn checkpoint(connection: &Connection, mode: &str) -> i64 {
    let result = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get("log"));
    result.unwrap_or_else(|error| {
        tracing::warn!(%error, mode, "checkpoint failed; the log keeps growing until one succeeds");
        0
    })
}

/// Runs the jobs that wait in one transaction. There are no savepoints in it: SQLite copies every
/// page that a job changes before the first change after one, which cost as much as the changes (docs/performance.md).
fn transaction(
    connection: &Connection,
    queue: &mut Queue,
    jobs: &mut Vec<Box<dyn Job>>,
    effects: &mut Effects,
) -> Result<(), StoreError> {
    let began = Instant::now();
    if let Err(error) = execute(connection, "BEGIN IMMEDIATE") {
        // They are not left to wait for better times: their callers decide about that.
        jobs.extend(std::iter::from_fn(|| queue.next(began, 0)));
        return Err(error);
    }
    while let Some(mut job) = queue.next(began, jobs.len()) {
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
    use super::*;

    fn insert(connection: &Connection, number: i64) -> Result<(), StoreError> {
        connection.execute("INSERT INTO numbers VALUES (?1)", [number]).map(drop).map_err(backend)
    }

    fn numbers(connection: &Connection) -> Result<Vec<i64>, StoreError> {
        let mut statement = connection.prepare("SELECT number FROM numbers ORDER BY 1").map_err(backend)?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(backend)?;
        rows.collect::<rusqlite::Result<_>>().map_err(backend)
    }

    #[tokio::test]
    async fn a_refusal_is_its_own_affair_and_a_failure_undoes_the_commit() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Connection::open(folder.path().join("numbers.db")).unwrap();
        let connection = open();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE numbers (number PRIMARY KEY)").unwrap();
        let memory = Arc::new(Memory::new(crate::Position(0)));
        let writer = Writer::start(connection, open(), memory, LiveEvents::default()).unwrap();
        // While the first one waits, the others gather for the same commit, in this order.
        for fails in [false, true] {
            let (go, wait) = mpsc::channel::<()>();
            let first = writer.run(move |_, _| wait.recv().map_err(|error| StoreError::Invalid(error.to_string())));
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
