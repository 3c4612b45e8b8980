//! Two runs of one request, compared.

mod document;
mod html;
mod output;
mod report;

use runmesh_events::from_duration;
use runmesh_proto::{
    execution::Execution,
    replay::{Difference, ShadowComparison, ShadowOutcome},
};

pub(crate) use self::{
    document::ComparisonDocument,
    output::{Outputs, first_difference},
    report::{export, report},
};

/// From which ratios on time and memory are differences. 0: never.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Tolerance {
    pub(crate) slower: f64,
    pub(crate) larger: f64,
}

/// Compares what came of an execution with what came of it again.
pub(crate) fn compare(
    (original, outputs): (&Execution, &Outputs),
    (rerun, rerun_outputs): (&Execution, &Outputs),
    tolerance: Tolerance,
) -> ShadowComparison {
    let (first, second) = (outcome(original), outcome(rerun));
    let stdout = first_difference(&outputs.stdout, &rerun_outputs.stdout);
    let stderr = first_difference(&outputs.stderr, &rerun_outputs.stderr);
    let time_ratio = ratio(seconds(&first), seconds(&second));
    let memory_ratio = ratio(memory(&first), memory(&second));
    let verdict = |outcome: &ShadowOutcome| (outcome.state, outcome.error_type, outcome.cases.clone());
    let exceeds = |ratio: f64, limit: f64| limit > 0.0 && ratio > limit;
    let differences = [
        (Difference::Verdict, verdict(&first) != verdict(&second)),
        (Difference::ExitCode, first.exit_code != second.exit_code),
        (Difference::Stdout, stdout.is_some()),
        (Difference::Stderr, stderr.is_some()),
        (Difference::Time, exceeds(time_ratio, tolerance.slower)),
        (Difference::Memory, exceeds(memory_ratio, tolerance.larger)),
    ];
    let differences = differences.into_iter().filter(|(_, is)| *is).map(|(difference, _)| difference.into()).collect();
    ShadowComparison {
        original: Some(first),
        rerun: Some(second),
        differences,
        stdout,
        stderr,
        time_ratio,
        memory_ratio,
    }
}

fn outcome(execution: &Execution) -> ShadowOutcome {
    let cases = execution
        .cases
        .as_ref()
        .map(|cases| format!("{} accepted, {} rejected, {} not run", cases.accepted, cases.rejected, cases.not_run));
    ShadowOutcome {
        execution_id: execution.execution_id.clone(),
        state: execution.state,
        error_type: execution.error_type,
        exit_code: execution.exit_code,
        language_version: execution.spec.as_ref().map(|spec| spec.language_version.clone()).unwrap_or_default(),
        resource_usage: execution.resource_usage,
        cases: cases.unwrap_or_default(),
    }
}

/// How long a run took, in seconds. 0: that is not known.
fn seconds(outcome: &ShadowOutcome) -> f64 {
    let wall = outcome.resource_usage.as_ref().and_then(|usage| usage.wall_time.as_ref()).and_then(from_duration);
    wall.map_or(0.0, |wall| wall.as_secs_f64())
}

fn memory(outcome: &ShadowOutcome) -> f64 {
    outcome.resource_usage.as_ref().map_or(0.0, |usage| usage.peak_memory_bytes as f64)
}

fn ratio(first: f64, second: f64) -> f64 {
    if first > 0.0 && second > 0.0 { second / first } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runmesh_events::to_duration;
    use runmesh_proto::{
        event::{CaseCounts, ExecutionErrorType, ResourceUsage},
        execution::ExecutionState,
    };

    use super::*;

    fn execution(millis: u64, memory: i64) -> Execution {
        let usage = ResourceUsage {
            wall_time: Some(to_duration(Duration::from_millis(millis))),
            peak_memory_bytes: memory,
            ..Default::default()
        };
        Execution {
            state: ExecutionState::Completed.into(),
            exit_code: Some(0),
            resource_usage: Some(usage),
            ..Default::default()
        }
    }

    fn differences(rerun: &Execution, output: &[u8], tolerance: Tolerance) -> Vec<Difference> {
        let outputs = |stdout: &[u8]| Outputs { stdout: stdout.to_vec(), stderr: b"e".to_vec() };
        let original = (&execution(100, 1_000), &outputs(b"out"));
        let found = compare(original, (rerun, &outputs(output)), tolerance);
        found.differences().collect()
    }

    #[test]
    fn each_difference_is_found_and_nothing_else() {
        let none = Tolerance::default();
        assert_eq!(differences(&execution(900, 9_000), b"out", none), []);
        let strict = Tolerance { slower: 2.0, larger: 3.0 };
        assert_eq!(differences(&execution(200, 3_000), b"out", strict), []);
        assert_eq!(differences(&execution(201, 1), b"out", strict), [Difference::Time]);
        assert_eq!(differences(&execution(1, 3_001), b"out", strict), [Difference::Memory]);
        assert_eq!(differences(&execution(1, 1), b"ou", none), [Difference::Stdout]);
        let other = Execution { exit_code: Some(1), ..execution(1, 1) };
        assert_eq!(differences(&other, b"out", none), [Difference::ExitCode]);
        let failed = Execution { error_type: ExecutionErrorType::OutOfMemory.into(), ..execution(1, 1) };
        assert_eq!(differences(&failed, b"out", none), [Difference::Verdict]);
        let counts = CaseCounts { total: 1, accepted: 1, ..Default::default() };
        let cases = Execution { cases: Some(counts), ..execution(1, 1) };
        assert_eq!(differences(&cases, b"out", none), [Difference::Verdict]);
        // Without numbers there is nothing to hold against each other.
        let unknown = Execution { resource_usage: None, ..execution(1, 1) };
        assert_eq!(differences(&unknown, b"out", strict), []);
    }
}
