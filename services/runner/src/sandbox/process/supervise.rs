//! One run from its start to its verdict: a task that reads, feeds, waits, kills and reaps.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;

use super::coalesce::Coalescer;
use super::collect::Uncollected;
use super::ending::{Cause, Facts};
use super::folder::Folder;
use super::known::Mark;
use super::notices::Notices;
use super::order::WriteOrder;
use super::pipes::{Feed, Source};
use super::prepared::Prepared;
use super::receipt::Held;
use super::start::{Launched, Watch};
use super::wire::{self, Ended, Notice, Order};
use super::{Shared, blocking, collect, leftovers};
use crate::sandbox::{Demand, Ending, Outcome, OutputStream, RunSide, RunSpec, SourceFile};

mod output;
mod usage;

/// The first pause between two looks at a running script.
const LOOK_FIRST: Duration = Duration::from_millis(4);
/// How long the script's processes may take to die after an order to kill them, until their sandbox is ended.
const DYING: Duration = Duration::from_secs(1);
/// How long the owner of a run is made to wait for the removal of what was made for it.
const CLEANING: Duration = Duration::from_secs(1);
/// When there is nothing to wait for.
const NEVER: Duration = Duration::from_secs(3600);

pub(super) struct Supervisor {
    shared: Arc<Shared>,
    spec: RunSpec,
    held: Held,
    side: RunSide,
    // The processes end before their folder is removed, also if the task is dropped.
    sandbox: Prepared,
    folder: Option<Folder>,
    name: Arc<Mark<String>>,
    notices: Notices,
    exit: AsyncFd<OwnedFd>,
    main_process: Option<u32>,
    /// Processor time that was used before it began, in user mode and in the kernel.
    cpu_before: (Duration, Duration),
    stdout: Source,
    stderr: Source,
    stdin: Feed,
    order: Option<WriteOrder>,
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
    /// When the sandbox is ended, if its processes have not died by then.
    end_at: Option<Instant>,
    /// When the main process ended, or the sandbox.
    ended_at: Option<Instant>,
    ended: Option<Ended>,
    peak_memory: Option<u64>,
    /// Whether it was full when it was looked at; a script may have cleaned up since.
    disk_was_full: bool,
    look_at: Instant,
    look_pause: Duration,
}

/// What a supervisor waits for.
enum Event {
    Time,
    Demand(Demand),
    Notice(Option<Notice>),
    /// The sandbox's first process has ended.
    Gone,
    Readable(OutputStream, io::Result<()>),
    /// The owner takes another chunk, or no more at all.
    Sendable(bool),
    Fed,
}

impl Supervisor {
    pub(super) fn new(shared: Arc<Shared>, spec: RunSpec, held: Held, launched: Launched, side: RunSide) -> Supervisor {
        let Launched { sandbox, folder, watch, main_process, cpu_before, began, name, .. } = launched;
        let Watch { exit, notices, stdout, stderr, stdin, order } = watch;
        let config = &shared.config;
        Supervisor {
            exit,
            notices,
            stdout,
            stderr,
            order,
            stdin,
            output: Coalescer::new(config.coalesce, config.chunk_bytes, spec.limits.output_bytes),
            buffer: vec![0; config.chunk_bytes.max(1)],
            shared,
            spec,
            held,
            side,
            sandbox,
            folder,
            name,
            main_process,
            cpu_before,
            began,
            cause: None,
            forced: false,
            truncated: false,
            owned: true,
            kill_at: None,
            end_at: None,
            ended_at: None,
            ended: None,
            peak_memory: None,
            disk_was_full: false,
            look_at: began + LOOK_FIRST,
            look_pause: LOOK_FIRST,
        }
    }

