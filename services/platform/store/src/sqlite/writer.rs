//! The one thread that writes, and the one that makes checkpoints.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use bytes::Bytes;
use runmesh_events::AggregateId;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    backend,
    memory::Memory,
    records::{Origin, TableRecord},
};
use crate::{LiveEvents, StoreError, Stored};

/// How many jobs one commit takes at most.
const JOBS_PER_COMMIT: usize = 512;

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

    fn mark(&self) -> (usize, usize, usize) {
        (self.records.len(), self.replaced.len(), self.deleted.len())
    }

    fn forget_since(&mut self, (records, replaced, deleted): (usize, usize, usize)) {
        self.records.truncate(records);
        self.replaced.truncate(replaced);
        self.deleted.truncate(deleted);
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

trait Job: Send {
    fn run(&mut self, connection: &Connection, effects: &mut Effects) -> bool;
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
    fn run(&mut self, connection: &Connection, effects: &mut Effects) -> bool {
        let Some(work) = self.work.take() else { return false };
        let result = catch_unwind(AssertUnwindSafe(|| work(connection, effects)))
            .unwrap_or_else(|_| Err(StoreError::Backend("a write panicked".to_owned())));
        let done = result.is_ok();
        self.result = Some(result);
        done
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
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
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
            .spawn(move || write(&connection, checkpoints, &queue, &memory, &live))
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `work` in the next commit and returns what it returned once that is durable. An error of `work` undoes its
    /// own changes alone. The work is done even when the caller goes away.
    pub(super) async fn run<R, F>(&self, work: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection, &mut Effects) -> Result<R, StoreError> + Send + 'static,
    {
        let gone = || StoreError::Unavailable("the writer has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Work { work: Some(work), result: None, reply });
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
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

fn write(
    connection: &Connection,
    checkpoints: Connection,
    queue: &mpsc::Receiver<Box<dyn Job>>,
    memory: &Memory,
    live: &LiveEvents,
) {
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
    while let Ok(first) = queue.recv() {
        let mut jobs = vec![first];
        let mut effects = Effects::default();
        let committed = transaction(connection, queue, &mut jobs, &mut effects);
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

/// Runs the first job and those that wait behind it in one transaction.
fn transaction(
    connection: &Connection,
    queue: &mpsc::Receiver<Box<dyn Job>>,
    jobs: &mut Vec<Box<dyn Job>>,
    effects: &mut Effects,
) -> Result<(), StoreError> {
    execute(connection, "BEGIN IMMEDIATE")?;
    let mut index = 0;
    while index < jobs.len() {
        if let Err(error) = savepoint(connection, jobs[index].as_mut(), effects) {
            let _ = execute(connection, "ROLLBACK");
            return Err(error);
        }
        index += 1;
        if jobs.len() < JOBS_PER_COMMIT
            && let Ok(next) = queue.try_recv()
        {
            jobs.push(next);
        }
    }
    execute(connection, "COMMIT").inspect_err(|_| {
        let _ = execute(connection, "ROLLBACK");
    })
}

fn savepoint(connection: &Connection, job: &mut dyn Job, effects: &mut Effects) -> Result<(), StoreError> {
    execute(connection, "SAVEPOINT job")?;
    let mark = effects.mark();
    if !job.run(connection, effects) {
        effects.forget_since(mark);
        if connection.is_autocommit() {
            // As on a full disk: SQLite has undone the whole transaction by itself.
            return Err(StoreError::Unavailable("the transaction was undone; the disk may be full".to_owned()));
        }
        execute(connection, "ROLLBACK TO job")?;
    }
    execute(connection, "RELEASE job")
}

fn execute(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    connection.prepare_cached(sql).and_then(|mut statement| statement.execute([])).map(drop).map_err(backend)
}
