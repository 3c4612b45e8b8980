//! What a script uses while it runs, and what it has used.

use std::time::{Duration, Instant};

use super::{Cause, Supervisor};
use crate::sandbox::process::{cgroup::Evidence, peak_rss};
use crate::sandbox::{OutputStream, Usage};

/// The longest pause between two looks at a running script.
const LOOK_LONGEST: Duration = Duration::from_millis(500);
/// How often a process may be refused until the script is ended for it: a fork bomb, not a program that copes.
const MOST_REFUSALS: u64 = 1000;

impl Supervisor {
    /// Looks at what the script has used so far.
    pub(super) fn look(&mut self, now: Instant) {
        self.look_pause = (self.look_pause * 2).min(LOOK_LONGEST);
        if let Some(cgroup) = &self.sandbox.cgroup {
            if cgroup.refused_processes().is_some_and(|refused| refused > MOST_REFUSALS) {
                self.end(Cause::Processes);
            } else if let (Some(limit), Some(used)) = (self.held.cpu_time, cgroup.cpu()) {
                let left = limit.saturating_sub(used.saturating_sub(self.cpu_before.0 + self.cpu_before.1));
                if left.is_zero() {
                    self.end(Cause::CpuTime);
                }
                // Not sooner than all processors together can use it up, nor much later.
                let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
                self.look_pause = self.look_pause.min(left / processors).max(Duration::from_millis(1));
            }
        } else {
            self.peak_memory = self.peak_memory.max(self.main_process.and_then(|pid| peak_rss(&pid.to_string())));
        }
        self.disk_was_full |= self.disk_is_full();
        self.look_at = now + self.look_pause;
    }

    /// Whether the file system for the script's files has no room for a page, or for a file.
    pub(super) fn disk_is_full(&self) -> bool {
        let Some(work) = &self.sandbox.work else { return false };
        rustix::fs::fstatvfs(work).is_ok_and(|found| found.f_bavail == 0 || found.f_favail == 0)
    }

    pub(super) fn usage(&self, wall: Duration, evidence: &Evidence) -> Usage {
        let waited = self.ended.map(|ended| (ended.cpu_user, ended.cpu_system)).unwrap_or_default();
        // What setting the sandbox up used is no time of the script.
        let user = evidence.cpu_user.map(|time| time.saturating_sub(self.cpu_before.0));
        let system = evidence.cpu_system.map(|time| time.saturating_sub(self.cpu_before.1));
        let largest = self.ended.map(|ended| ended.peak_rss_bytes).max(self.peak_memory);
        Usage {
            wall,
            cpu_user: user.unwrap_or(waited.0),
            cpu_system: system.unwrap_or(waited.1),
            peak_memory_bytes: evidence.peak_memory_bytes.or(largest),
            stdout_bytes: self.output.count(OutputStream::Stdout),
            stderr_bytes: self.output.count(OutputStream::Stderr),
        }
    }
}
