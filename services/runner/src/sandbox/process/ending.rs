//! The verdict: from the wait status, the kernel's counters, and what the sandbox did. Pure.

use super::cgroup::Evidence;
use super::receipt::Held;
use super::wire::Ended;
use crate::sandbox::Ending;

/// Why the sandbox ended the script, if it did. The first reason counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    WallTime,
    CpuTime,
    /// It went on asking for processes beyond the limit.
    Processes,
    Output,
    Cancel,
    Abandoned,
}

/// By how much more a copy of a process may have in use than that process, until another program is loaded.
const COPIED: u64 = 1 << 20;

/// What is known at the end of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) cause: Option<Cause>,
    /// How the main process ended. `None`: its end was not seen, since everything was killed, or its sandbox failed.
    pub(super) ended: Option<Ended>,
    pub(super) evidence: Evidence,
    pub(super) held: &'a Held,
    /// Whether output was lost to the limit.
    pub(super) truncated: bool,
    /// Whether SIGKILL followed the SIGTERM of a cancellation.
    pub(super) forced: bool,
    /// Whether the file system for the script's files is full.
    pub(super) disk_full: bool,
}

impl Facts<'_> {
    pub(super) fn ending(&self) -> Ending {
        let by_itself = self.ended.filter(|ended| !ended.killed && !ended.terminated);
        match self.cause {
            Some(Cause::Cancel | Cause::Abandoned) if by_itself.is_none() => {
                return Ending::Cancelled { forced: self.forced && self.ended.is_none_or(|ended| ended.killed) };
            }
            // Nobody wants to know any more.
            Some(Cause::Abandoned) => return Ending::Cancelled { forced: false },
            Some(Cause::WallTime) if by_itself.is_none() => return Ending::TimedOut,
            Some(Cause::CpuTime) if by_itself.is_none() => return Ending::CpuTimedOut,
            Some(Cause::Processes) if by_itself.is_none() => return self.process_limit(),
            _ => {}
        }
        // Even if it had already ended: its output is not whole.
        if self.truncated {
            return Ending::OutputLimit;
        }
        let Some(ended) = self.ended else { return self.unseen() };
        match (ended.code, ended.signal) {
            (Some(0), _) => Ending::Exited(0),
            (code, signal) => self.limit(&ended).unwrap_or(match (code, signal) {
                (Some(code), _) => Ending::Exited(code),
                (_, Some(signal)) => Ending::Signaled(signal),
                (None, None) => Ending::Failed { reason: "the script ended with neither code nor signal".to_owned() },
            }),
        }
    }

    /// The limit that made a script fail that ended by itself.
    fn limit(&self, ended: &Ended) -> Option<Ending> {
        if let Some(evidence) = self.out_of_memory(ended) {
            return Some(Ending::OutOfMemory { evidence });
        }
        match ended.signal {
            // Not one that it sent itself.
            Some(libc::SIGXCPU)
                if self.held.cpu_time.is_some_and(|limit| ended.cpu_user + ended.cpu_system >= limit / 2) =>
            {
                return Some(Ending::CpuTimedOut);
            }
            Some(libc::SIGXFSZ) => return Some(Ending::FileSizeLimit),
            _ => {}
        }
        if self.evidence.refused_processes.is_some_and(|refused| refused > 0) {
            return Some(self.process_limit());
        }
        self.disk_full.then_some(Ending::DiskLimit)
    }

    fn process_limit(&self) -> Ending {
        Ending::ProcessLimit { refused: self.evidence.refused_processes.unwrap_or_default() }
    }

    fn out_of_memory(&self, ended: &Ended) -> Option<String> {
        if let Some(kills) = self.evidence.oom_kills {
            return (kills > 0).then(|| format!("the kernel killed {kills} of its processes for want of memory"));
        }
        // Without a cgroup the kernel tells nobody that it refused memory. A main process that failed with nearly all
        // of its limit in use is taken for one that wanted more.
        let limit = self.held.data_bytes?;
        // The main process began as a copy of the sandbox's first one, which is no use of its own.
        let own = ended.peak_rss_bytes > ended.base_rss_bytes + COPIED;
        let near = own && ended.peak_rss_bytes >= limit - limit / 8;
        near.then(|| format!("it failed with {} of {limit} bytes in use (RLIMIT_DATA)", ended.peak_rss_bytes))
    }

    /// The sandbox's first process ended before the main process did, and not by the node's will.
    fn unseen(&self) -> Ending {
        match self.evidence.oom_kills {
            Some(kills) if kills > 0 => Ending::OutOfMemory {
                evidence: format!("the kernel killed {kills} of its processes for want of memory"),
            },
            _ => Ending::Failed { reason: "the sandbox ended before the script".to_owned() },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ENDED: Ended = Ended {
        code: None,
        signal: None,
        cpu_user: Duration::ZERO,
        cpu_system: Duration::ZERO,
        peak_rss_bytes: 0,
        base_rss_bytes: 0,
        terminated: false,
        killed: false,
    };

    fn held() -> Held {
        Held {
            memory_bytes: Some(1),
            processes: Some(1),
            cpu_millis: None,
            data_bytes: None,
            user_processes: None,
            cpu_time: Some(Duration::from_secs(1)),
            disk_bytes: None,
            file_bytes: None,
            lines: Vec::new(),
        }
    }

    fn facts(held: &Held, ended: Ended) -> Facts<'_> {
        Facts {
            cause: None,
            ended: Some(ended),
            evidence: Evidence { oom_kills: Some(0), refused_processes: Some(0), ..Evidence::default() },
            held,
            truncated: false,
            forced: false,
            disk_full: false,
        }
    }

    fn exited(code: i32) -> Ended {
        Ended { code: Some(code), ..ENDED }
    }

    #[test]
    fn success_is_success_whatever_happened_to_its_children() {
        let held = held();
        let mut facts = facts(&held, exited(0));
        facts.evidence.oom_kills = Some(3);
        facts.evidence.refused_processes = Some(3);
        facts.disk_full = true;
        assert_eq!(facts.ending(), Ending::Exited(0));
    }

    #[test]
    fn each_failure_is_explained_by_its_evidence_and_not_without() {
        let held = held();
        let failed = facts(&held, exited(1));
        assert_eq!(failed.ending(), Ending::Exited(1));
        let evidence = Evidence { oom_kills: Some(1), ..failed.evidence };
        assert!(matches!(Facts { evidence, ..failed }.ending(), Ending::OutOfMemory { .. }));
        let evidence = Evidence { refused_processes: Some(7), ..failed.evidence };
        assert_eq!(Facts { evidence, ..failed }.ending(), Ending::ProcessLimit { refused: 7 });
        assert_eq!(Facts { disk_full: true, ..failed }.ending(), Ending::DiskLimit);
        assert_eq!(Facts { truncated: true, ..failed }.ending(), Ending::OutputLimit);
        let signaled = |signal| facts(&held, Ended { signal: Some(signal), ..ENDED }).ending();
        assert_eq!(signaled(libc::SIGXFSZ), Ending::FileSizeLimit);
        let over = |cpu_user| facts(&held, Ended { signal: Some(libc::SIGXCPU), cpu_user, ..ENDED }).ending();
        assert_eq!(over(Duration::from_secs(1)), Ending::CpuTimedOut);
        // Sent by the script.
        assert_eq!(over(Duration::from_millis(10)), Ending::Signaled(libc::SIGXCPU));
        assert_eq!(signaled(libc::SIGKILL), Ending::Signaled(libc::SIGKILL));
    }

    #[test]
    fn what_ended_by_itself_was_not_ended_by_the_sandbox() {
        let held = held();
        for cause in [Cause::WallTime, Cause::CpuTime, Cause::Processes, Cause::Cancel] {
            let late = Facts { cause: Some(cause), ..facts(&held, exited(5)) };
            assert_eq!(late.ending(), Ending::Exited(5), "{cause:?}");
        }
        let killed = Ended { signal: Some(libc::SIGKILL), killed: true, ..ENDED };
        let in_time = |cause| Facts { cause: Some(cause), forced: true, ..facts(&held, killed) }.ending();
        assert_eq!(in_time(Cause::WallTime), Ending::TimedOut);
        assert_eq!(in_time(Cause::CpuTime), Ending::CpuTimedOut);
        assert_eq!(in_time(Cause::Cancel), Ending::Cancelled { forced: true });
    }

    #[test]
    fn a_lost_sandbox_is_never_the_scripts_fault() {
        let held = held();
        let lost = Facts { ended: None, ..facts(&held, ENDED) };
        assert!(matches!(lost.ending(), Ending::Failed { .. }));
        let evidence = Evidence { oom_kills: Some(1), ..lost.evidence };
        assert!(matches!(Facts { evidence, ..lost }.ending(), Ending::OutOfMemory { .. }));
    }

    #[test]
    fn without_a_cgroup_memory_is_told_by_how_much_was_in_use() {
        let held = Held { data_bytes: Some(8 << 20), ..held() };
        let with = |peak, base| {
            let ended = Ended { peak_rss_bytes: peak, base_rss_bytes: base, ..exited(1) };
            Facts { evidence: Evidence::default(), ..facts(&held, ended) }.ending()
        };
        assert_eq!(with((7 << 20) - 1, 0), Ending::Exited(1));
        assert!(matches!(with(7 << 20, 0), Ending::OutOfMemory { .. }));
        assert_eq!(with(7 << 20, 6 << 20), Ending::Exited(1), "that is the sandbox's own");
    }
}
