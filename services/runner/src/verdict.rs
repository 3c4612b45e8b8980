//! How a run ended, as events.

pub(crate) use runmesh_events::lifecycle::NO_EXIT_CODE;
use runmesh_events::{Payload, to_duration};
use runmesh_proto::event::{
    CaseCounts, Enforcement, ExecutionCancelled, ExecutionCompleted, ExecutionErrorType, ExecutionFailed,
    ExecutionTimeout, PodFailed, PodSucceeded, PodTerminated, ResourceUsage,
};
use runmesh_store::StoreError;

use crate::{Ending, Limit, Outcome, RunSpec, SandboxError, Usage, log::CancelRequest, output::Tails};

/// What is known of a run when it ends.
pub(crate) struct Ended<'a> {
    pub(crate) spec: &'a RunSpec,
    /// Who ran: the script, the compiler.
    pub(crate) subject: &'a str,
    pub(crate) pod_name: &'a str,
    pub(crate) tails: Tails,
    pub(crate) cancel: CancelRequest,
}

impl Ended<'_> {
    /// The events that end the sandbox and the execution.
    pub(crate) fn events(self, outcome: Outcome) -> Vec<Payload> {
        let subject = self.subject;
        let usage = Some(resource_usage(&outcome.usage));
        match outcome.ending {
            Ending::Exited(0) => vec![self.pod_succeeded(), self.completed(usage)],
            Ending::Exited(code) => {
                let words = format!("{subject} ended with exit code {code}");
                vec![
                    self.pod_failed(code, "exit code"),
                    self.failed(code, ExecutionErrorType::ScriptError, words, usage),
                ]
            }
            Ending::Signaled(signal) => {
                let (code, words) = (128 + signal, format!("signal {signal} ended {subject}"));
                vec![self.pod_failed(code, "signal"), self.failed(code, ExecutionErrorType::Signaled, words, usage)]
            }
            Ending::TimedOut => vec![self.pod_terminated("timeout"), self.timed_out(usage)],
            Ending::OutputLimit => {
                let words = format!("{subject} wrote more than its limit of {} bytes", self.spec.limits.output_bytes);
                vec![
                    self.pod_terminated("output limit"),
                    self.failed(NO_EXIT_CODE, ExecutionErrorType::OutputLimit, words, usage),
                ]
            }
            Ending::CpuTimedOut => {
                let words = format!("{subject} used more processor time than its limit");
                self.over_limit("cpu time", ExecutionErrorType::CpuTimeLimit, &words, usage)
            }
            Ending::OutOfMemory { evidence } => {
                let words = format!("{subject} ran out of memory: {evidence}");
                self.over_limit("out of memory", ExecutionErrorType::OutOfMemory, &words, usage)
            }
            Ending::ProcessLimit { refused } => {
                let words = format!("{subject} wanted more processes than its limit; {refused} were refused");
                self.over_limit("process limit", ExecutionErrorType::ProcessLimit, &words, usage)
            }
            Ending::FileSizeLimit => {
                let words = format!("{subject} wrote a file larger than its limit");
                self.over_limit("file size", ExecutionErrorType::FileSizeLimit, &words, usage)
            }
            Ending::DiskLimit => {
                let words = format!("{subject} filled all of its disk space");
                self.over_limit("disk limit", ExecutionErrorType::DiskLimit, &words, usage)
            }
            Ending::TooMuchToCollect { reason } => {
                let words = format!("{subject} left what can't be taken from it: {reason}");
                vec![self.pod_succeeded(), self.failed(0, ExecutionErrorType::ScriptError, words, usage)]
            }
            Ending::Cancelled { forced } => vec![self.pod_terminated("cancelled"), self.cancelled(forced)],
            Ending::Failed { reason } => vec![
                self.pod_failed(NO_EXIT_CODE, "sandbox"),
                self.failed(NO_EXIT_CODE, ExecutionErrorType::SandboxError, reason, usage),
            ],
        }
    }

    fn over_limit(
        self,
        reason: &str,
        error_type: ExecutionErrorType,
        words: &str,
        usage: Option<ResourceUsage>,
    ) -> Vec<Payload> {
        vec![self.pod_terminated(reason), self.failed(NO_EXIT_CODE, error_type, words.to_owned(), usage)]
    }

    fn pod_succeeded(&self) -> Payload {
        PodSucceeded {
            execution_id: self.spec.execution_id.clone(),
            pod_name: self.pod_name.to_owned(),
            exit_code: 0,
            stdout: None,
            stderr: None,
        }
        .into()
    }

    fn pod_failed(&self, exit_code: i32, reason: &str) -> Payload {
        PodFailed {
            execution_id: self.spec.execution_id.clone(),
            pod_name: self.pod_name.to_owned(),
            exit_code,
            reason: Some(reason.to_owned()),
            message: None,
            stdout: None,
            stderr: None,
        }
        .into()
    }

    fn pod_terminated(&self, reason: &str) -> Payload {
        PodTerminated {
            execution_id: self.spec.execution_id.clone(),
            pod_name: self.pod_name.to_owned(),
            exit_code: NO_EXIT_CODE,
            reason: Some(reason.to_owned()),
            message: None,
            lost_attempt: 0,
        }
        .into()
    }

    fn completed(self, resource_usage: Option<ResourceUsage>) -> Payload {
        let (stdout, stderr) = self.tails.into_bytes();
        let execution_id = self.spec.execution_id.clone();
        ExecutionCompleted { execution_id, resource_usage, stdout, stderr, ..ExecutionCompleted::default() }.into()
    }

    fn failed(
        self,
        exit_code: i32,
        error_type: ExecutionErrorType,
        error_message: String,
        resource_usage: Option<ResourceUsage>,
    ) -> Payload {
        let (stdout, stderr) = self.tails.into_bytes();
        ExecutionFailed {
            execution_id: self.spec.execution_id.clone(),
            exit_code,
            error_type: error_type as i32,
            error_message,
            resource_usage,
            stdout,
            stderr,
            ..ExecutionFailed::default()
        }
        .into()
    }

    fn timed_out(self, resource_usage: Option<ResourceUsage>) -> Payload {
        let (stdout, stderr) = self.tails.into_bytes();
        ExecutionTimeout {
            execution_id: self.spec.execution_id.clone(),
            timeout: Some(to_duration(self.spec.limits.wall_time)),
            resource_usage,
            stdout,
            stderr,
            ..ExecutionTimeout::default()
        }
        .into()
    }

    fn cancelled(self, forced: bool) -> Payload {
        cancelled(&self.spec.execution_id, self.cancel, forced)
    }
}

