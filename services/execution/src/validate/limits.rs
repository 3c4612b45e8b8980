//! The limits of a spec: what a request may ask for, and what it gets where it asks for nothing.

use std::{ops::RangeInclusive, time::Duration};

use runmesh_events::{from_duration, to_duration};
use runmesh_proto::execution::{ExecutionSpec, Limits, Runtime};
use runmesh_rpc::Violation;

use crate::{
    ExecutionConfig, LimitsConfig,
    config::{LEAST_CPU, LEAST_FILE, LEAST_MEMORY, PAGE},
};

/// What script and files take where they are placed: memory, and space of the working folder.
pub(super) fn placed(spec: &ExecutionSpec) -> i64 {
    let sizes = spec.files.iter().map(|file| file.content.len()).chain([spec.script.len()]);
    sizes
        .map(|size| i64::try_from(size.next_multiple_of(PAGE as usize)).unwrap_or(i64::MAX))
        .fold(0, i64::saturating_add)
}

/// Fills in the limits of the run, and those of the compile step for a language that has one.
pub(super) fn fill(
    spec: &mut ExecutionSpec,
    runtime: Option<&Runtime>,
    config: &ExecutionConfig,
    violations: &mut Vec<Violation>,
) {
    let maximum = &config.maximum_limits;
    let placed = placed(spec);
    let asked = spec.limits.unwrap_or_default();
    spec.limits = Some(filled("spec.limits", &asked, &config.default_limits, maximum, placed, violations));
    let Some(runtime) = runtime else { return };
    if !runtime.compile_command.is_empty() {
        let asked = spec.compile_limits.unwrap_or_default();
        let default = &config.default_compile_limits;
        spec.compile_limits = Some(filled("spec.compile_limits", &asked, default, maximum, placed, violations));
    } else if spec.compile_limits.is_some() {
        let words = format!("is given, but {} is not compiled", runtime.language);
        violations.push(Violation::new("spec.compile_limits", words));
    }
}

fn filled(
    name: &str,
    asked: &Limits,
    default_config: &LimitsConfig,
    maximum_config: &LimitsConfig,
    placed: i64,
    violations: &mut Vec<Violation>,
) -> Limits {
    let (default, maximum) = (default_config.to_proto(), maximum_config.to_proto());
    let mut number = |field: &str, asked: i64, default: i64, range: RangeInclusive<i64>, placed: i64| {
        let number = if asked == 0 { default } else { asked };
        let field = format!("{name}.{field}");
        if !count(&field, asked, range, violations) {
            fits(&field, number, placed, violations);
        }
        number
    };
    let output_bytes = number("output_bytes", asked.output_bytes, default.output_bytes, 1..=maximum.output_bytes, 0);
    let memory = LEAST_MEMORY..=maximum.memory_bytes;
    let memory_bytes = number("memory_bytes", asked.memory_bytes, default.memory_bytes, memory, placed);
    let cpu = LEAST_CPU..=maximum.cpu_millis.into();
    let cpu_millis = number("cpu_millis", asked.cpu_millis.into(), default.cpu_millis.into(), cpu, 0);
    // A maximum of 0 stands for the default.
    let or = |maximum: i64, default: i64| if maximum == 0 { default } else { maximum };
    let (default_processes, default_disk) = (i64::from(default.processes), default.disk_bytes);
    let most = 1..=or(maximum.processes.into(), default_processes);
    let processes = number("processes", asked.processes.into(), default_processes, most, 0);
    let disk = LEAST_FILE..=or(maximum.disk_bytes, default_disk);
    let disk_bytes = number("disk_bytes", asked.disk_bytes, default_disk, disk, placed);
    let file = LEAST_FILE..=or(maximum.file_bytes, maximum.disk_bytes);
    let file_bytes = number("file_bytes", asked.file_bytes, default.file_bytes, file, 0);
    let most_cpu = if maximum_config.cpu_time.is_zero() { default_config.cpu_time } else { maximum_config.cpu_time };
    let (wall_field, cpu_field) = (format!("{name}.wall_time"), format!("{name}.cpu_time"));
    let wall_time = duration(&wall_field, asked.wall_time.as_ref(), maximum_config.wall_time, violations);
    let cpu_time = duration(&cpu_field, asked.cpu_time.as_ref(), most_cpu, violations);
    let cpu_time = cpu_time.unwrap_or(default_config.cpu_time);
    Limits {
        wall_time: Some(to_duration(wall_time.unwrap_or(default_config.wall_time))),
        output_bytes,
        memory_bytes,
        cpu_millis: i32::try_from(cpu_millis).unwrap_or(default.cpu_millis),
        cpu_time: (!cpu_time.is_zero()).then(|| to_duration(cpu_time)),
        processes: i32::try_from(processes).unwrap_or(default.processes),
        disk_bytes,
        file_bytes,
    }
}

/// Checks a number that a request asks for; 0 stands for none. Returns whether there is something wrong with it.
pub(super) fn count(field: &str, asked: i64, range: RangeInclusive<i64>, violations: &mut Vec<Violation>) -> bool {
    let words = if asked < 0 {
        format!("is {asked}: it can't be negative")
    } else if asked > *range.end() {
        format!("is {asked}; the most is {}", range.end())
    } else if asked > 0 && asked < *range.start() {
        format!("is {asked}; the least is {}", range.start())
    } else {
        return false;
    };
    violations.push(Violation::new(field, words));
    true
}

/// Checks that script and files fit into a limit; 0 stands for none.
pub(super) fn fits(field: &str, limit: i64, placed: i64, violations: &mut Vec<Violation>) {
    if limit > 0 && placed > limit {
        violations.push(Violation::new(field, format!("is {limit}, but script and files take {placed}")));
    }
}

/// A duration that a request asks for. `None`: it asks for none.
pub(super) fn duration(
    field: &str,
    asked: Option<&prost_types::Duration>,
    maximum: Duration,
    violations: &mut Vec<Violation>,
) -> Option<Duration> {
    let asked = asked?;
    let Some(known) = from_duration(asked) else {
        let words = format!("{} s and {} ns is negative or malformed", asked.seconds, asked.nanos);
        violations.push(Violation::new(field, words));
        return None;
    };
    if known > maximum {
        let words = format!("is {} s; the most is {} s", known.as_secs_f64(), maximum.as_secs_f64());
        violations.push(Violation::new(field, words));
    }
    Some(known).filter(|known| !known.is_zero())
}
