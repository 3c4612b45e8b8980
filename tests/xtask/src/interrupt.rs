//! Ctrl-C while something has to be cleaned up afterwards.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::{Handle, Signals},
};

use crate::step::{self, Failed};

/// From its start on, signals that ask this process to end don't end it. They end the command that runs, which then has
/// failed.
pub(crate) struct Interrupts {
    state: Arc<Mutex<State>>,
    listening: Handle,
}

#[derive(Default)]
struct State {
    /// How often it was asked.
    asked: u32,
    /// The process group of the command that runs.
    group: Option<Pid>,
}

impl Interrupts {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the signals can't be caught.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("listening to signals")?;
        let listening = signals.handle();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for _ in signals.forever() {
                let mut state = lock(&shared);
                state.asked += 1;
                state.forward();
            }
        });
        Ok(Self { state, listening })
    }

    /// Runs a command as [`step::run`] does, in a process group of its own, so that a signal reaches it once.
    ///
    /// # Errors
    /// As [`step::run`], and when it was asked to end, before or meanwhile.
    pub(crate) fn run(&self, command: &mut Command) -> anyhow::Result<()> {
        let shown = step::shown(command);
        let mut child = {
            // Held while it starts: a signal finds either nothing started or the whole group.
            let mut state = lock(&self.state);
            if state.asked > 0 {
                bail!("interrupted before `{shown}`");
            }
            step::show(command);
            // A group that is not the terminal's may not read from it.
            let child = command.process_group(0).stdin(Stdio::null()).spawn();
            let child = child.with_context(|| format!("can't start `{shown}`"))?;
            state.group = group(&child);
            child
        };
        let status = child.wait().with_context(|| format!("waiting for `{shown}`"))?;
        let mut state = lock(&self.state);
        state.group = None;
        if state.asked > 0 {
            bail!("interrupted during `{shown}`");
        }
        if status.success() { Ok(()) } else { Err(Failed::new(shown, status).into()) }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.listening.close();
    }
}

impl State {
    /// The first time it asks, after that it insists. Not by SIGINT, which is ignored by what a script runs in the background.
    fn forward(&self) {
        if let Some(group) = self.group {
            kill_process_group(group, if self.asked > 1 { Signal::KILL } else { Signal::TERM }).ok();
        }
    }
}

fn group(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use rustix::process::{getpid, kill_process};

    use super::*;

    #[test]
    fn a_signal_ends_the_command_and_not_this_process_and_nothing_is_started_after_it() -> anyhow::Result<()> {
        let interrupts = Interrupts::listen()?;
        interrupts.run(Command::new("/bin/sh").args(["-c", "exit 0"]))?;
        let failed = interrupts.run(Command::new("/bin/sh").args(["-c", "exit 7"])).unwrap_err();
        assert_eq!(failed.downcast_ref::<Failed>().map(Failed::code), Some(7));

        // The command itself sends it, so that it runs by then. Its child does not end by itself.
        let script = format!("kill -TERM {}; sleep 600", getpid().as_raw_pid());
        let interrupted = interrupts.run(Command::new("/bin/sh").args(["-c", &script])).unwrap_err();
        assert!(interrupted.to_string().starts_with("interrupted during"), "{interrupted}");
        let refused = interrupts.run(Command::new("/bin/sh").args(["-c", "exit 0"])).unwrap_err();
        assert!(refused.to_string().starts_with("interrupted before"), "{refused}");
        // The second time insists.
        let mut stubborn = Command::new("/bin/sh")
            .args(["-c", "trap '' TERM; echo; sleep 600"])
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()?;
        std::io::Read::read_exact(&mut stubborn.stdout.take().unwrap(), &mut [0])?;
        lock(&interrupts.state).group = group(&stubborn);
        kill_process(getpid(), Signal::TERM)?;
        let status = stubborn.wait()?;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        Ok(())
    }
}
