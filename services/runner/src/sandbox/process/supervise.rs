//! One run from its start to its verdict: a task that reads, feeds, waits, kills and reaps.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::unix::AsyncFd;

use super::child::{Child, Launched};
use super::coalesce::Coalescer;
use super::folder::Folder;
use super::pipes::{Feed, Source};
use super::sys::{self, Reaped};
use super::{ProcessConfig, RECEIPT, blocking, leftovers};
use crate::sandbox::{Demand, Ending, Limits, Outcome, OutputStream, RunSide, SandboxError, Usage};

/// The first pause between two looks at the memory of the script, and the longest.
const SAMPLE_FIRST: Duration = Duration::from_millis(4);
const SAMPLE_LONGEST: Duration = Duration::from_millis(500);
/// How long the owner of a run is made to wait for the removal of its working folder.
const CLEANING: Duration = Duration::from_secs(1);
/// When there is nothing to wait for.
const NEVER: Duration = Duration::from_secs(3600);

pub(super) struct Supervisor {
    config: Arc<ProcessConfig>,
    execution_id: String,
    limits: Limits,
    side: RunSide,
    // The processes end before their folder is removed, also if the task is dropped.
    child: Child,
    exit: AsyncFd<OwnedFd>,
    stdout: Source,
    stderr: Source,
    stdin: Feed,
    folder: Folder,
    output: Coalescer,
    buffer: Vec<u8>,
    began: Instant,
    cause: Option<Cause>,
    /// Whether SIGKILL followed the SIGTERM of a cancellation.
    forced: bool,
    /// Whether the script wrote more than its limit.
    truncated: bool,
    /// Whether anyone can still want something of this run.
    owned: bool,
    /// When SIGKILL follows SIGTERM.
    kill_at: Option<Instant>,
    /// When the main process ended.
    ended: Option<Instant>,
    peak_rss: Option<u64>,
    sample_at: Instant,
    sample_pause: Duration,
}

/// Why the script was ended, if it did not end by itself. The first reason counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    WallTime,
    Output,
    Cancel,
    Abandoned,
}

/// What a supervisor waits for.
enum Event {
    Time,
    Demand(Demand),
    Ended,
    Readable(OutputStream, io::Result<()>),
    /// The owner takes another chunk, or no more at all.
    Sendable(bool),
    Fed,
}

impl Supervisor {
    pub(super) fn new(
        config: Arc<ProcessConfig>,
        execution_id: String,
        limits: Limits,
        launched: Launched,
        stdin: Bytes,
        side: RunSide,
    ) -> Result<Supervisor, SandboxError> {
        let Launched { child, folder, stdin: stdin_pipe, stdout, stderr, began, at: _ } = launched;
        let failed = |error: io::Error| SandboxError::io("watch the script in", folder.path())(error);
        let exit = child.exit_handle().and_then(sys::watch);
        let exit = exit.map_err(failed)?;
        Ok(Supervisor {
            exit,
            stdout: Source::new(stdout).map_err(failed)?,
            stderr: Source::new(stderr).map_err(failed)?,
            stdin: Feed::new(stdin_pipe, stdin).map_err(failed)?,
            output: Coalescer::new(config.coalesce, config.chunk_bytes, limits.output_bytes),
            buffer: vec![0; config.chunk_bytes.max(1)],
            child,
            folder,
            config,
            execution_id,
            limits,
            side,
            began,
            cause: None,
            forced: false,
            truncated: false,
            owned: true,
            kill_at: None,
            ended: None,
            peak_rss: None,
            sample_at: began + SAMPLE_FIRST,
            sample_pause: SAMPLE_FIRST,
        })
    }

