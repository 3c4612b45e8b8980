//! The verdict on one case.

use bytes::Bytes;
use runmesh_events::{Payload, from_duration, to_duration};
use runmesh_proto::event::{
    CaseOptions, CaseResult, CaseVerdict, ExecutionErrorType, OutputDifference, ResourceUsage, RunCase,
};

use super::compare::Comparison;
use crate::{Chunk, OutputStream, output::Tails};

/// How many bytes of standard output a result keeps.
const HEAD_BYTES: usize = 4 << 10;

/// Watches the output of a case.
pub(super) struct Judge {
    number: i32,
    name: String,
    comparison: Option<Comparison>,
    head: Vec<u8>,
    tails: Tails,
}

impl Judge {
    pub(super) fn new(case: &RunCase, index: usize, options: &CaseOptions) -> Self {
        let expected = case.expected_stdout.as_ref();
        Self {
            number: i32::try_from(index + 1).unwrap_or(i32::MAX),
            name: case.name.clone(),
            comparison: expected.map(|expected| Comparison::new(options.comparison(), expected)),
            head: Vec::new(),
            tails: Tails::default(),
        }
    }

    pub(super) fn take(&mut self, chunk: &Chunk) {
        self.tails.keep(chunk);
        if chunk.stream == OutputStream::Stdout {
            let room = HEAD_BYTES.saturating_sub(self.head.len()).min(chunk.data.len());
            self.head.extend_from_slice(&chunk.data[..room]);
            if let Some(comparison) = &mut self.comparison {
                comparison.take(&chunk.data);
            }
        }
    }

    /// The result, by the event that would have ended an execution of its own.
    pub(super) fn decide(self, last: Option<Payload>, usage: ResourceUsage) -> CaseResult {
        let mut result = CaseResult {
            number: self.number,
            name: self.name,
            resource_usage: Some(usage),
            stdout: self.head.into(),
            stderr: self.tails.into_bytes().1,
            ..CaseResult::default()
        };
        match last {
            Some(Payload::ExecutionCompleted(_)) => {
                result.exit_code = Some(0);
                result.difference = self.comparison.and_then(Comparison::finish);
                result.message = result.difference.as_ref().map(in_words).unwrap_or_default();
                let same = result.difference.is_none();
                result.set_verdict(if same { CaseVerdict::Accepted } else { CaseVerdict::WrongAnswer });
            }
            Some(Payload::ExecutionFailed(failed)) => {
                result.exit_code = Some(failed.exit_code).filter(|code| *code >= 0);
                result.error_type = failed.error_type;
                result.set_verdict(match failed.error_type() {
                    ExecutionErrorType::ScriptError | ExecutionErrorType::Signaled => CaseVerdict::RuntimeError,
                    _ => CaseVerdict::Limit,
                });
                result.message = failed.error_message;
            }
            Some(Payload::ExecutionTimeout(timeout)) => {
                let limit = timeout.timeout.as_ref().and_then(from_duration).unwrap_or_default();
                result.set_verdict(CaseVerdict::Timeout);
                result.message = format!("the program did not end within {} s", limit.as_secs_f64());
            }
            // The runner gives no other events here.
            _ => result.set_verdict(CaseVerdict::RuntimeError),
        }
        result
    }
}

fn in_words(difference: &OutputDifference) -> String {
    let quoted = |bytes: &Bytes| match bytes.is_empty() {
        true => "nothing more".to_owned(),
        false => format!("{:?}", String::from_utf8_lossy(bytes)),
    };
    let (line, expected, actual) = (difference.line, quoted(&difference.expected), quoted(&difference.actual));
    format!("line {line}: expected {expected}, got {actual}")
}

/// `case 3 ("big numbers"): line 1: expected "4", got "5"`.
pub(super) fn verdict_in_words(result: &CaseResult) -> String {
    let name = if result.name.is_empty() { String::new() } else { format!(" ({:?})", result.name) };
    format!("case {}{name}: {}", result.number, result.message)
}

/// Adds up what cases used; of memory, the most.
pub(super) fn add(sum: &mut ResourceUsage, usage: Option<&ResourceUsage>) {
    let Some(usage) = usage else { return };
    let plus = |one: &Option<prost_types::Duration>, other: &Option<prost_types::Duration>| {
        let known = |time: &Option<prost_types::Duration>| time.as_ref().and_then(from_duration).unwrap_or_default();
        Some(to_duration(known(one) + known(other)))
    };
    *sum = ResourceUsage {
        wall_time: plus(&sum.wall_time, &usage.wall_time),
        cpu_user_time: plus(&sum.cpu_user_time, &usage.cpu_user_time),
        cpu_system_time: plus(&sum.cpu_system_time, &usage.cpu_system_time),
        peak_memory_bytes: sum.peak_memory_bytes.max(usage.peak_memory_bytes),
        stdout_bytes: sum.stdout_bytes.saturating_add(usage.stdout_bytes),
        stderr_bytes: sum.stderr_bytes.saturating_add(usage.stderr_bytes),
    };
}