    pub(super) async fn run(mut self) {
        self.drive().await;
        let wall = self.ended_at.unwrap_or_else(Instant::now) - self.began;
        let evidence = self.sandbox.cgroup.as_ref().map(|cgroup| cgroup.evidence()).unwrap_or_default();
        let facts = Facts {
            cause: self.cause,
            ended: self.ended,
            evidence,
            held: &self.held,
            truncated: self.truncated,
            forced: self.forced,
            disk_full: self.disk_was_full || self.disk_is_full(),
        };
        let ending = facts.ending();
        let usage = self.usage(wall, &evidence);
        tracing::debug!(execution_id = %self.spec.execution_id, ?ending, ?wall, "a script ended");
        let mut outcome = Outcome { ending, usage, receipt: self.held.lines, collected: Vec::new() };

        let (mut sandbox, folder, name, order) = (self.sandbox, self.folder, self.name, self.order);
        let RunSide { output, outcome: verdict, cleaned: announce, .. } = self.side;
        drop((output, self.notices));
        if let Some(limits) = self.spec.collect.filter(|_| outcome.ending == Ending::Exited(0)) {
            let work = sandbox.work.take();
            let folder = folder.as_ref().map(|folder| folder.work().to_owned());
            let collected = blocking(move || {
                // Nothing of the script may change them meanwhile.
                sandbox.first.end();
                let files = open_folder(work, folder).and_then(|work| collect::collect(&work, &limits));
                (sandbox, files)
            });
            match collected.await {
                Ok((back, files)) => {
                    sandbox = back;
                    give_back(&mut outcome, files);
                }
                Err(_) => return,
            }
        }
        verdict.send(outcome).ok();
        let (folders, main, execution_id) = (self.shared.folders.clone(), self.main_process, self.spec.execution_id);
        let cleaned = blocking(move || {
            drop((sandbox, order));
            // Without a namespace of its own, what escaped is found by its environment.
            if let Some(folder) = folder {
                leftovers::kill(&folders, Some(folder.path()), main.unwrap_or(0));
                if let Err(error) = folder.remove() {
                    tracing::warn!(execution_id, %error, "a working folder is left behind");
                }
            }
            drop(name);
        });
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
                self.finish_output(now);
                if self.ended_at.is_some() && self.output.is_empty() {
                    return;
                }
            }
            let due = self.output.due(now);
            let room = self.room();
            timer.as_mut().reset(self.next_time(now, due).into());
            let running = self.ended_at.is_none();
            let event = tokio::select! {
                () = &mut timer => Event::Time,
                demand = next_demand(&mut self.side.demand), if running && self.owned => Event::Demand(demand),
                notice = self.notices.next(), if running && !self.notices.is_closed() => Event::Notice(notice),
                gone = self.exit.readable(), if running && self.notices.is_closed() => {
                    // An error only when the runtime shuts down, and this task with it.
                    drop(gone);
                    Event::Gone
                }
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
                Event::Notice(Some(Notice::Ended(ended))) => self.on_exit(Some(ended)),
                Event::Notice(_) => {}
                Event::Gone => self.on_exit(None),
                Event::Readable(stream, ready) => self.on_readable(stream, ready, room),
                Event::Sendable(wanted) => self.on_sendable(wanted),
            }
        }
    }

    /// Does what the time asks for.
    fn on_time(&mut self, now: Instant) {
        if self.held_until().is_some_and(|until| now >= until) {
            self.give_up_the_order(now);
        }
        let Some(ended) = self.ended_at else {
            if self.cause.is_none() && now >= self.deadline() {
                self.end(Cause::WallTime);
            }
            if self.kill_at.is_some_and(|at| now >= at) {
                self.forced = true;
                self.kill();
            }
            if self.end_at.is_some_and(|at| now >= at) {
                self.end_at = None;
                self.sandbox.first.kill();
            }
            if now >= self.look_at {
                self.look(now);
            }
            return;
        };
        if now >= ended + self.shared.config.drain_grace {
            // Whoever is left has had its time. What is in the pipes now is still delivered.
            self.order(&Order::Kill);
            self.stdout.cut();
            self.stderr.cut();
        }
    }

    fn next_time(&self, now: Instant, due: Option<Instant>) -> Instant {
        let mut next = due.filter(|due| *due > now).unwrap_or(now + NEVER);
        next = next.min(self.held_until().unwrap_or(next));
        if let Some(ended) = self.ended_at {
            if !(self.stdout.is_cut_or_closed() && self.stderr.is_cut_or_closed()) {
                next = next.min(ended + self.shared.config.drain_grace);
            }
            return next;
        }
        if self.cause.is_none() {
            next = next.min(self.deadline());
        }
        next.min(self.look_at).min(self.kill_at.unwrap_or(next)).min(self.end_at.unwrap_or(next))
    }

    fn deadline(&self) -> Instant {
        self.began.checked_add(self.spec.limits.wall_time).unwrap_or_else(|| self.began + NEVER * 24 * 365)
    }

    fn on_demand(&mut self, demand: Demand) {
        match demand {
            Demand::Run => {}
            Demand::Cancel if self.cause.is_some() => {}
            // If it has ended by itself in this very moment, the notice of its end says so.
            Demand::Cancel => {
                self.cause = Some(Cause::Cancel);
                self.kill_at = Some((Instant::now() + self.shared.config.cancel_grace).min(self.deadline()));
                self.order(&Order::Terminate);
            }
            Demand::Kill => {
                self.owned = false;
                self.end(Cause::Abandoned);
            }
        }
    }

    fn on_exit(&mut self, ended: Option<Ended>) {
        self.ended_at = Some(Instant::now());
        self.ended = ended;
        self.kill_at = None;
        self.stdin.close();
    }

    /// Kills the script, for this reason unless there is one already.
    fn end(&mut self, cause: Cause) {
        self.cause.get_or_insert(cause);
        self.kill();
    }

    /// Kills everything in the sandbox but its first process, which then tells how the script ended. If it does not, it
    /// is ended too.
    fn kill(&mut self) {
        self.kill_at = None;
        self.end_at.get_or_insert_with(|| Instant::now() + DYING);
        self.order(&Order::Kill);
    }

    fn order(&self, order: &Order) {
        // A sandbox that does not take it is about to be gone, or is ended a little later.
        if let Ok(control) = self.sandbox.first.control() {
            wire::send(control, order, &[]).ok();
        }
    }
}

fn open_folder(work: Option<OwnedFd>, folder: Option<std::path::PathBuf>) -> Result<OwnedFd, Uncollected> {
    let opened = match (work, folder) {
        (Some(work), _) => Ok(work),
        (None, Some(folder)) => std::fs::File::open(folder).map(OwnedFd::from),
        (None, None) => Err(io::ErrorKind::NotFound.into()),
    };
    opened.map_err(|error| Uncollected::Sandbox(format!("the working folder: {error}")))
}

fn give_back(outcome: &mut Outcome, files: Result<Vec<SourceFile>, Uncollected>) {
    match files {
        Ok(files) => outcome.collected = files,
        Err(Uncollected::Program(reason)) => outcome.ending = Ending::TooMuchToCollect { reason },
        Err(Uncollected::Sandbox(reason)) => {
            outcome.ending = Ending::Failed { reason: format!("the files could not be given back: {reason}") };
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
