//! What the cases of a spec have to be like.

use runmesh_events::to_duration;
use runmesh_proto::{
    event::{OutputComparison, RunCase},
    execution::ExecutionSpec,
};
use runmesh_rpc::Violation;

use super::{
    MAX_ENTRIES, MAX_ENTRIES_BYTES,
    limits::{count, duration, fits, placed},
};
use crate::{ExecutionConfig, config::LEAST_MEMORY};

/// The greatest number of characters of a case's name.
const MAX_NAME: usize = 64;
/// How many violations of cases are told: a thousand cases can have the same fault.
const TOLD: usize = 10;

/// The bytes of a case that count towards the size of a spec.
pub(super) fn size(case: &RunCase) -> u64 {
    let args: usize = case.args.iter().map(String::len).sum();
    let expected = case.expected_stdout.as_ref().map_or(0, bytes::Bytes::len);
    (case.name.len() + case.stdin.len() + args + expected) as u64
}

/// Checks the cases and fills in how they are run.
pub(super) fn check(spec: &mut ExecutionSpec, config: &ExecutionConfig, violations: &mut Vec<Violation>) {
    if spec.cases.is_empty() {
        if spec.case_options.is_some() {
            violations.push(Violation::new("spec.case_options", "is given, but there are no cases"));
        }
        return;
    }
    if spec.cases.len() > config.maximum_cases {
        let words = format!("there are {}; the most is {}", spec.cases.len(), config.maximum_cases);
        violations.push(Violation::new("spec.cases", words));
        return;
    }
    if !spec.stdin.is_empty() {
        violations.push(Violation::new("spec.stdin", "is given, but each case has its own"));
    }
    let placed = placed(spec);
    let mut found = Vec::new();
    for (index, case) in spec.cases.iter().enumerate() {
        one(&format!("spec.cases[{index}]"), case, spec, config, &mut found);
        let field = format!("spec.cases[{index}].memory_bytes");
        if !count(&field, case.memory_bytes, LEAST_MEMORY..=config.maximum_limits.memory_bytes, &mut found) {
            fits(&field, case.memory_bytes, placed, &mut found);
        }
        if found.len() >= TOLD {
            break;
        }
    }
    violations.extend(found.into_iter().take(TOLD));
    options(spec, config, violations);
}

fn one(name: &str, case: &RunCase, spec: &ExecutionSpec, config: &ExecutionConfig, violations: &mut Vec<Violation>) {
    let characters = case.name.chars().count();
    if characters > MAX_NAME {
        let words = format!("has {characters} characters; the most is {MAX_NAME}");
        violations.push(Violation::new(format!("{name}.name"), words));
    }
    if case.name.chars().any(char::is_control) {
        violations.push(Violation::new(format!("{name}.name"), "has a control character"));
    }
    let entries = spec.args.len() + case.args.len();
    if entries > MAX_ENTRIES {
        let words = format!("has {entries} entries with those of the spec; the most is {MAX_ENTRIES}");
        violations.push(Violation::new(format!("{name}.args"), words));
    }
    let environment: usize = spec.environment.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    let total = environment + spec.args.iter().chain(&case.args).map(|arg| arg.len() + 1).sum::<usize>();
    if total > MAX_ENTRIES_BYTES {
        let words = format!("args and environment have {total} bytes together; the most is {MAX_ENTRIES_BYTES}");
        violations.push(Violation::new(format!("{name}.args"), words));
    }
    for (index, _) in case.args.iter().enumerate().filter(|(_, arg)| arg.contains('\0')) {
        violations.push(Violation::new(format!("{name}.args[{index}]"), "has a NUL character"));
    }
    let maximum = config.maximum_limits.wall_time;
    duration(&format!("{name}.wall_time"), case.wall_time.as_ref(), maximum, violations);
}

fn options(spec: &mut ExecutionSpec, config: &ExecutionConfig, violations: &mut Vec<Violation>) {
    let mut options = spec.case_options.unwrap_or_default();
    match OutputComparison::try_from(options.comparison) {
        Ok(OutputComparison::Unspecified) => options.set_comparison(OutputComparison::TrailingWhitespace),
        Ok(_) => {}
        Err(_) => {
            let words = "is not a comparison that is known here";
            violations.push(Violation::new("spec.case_options.comparison", words));
        }
    }
    let (field, most) = ("spec.case_options.total_wall_time", config.maximum_cases_wall_time);
    let total = duration(field, options.total_wall_time.as_ref(), most, violations).unwrap_or(most);
    options.total_wall_time = Some(to_duration(total));
    spec.case_options = Some(options);
}