    pub(super) async fn run(mut self) {
        self.drive().await;
        let wall = self.ended.unwrap_or_else(Instant::now) - self.began;
        let reaped = self.child.finish();
        let outcome = Outcome {
            ending: self.ending(&reaped),
            usage: self.usage(wall, reaped.as_ref().ok()),
            receipt: RECEIPT.to_vec(),
        };
        tracing::debug!(execution_id = %self.execution_id, ending = ?outcome.ending, ?wall, "a script ended");

        // The group is gone; what left it is found by its environment.
        let (folder, root, execution_id) = (self.folder, self.config.root.clone(), self.execution_id);
        let main = self.child.pid();
        let cleaned = blocking(move || {
            leftovers::kill(&root, Some(folder.path()), main);
            if let Err(error) = folder.remove() {
                tracing::warn!(execution_id, %error, "a working folder is left behind");
            }
        });
        let RunSide { output, outcome: verdict, cleaned: announce, .. } = self.side;
        drop(output);
        verdict.send(outcome).ok();
        // A script that made very many files doesn't hold up its owner for long: the removal goes on.
        tokio::time::timeout(CLEANING, cleaned).await.ok();
        drop(announce);
    }

    /// Until the main process has ended and its output has been handed on.
    async fn drive(&mut self) {
        let timer = tokio::time::sleep(NEVER);
        tokio::pin!(timer);
        loop {
            let now = Instant::now();
            self.on_time(now);
            let drained = self.stdout.is_closed() && self.stderr.is_closed();
            if drained {
                self.output.finish();
                if self.ended.is_some() && self.output.is_empty() {
                    return;
                }
            }
            let due = self.output.due(now);
            let room = self.output.room();
            timer.as_mut().reset(self.next_time(now, due).into());
            let running = self.ended.is_none();
            let event = tokio::select! {
                () = &mut timer => Event::Time,
                demand = next_demand(&mut self.side.demand), if running && self.owned => Event::Demand(demand),
                () = ended(&self.exit, &self.child), if running => Event::Ended,
                ready = self.stdout.readable(), if room > 0 && !self.stdout.is_closed() => {
                    Event::Readable(OutputStream::Stdout, ready)
                }
                ready = self.stderr.readable(), if room > 0 && !self.stderr.is_closed() => {
                    Event::Readable(OutputStream::Stderr, ready)
                }
                permit = self.side.output.reserve(), if due.is_some_and(|due| due <= now) => {
                    Event::Sendable(permit.is_ok())
                }
                () = self.stdin.write(), if !self.stdin.is_closed() => Event::Fed,
            };
            match event {
                Event::Time | Event::Fed => {}
                Event::Demand(demand) => self.on_demand(demand),
                Event::Ended => self.on_exit(),
                Event::Readable(stream, ready) => self.on_readable(stream, ready, room),
                Event::Sendable(wanted) => self.on_sendable(wanted),
            }
        }
    }

    /// Does what the time asks for.
    fn on_time(&mut self, now: Instant) {
        let Some(ended) = self.ended else {
            if self.cause.is_none() && now >= self.deadline() {
                self.end(Cause::WallTime);
            }
            if self.kill_at.is_some_and(|at| now >= at) {
                self.kill_at = None;
                self.forced = true;
                self.child.kill();
            }
            if now >= self.sample_at {
                self.peak_rss = self.peak_rss.max(self.child.sample_peak_rss());
                self.sample_pause = (self.sample_pause * 2).min(SAMPLE_LONGEST);
                self.sample_at = now + self.sample_pause;
            }
            return;
        };
        if now >= ended + self.config.drain_grace {
            // Whoever is left has had its time. What is in the pipes now is still delivered.
            self.child.kill();
            self.stdout.cut();
            self.stderr.cut();
        }
    }

    fn next_time(&self, now: Instant, due: Option<Instant>) -> Instant {
        let mut next = due.filter(|due| *due > now).unwrap_or(now + NEVER);
        if let Some(ended) = self.ended {
            if !(self.stdout.is_cut_or_closed() && self.stderr.is_cut_or_closed()) {
                next = next.min(ended + self.config.drain_grace);
            }
            return next;
        }
        if self.cause.is_none() {
            next = next.min(self.deadline());
        }
        next.min(self.sample_at).min(self.kill_at.unwrap_or(next))
    }

    fn deadline(&self) -> Instant {
        self.began.checked_add(self.limits.wall_time).unwrap_or_else(|| self.began + NEVER * 24 * 365)
    }