/// Says in a last event what was asked for and what held.
pub(crate) fn set_receipt(ended: &mut Payload, receipt: Vec<Enforcement>) {
    match ended {
        Payload::ExecutionCompleted(ended) => ended.receipt = receipt,
        Payload::ExecutionFailed(ended) => ended.receipt = receipt,
        Payload::ExecutionTimeout(ended) => ended.receipt = receipt,
        Payload::ExecutionCancelled(ended) => ended.receipt = receipt,
        _ => {}
    }
}

/// The end of an execution that was cancelled.
pub(crate) fn cancelled(execution_id: &str, request: CancelRequest, forced: bool) -> Payload {
    ExecutionCancelled {
        execution_id: execution_id.to_owned(),
        reason: request.reason,
        cancelled_by: request.by,
        force_terminated: forced,
        ..ExecutionCancelled::default()
    }
    .into()
}

/// The events that end the sandboxes of an execution, and the execution, where that is not the end of a run.
pub(crate) fn with_pod(execution_id: &str, pod_name: &str, last: Payload) -> Vec<Payload> {
    let (execution_id, pod_name) = (execution_id.to_owned(), pod_name.to_owned());
    let pod = match &last {
        Payload::ExecutionCompleted(_) => PodSucceeded { execution_id, pod_name, ..PodSucceeded::default() }.into(),
        Payload::ExecutionFailed(last) => {
            let is_ours = last.error_type() == ExecutionErrorType::SandboxError;
            let reason = Some(if is_ours { "sandbox" } else { "cases" }.to_owned());
            PodFailed { execution_id, pod_name, exit_code: NO_EXIT_CODE, reason, ..PodFailed::default() }.into()
        }
        other => {
            let cancelled = matches!(other, Payload::ExecutionCancelled(_));
            let reason = Some(if cancelled { "cancelled" } else { "timeout" }.to_owned());
            PodTerminated { execution_id, pod_name, exit_code: NO_EXIT_CODE, reason, message: None, lost_attempt: 0 }
                .into()
        }
    };
    vec![pod, last]
}

/// What a last event says of cases.
pub(crate) fn counts(last: &Payload) -> Option<CaseCounts> {
    match last {
        Payload::ExecutionCompleted(last) => last.cases,
        Payload::ExecutionFailed(last) => last.cases,
        Payload::ExecutionTimeout(last) => last.cases,
        Payload::ExecutionCancelled(last) => last.cases,
        _ => None,
    }
}

/// A last event with what became of cases.
pub(crate) fn with_counts(mut last: Payload, counts: Option<CaseCounts>) -> Payload {
    match &mut last {
        Payload::ExecutionCompleted(last) => last.cases = counts,
        Payload::ExecutionFailed(last) => last.cases = counts,
        Payload::ExecutionTimeout(last) => last.cases = counts,
        Payload::ExecutionCancelled(last) => last.cases = counts,
        _ => {}
    }
    last
}

/// The end of an execution whose output could not be recorded.
pub(crate) fn not_recorded(execution_id: &str, error: &StoreError) -> Payload {
    without_run(execution_id, ExecutionErrorType::SystemError, format!("the output could not be recorded: {error}"))
}

/// The end of an execution whose runner is gone.
pub(crate) fn runner_lost(execution_id: &str, words: &str) -> Payload {
    without_run(execution_id, ExecutionErrorType::RunnerLost, words.to_owned())
}

/// The end of what could not be started.
pub(crate) fn not_started(execution_id: &str, what: &str, error: &SandboxError) -> Payload {
    let error_type = match error {
        SandboxError::NoRoom { limit: Limit::Memory } => ExecutionErrorType::OutOfMemory,
        SandboxError::NoRoom { .. } => ExecutionErrorType::DiskLimit,
        _ => ExecutionErrorType::SandboxError,
    };
    without_run(execution_id, error_type, format!("{what} could not be started: {error}"))
}

pub(crate) fn without_run(execution_id: &str, error_type: ExecutionErrorType, error_message: String) -> Payload {
    ExecutionFailed {
        execution_id: execution_id.to_owned(),
        exit_code: NO_EXIT_CODE,
        error_type: error_type as i32,
        error_message,
        ..ExecutionFailed::default()
    }
    .into()
}

pub(crate) fn resource_usage(usage: &Usage) -> ResourceUsage {
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    ResourceUsage {
        wall_time: Some(to_duration(usage.wall)),
        cpu_user_time: Some(to_duration(usage.cpu_user)),
        cpu_system_time: Some(to_duration(usage.cpu_system)),
        peak_memory_bytes: usage.peak_memory_bytes.map_or(0, number),
        stdout_bytes: number(usage.stdout_bytes),
        stderr_bytes: number(usage.stderr_bytes),
    }
}
