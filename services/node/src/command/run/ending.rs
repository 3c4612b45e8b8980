//! The end of a run in words, for people.

use std::{io::Write as _, time::Duration};

use runmesh_events::from_duration;
use runmesh_execution::{api_name, is_missing};
use runmesh_proto::{
    event::{ExecutionErrorType, ResourceUsage},
    execution::{Execution, ExecutionState},
};

/// `completed after 0.012 s, exit code 0`, `failed (out of memory) after …`, `refused by the compiler after …`.
pub(super) fn in_words(execution: &Execution, code: u8) -> String {
    let usage = execution.resource_usage.unwrap_or_default();
    let how = match execution.state() {
        ExecutionState::Completed => "completed".to_owned(),
        ExecutionState::TimedOut => "timed out".to_owned(),
        ExecutionState::Cancelled => "cancelled".to_owned(),
        _ => match execution.error_type() {
            ExecutionErrorType::CompileError => return not_compiled(execution, code),
            ExecutionErrorType::Unspecified => "failed".to_owned(),
            other => format!("failed ({})", error_name(other)),
        },
    };
    format!("{how} after {:.3} s, exit code {code}{}", wall(&usage).as_secs_f64(), why(execution))
}

/// The program never ran, so what is told is the compiler's.
fn not_compiled(execution: &Execution, code: u8) -> String {
    let compile = execution.compile.as_ref();
    let said_no = compile.is_some_and(|compile| compile.exit_code.is_some_and(|code| code != 0));
    let how = if said_no { "refused by the compiler" } else { "not compiled" };
    let usage = compile.and_then(|compile| compile.resource_usage).unwrap_or_default();
    format!("{how} after {:.3} s, exit code {code}{}", wall(&usage).as_secs_f64(), why(execution))
}

/// Why, with a colon before it, if there is more to say than the state does.
pub(super) fn why(execution: &Execution) -> String {
    if execution.error_message.is_empty() { String::new() } else { format!(": {}", execution.error_message) }
}

/// The type of an error in words.
pub(super) fn error_name(kind: ExecutionErrorType) -> String {
    kind.as_str_name().trim_start_matches("EXECUTION_ERROR_TYPE_").to_lowercase().replace('_', " ")
}

pub(super) fn wall(usage: &ResourceUsage) -> Duration {
    usage.wall_time.as_ref().and_then(from_duration).unwrap_or_default()
}

/// Says which limits did not hold in full, if there are such.
pub(super) fn not_held(execution: &Execution) {
    let missing = execution.receipt.iter().filter(|line| is_missing(line));
    let names: Vec<&str> = missing.map(|line| api_name(line.limit())).collect();
    if !names.is_empty() {
        let names = names.join(", ");
        let _ = writeln!(
            std::io::stderr(),
            "not held to in full: {names}; `runmesh doctor` tells why, and how to get more"
        );
    }
}

#[cfg(test)]
mod tests {
    use runmesh_events::to_duration;
    use runmesh_proto::event::CompileResult;

    use super::*;

    fn failed(kind: ExecutionErrorType, message: &str) -> Execution {
        Execution {
            state: ExecutionState::Failed as i32,
            error_type: kind as i32,
            error_message: message.to_owned(),
            ..Execution::default()
        }
    }

    #[test]
    fn the_end_is_told_in_words() {
        let half =
            ResourceUsage { wall_time: Some(to_duration(Duration::from_millis(500))), ..ResourceUsage::default() };
        let completed =
            Execution { state: ExecutionState::Completed as i32, resource_usage: Some(half), ..Execution::default() };
        assert_eq!(in_words(&completed, 0), "completed after 0.500 s, exit code 0");
        let memory = failed(ExecutionErrorType::OutOfMemory, "it ran out");
        assert_eq!(in_words(&memory, 1), "failed (out of memory) after 0.000 s, exit code 1: it ran out");
        let compiled = |exit_code| Execution {
            compile: Some(CompileResult { exit_code, resource_usage: Some(half), ..CompileResult::default() }),
            ..failed(ExecutionErrorType::CompileError, "no")
        };
        assert_eq!(in_words(&compiled(Some(1)), 1), "refused by the compiler after 0.500 s, exit code 1: no");
        for exit_code in [None, Some(0)] {
            assert_eq!(in_words(&compiled(exit_code), 1), "not compiled after 0.500 s, exit code 1: no");
        }
    }
}