    fn on_demand(&mut self, demand: Demand) {
        // If it has ended by itself in this very moment, it was not cancelled.
        match demand {
            Demand::Run => {}
            Demand::Cancel if self.cause.is_some() || self.child.has_ended() => {}
            Demand::Cancel => {
                self.cause = Some(Cause::Cancel);
                self.kill_at = Some((Instant::now() + self.config.cancel_grace).min(self.deadline()));
                self.child.terminate();
            }
            Demand::Kill => {
                self.owned = false;
                self.end(Cause::Abandoned);
            }
        }
    }

    fn on_exit(&mut self) {
        self.ended = Some(Instant::now());
        self.kill_at = None;
        self.stdin.close();
    }

    fn on_readable(&mut self, stream: OutputStream, ready: io::Result<()>, room: usize) {
        let source = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        match ready.and_then(|()| source.read(&mut self.buffer[..room])) {
            Ok(0) => source.close(),
            Ok(count) => {
                if !self.output.push(stream, &self.buffer[..count], Instant::now()) {
                    self.truncated = true;
                    self.end(Cause::Output);
                    self.stdout.close();
                    self.stderr.close();
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(execution_id = %self.execution_id, %error, ?stream, "could not read a script's output");
                source.close();
            }
        }
    }

    fn on_sendable(&mut self, wanted: bool) {
        if !wanted {
            return self.output.discard();
        }
        if let Some(chunk) = self.output.pop(Instant::now()) {
            // There is room: nobody else sends. If the owner has gone since, the chunk is not wanted any more.
            self.side.output.try_send(chunk).ok();
        }
    }

    /// Kills the script, for this reason unless there is one already.
    fn end(&mut self, cause: Cause) {
        self.cause.get_or_insert(cause);
        self.child.kill();
    }

    /// The verdict: the wait status, and what was done to the script before it.
    fn ending(&self, reaped: &io::Result<Reaped>) -> Ending {
        let reaped = match reaped {
            Ok(reaped) => reaped,
            Err(error) => return Ending::Failed { reason: format!("the script could not be reaped: {error}") },
        };
        let killed = reaped.signal == Some(libc::SIGKILL);
        match self.cause {
            Some(Cause::Cancel | Cause::Abandoned) => Ending::Cancelled { forced: self.forced && killed },
            Some(Cause::WallTime) if killed => Ending::TimedOut,
            // Even if it had already ended: its output is not whole.
            _ if self.truncated => Ending::OutputLimit,
            _ => match (reaped.code, reaped.signal) {
                (Some(code), _) => Ending::Exited(code),
                (_, Some(signal)) => Ending::Signaled(signal),
                (None, None) => Ending::Failed { reason: "the script ended with neither code nor signal".to_owned() },
            },
        }
    }

    fn usage(&self, wall: Duration, reaped: Option<&Reaped>) -> Usage {
        Usage {
            wall,
            cpu_user: reaped.map_or_else(Default::default, |reaped| reaped.cpu_user),
            cpu_system: reaped.map_or_else(Default::default, |reaped| reaped.cpu_system),
            peak_rss_bytes: reaped.and_then(|reaped| self.child.peak_rss(reaped)).max(self.peak_rss),
            stdout_bytes: self.output.count(OutputStream::Stdout),
            stderr_bytes: self.output.count(OutputStream::Stderr),
        }
    }
}

/// The next thing that the owner wants. A run whose every handle is gone is abandoned.
async fn next_demand(demand: &mut tokio::sync::watch::Receiver<Demand>) -> Demand {
    match demand.changed().await {
        Ok(()) => *demand.borrow_and_update(),
        Err(_) => Demand::Kill,
    }
}

/// Once the main process has ended.
async fn ended(exit: &AsyncFd<OwnedFd>, child: &Child) {
    // An error only when the runtime shuts down, and this task with it.
    let Ok(mut ready) = exit.readable().await else { return std::future::pending().await };
    while !child.has_ended() {
        ready.clear_ready();
        match exit.readable().await {
            Ok(again) => ready = again,
            Err(_) => return std::future::pending().await,
        }
    }
}
