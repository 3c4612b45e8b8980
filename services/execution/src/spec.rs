//! Between what a client asks for and the event that records it.

use runmesh_proto::{
    event::{CompileStep, ExecutionRequested},
    execution::{ExecutionSpec, Limits, Runtime},
};

/// The event's payload for a spec that is valid and has its limits filled in.
pub(crate) fn to_request(
    execution_id: &str,
    user_id: &str,
    spec: ExecutionSpec,
    runtime: &Runtime,
) -> ExecutionRequested {
    let limits = spec.limits.unwrap_or_default();
    let priority = spec.priority;
    let (cpu, memory) = quantities(&limits);
    let compile = spec.compile_limits.map(|limits| {
        let (cpu_limit, memory_limit) = quantities(&limits);
        CompileStep {
            command: runtime.compile_command.clone(),
            timeout: limits.wall_time,
            cpu_limit,
            memory_limit,
            output_limit_bytes: limits.output_bytes,
            cpu_time_limit: limits.cpu_time,
            process_limit: limits.processes,
            disk_limit_bytes: limits.disk_bytes,
            file_limit_bytes: limits.file_bytes,
        }
    });
    let runtime_filename = match (spec.entrypoint.is_empty(), spec.script.is_empty()) {
        (false, _) => spec.entrypoint,
        (true, false) => runtime.file_name.clone(),
        (true, true) => spec.files.first().map(|file| file.path.clone()).unwrap_or_default(),
    };
    ExecutionRequested {
        execution_id: execution_id.to_owned(),
        script: spec.script,
        language: spec.language,
        language_version: runtime.version.clone(),
        runtime_image: String::new(),
        runtime_command: runtime.command.clone(),
        runtime_filename,
        timeout: limits.wall_time,
        cpu_limit: cpu.clone(),
        memory_limit: memory.clone(),
        cpu_request: cpu,
        memory_request: memory,
        priority,
        user_id: user_id.to_owned(),
        files: spec.files,
        args: spec.args,
        stdin: spec.stdin,
        environment: spec.environment,
        output_limit_bytes: limits.output_bytes,
        labels: spec.labels,
        strict: spec.strict,
        cpu_time_limit: limits.cpu_time,
        process_limit: limits.processes,
        disk_limit_bytes: limits.disk_bytes,
        file_limit_bytes: limits.file_bytes,
        compile,
        cases: spec.cases,
        case_options: spec.case_options,
        on_runner_loss: spec.on_runner_loss,
        maximum_retries: spec.maximum_retries,
        ..ExecutionRequested::default()
    }
}

/// Limits on processor and memory as Kubernetes quantities.
fn quantities(limits: &Limits) -> (String, String) {
    (format!("{}m", limits.cpu_millis), limits.memory_bytes.to_string())
}

fn of_quantities(cpu: &str, memory: &str) -> (i32, i64) {
    (cpu.trim_end_matches('m').parse().unwrap_or_default(), memory.parse().unwrap_or_default())
}

/// The spec that a recorded request stands for.
pub(crate) fn of_request(request: &ExecutionRequested) -> ExecutionSpec {
    let (cpu_millis, memory_bytes) = of_quantities(&request.cpu_limit, &request.memory_limit);
    let compile_limits = request.compile.as_ref().map(|compile| {
        let (cpu_millis, memory_bytes) = of_quantities(&compile.cpu_limit, &compile.memory_limit);
        Limits {
            wall_time: compile.timeout,
            output_bytes: compile.output_limit_bytes,
            memory_bytes,
            cpu_millis,
            cpu_time: compile.cpu_time_limit,
            processes: compile.process_limit,
            disk_bytes: compile.disk_limit_bytes,
            file_bytes: compile.file_limit_bytes,
        }
    });
    ExecutionSpec {
        language: request.language.clone(),
        language_version: request.language_version.clone(),
        script: request.script.clone(),
        files: request.files.clone(),
        entrypoint: request.runtime_filename.clone(),
        args: request.args.clone(),
        stdin: request.stdin.clone(),
        environment: request.environment.clone(),
        limits: Some(Limits {
            wall_time: request.timeout,
            output_bytes: request.output_limit_bytes,
            memory_bytes,
            cpu_millis,
            cpu_time: request.cpu_time_limit,
            processes: request.process_limit,
            disk_bytes: request.disk_limit_bytes,
            file_bytes: request.file_limit_bytes,
        }),
        strict: request.strict,
        priority: request.priority,
        labels: request.labels.clone(),
        compile_limits,
        cases: request.cases.clone(),
        case_options: request.case_options,
        on_runner_loss: request.on_runner_loss,
        maximum_retries: request.maximum_retries,
    }
}
