//! The limits of a spec: what a request may ask for, and what it gets where it asks for nothing.

use std::time::Duration;

use runmesh_events::{from_duration, to_duration};
use runmesh_proto::execution::{ExecutionSpec, Limits, Runtime};
use runmesh_rpc::Violation;

use crate::{ExecutionConfig, LimitsConfig};

/// Fills in the limits of the run, and those of the compile step for a language that has one.
pub(super) fn fill(
    spec: &mut ExecutionSpec,
    runtime: Option<&Runtime>,
    config: &ExecutionConfig,
    violations: &mut Vec<Violation>,
) {
    let maximum = &config.maximum_limits;
    let asked = spec.limits.unwrap_or_default();
    spec.limits = Some(filled("spec.limits", &asked, &config.default_limits, maximum, violations));
    let Some(runtime) = runtime else { return };
    if !runtime.compile_command.is_empty() {
        let asked = spec.compile_limits.unwrap_or_default();
        let default = &config.default_compile_limits;
        spec.compile_limits = Some(filled("spec.compile_limits", &asked, default, maximum, violations));
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
    violations: &mut Vec<Violation>,
) -> Limits {
    let (default, maximum) = (default_config.to_proto(), maximum_config.to_proto());
    let mut number = |field: &str, asked: i64, default: i64, maximum: i64| {
        count(&format!("{name}.{field}"), asked, maximum, violations);
        if asked == 0 { default } else { asked }
    };
    let output_bytes = number("output_bytes", asked.output_bytes, default.output_bytes, maximum.output_bytes);
    let memory_bytes = number("memory_bytes", asked.memory_bytes, default.memory_bytes, maximum.memory_bytes);
    let cpu_millis =
        number("cpu_millis", asked.cpu_millis.into(), default.cpu_millis.into(), maximum.cpu_millis.into());
    // A maximum of 0 stands for the default.
    let or = |maximum: i64, default: i64| if maximum == 0 { default } else { maximum };
    let (default_processes, default_disk) = (i64::from(default.processes), default.disk_bytes);
    let processes =
        number("processes", asked.processes.into(), default_processes, or(maximum.processes.into(), default_processes));
    let disk_bytes = number("disk_bytes", asked.disk_bytes, default_disk, or(maximum.disk_bytes, default_disk));
    let file_bytes =
        number("file_bytes", asked.file_bytes, default.file_bytes, or(maximum.file_bytes, maximum.disk_bytes));
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

pub(super) fn count(field: &str, asked: i64, maximum: i64, violations: &mut Vec<Violation>) {
    if asked < 0 {
        violations.push(Violation::new(field, format!("is {asked}: it can't be negative")));
    } else if asked > maximum {
        violations.push(Violation::new(field, format!("is {asked}; the most is {maximum}")));
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
