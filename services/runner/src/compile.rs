//! The step before the run: the program is compiled in a sandbox of its own, with limits and output of its own.

use std::sync::Arc;

use runmesh_events::{Payload, from_duration};
use runmesh_proto::event::{
    CompileResult, CompileStep, ExecutionErrorType, ExecutionFailed, ExecutionStep, ExecutionTimeout,
};

use crate::{
    Run, RunSpec, SourceFile,
    execute::{Asked, Execution, GivenUp, Last},
    plan,
    receipt::receipt_to_proto,
    verdict::{self, Ended, resource_usage},
};

/// What became of the step.
pub(crate) enum Compiled {
    /// The program can run. `None`: its language is not compiled.
    Ready(Option<CompileResult>),
    /// The execution has ended; with what may still have to be cleaned up.
    Over(Option<Run>),
}

impl Execution {
    /// Compiles the program, if that is needed: what the compiler made is among the files of the run then.
    pub(crate) async fn compile(&mut self) -> Result<Compiled, GivenUp> {
        let Some(step) = self.request.compile.clone() else { return Ok(Compiled::Ready(None)) };
        let (spec, run) = match self.start_compiler(&step).await? {
            Ok(started) => started,
            Err(last) => return self.end(last).await.map(|()| Compiled::Over(None)),
        };
        self.append_sandbox().await?;
        let (mut run, tails) = self.stream(run, ExecutionStep::Compile).await?;
        let mut outcome = run.outcome().await;
        let collected = std::mem::take(&mut outcome.collected);
        let report = CompileResult {
            resource_usage: Some(resource_usage(&outcome.usage)),
            receipt: receipt_to_proto(&outcome.receipt),
            ..CompileResult::default()
        };
        let Asked { cancel, shutdown } = self.asked(&outcome).await?;
        let pod_name = self.pod_name();
        let ended = Ended { spec: &spec, subject: "the compiler", pod_name: &pod_name, tails, cancel };
        let events = ended.events(outcome);
        match judge(events, plan::program(collected), report, &self.spec) {
            Ok((compiled, files)) => {
                // The sources stay: a program may want to read what it was submitted with.
                self.spec.files.extend(files);
                self.meanwhile(run.cleaned()).await?;
                Ok(Compiled::Ready(Some(compiled)))
            }
            Err(events) => {
                self.append_end(events, shutdown).await?;
                Ok(Compiled::Over(Some(run)))
            }
        }
    }

    /// Starts the compiler, with all that it needs.
    async fn start_compiler(&mut self, step: &CompileStep) -> Result<Result<(RunSpec, Run), Last>, GivenUp> {
        let mut spec = plan::compile_spec(&self.request, step, self.lease.document.attempt);
        let (language, version) = (self.request.language.clone(), self.request.language_version.clone());
        let runner = Arc::clone(&self.runner);
        spec.environment = match self.unless_ended(runner.toolchains.environment(&language, &version)).await? {
            Ok(Ok(environment)) => environment,
            Ok(Err(error)) => return Ok(Err(self.failed(format!("the program could not be compiled: {error}")))),
            Err(last) => return Ok(Err(last)),
        };
        let run = self.start(&spec, "the compiler").await?;
        Ok(run.map(|run| (spec, run)))
    }
}

/// From the verdict on the compiler to that on the step: the program, or the events that end the execution.
fn judge(
    mut events: Vec<Payload>,
    files: Vec<SourceFile>,
    mut result: CompileResult,
    program: &RunSpec,
) -> Result<(CompileResult, Vec<SourceFile>), Vec<Payload>> {
    let bytes: usize = files.iter().map(|file| file.content.len()).sum();
    result.program_bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let unusable = match files.is_empty() {
        true => Some("left no program".to_owned()),
        false => plan::too_large(&program.limits, program.files.iter().chain(&files)),
    };
    let failed = match (events.pop(), unusable) {
        (Some(Payload::ExecutionCompleted(_)), None) => {
            result.exit_code = Some(0);
            return Ok((result, files));
        }
        (Some(Payload::ExecutionCompleted(completed)), Some(why)) => ExecutionFailed {
            execution_id: completed.execution_id,
            error_message: format!("the compiler ended with exit code 0, but {why}"),
            stdout: completed.stdout,
            stderr: completed.stderr,
            ..ExecutionFailed::default()
        },
        (Some(Payload::ExecutionFailed(failed)), _) if failed.error_type() != ExecutionErrorType::SandboxError => {
            failed
        }
        (Some(Payload::ExecutionTimeout(timeout)), _) => too_slow(timeout),
        (other, _) => {
            events.extend(other);
            return Err(events);
        }
    };
    result.exit_code = Some(failed.exit_code).filter(|code| *code >= 0);
    result.error_message.clone_from(&failed.error_message);
    events.push(
        ExecutionFailed {
            error_type: ExecutionErrorType::CompileError as i32,
            resource_usage: None,
            compile: Some(result),
            ..failed
        }
        .into(),
    );
    Err(events)
}

fn too_slow(timeout: ExecutionTimeout) -> ExecutionFailed {
    let limit = timeout.timeout.as_ref().and_then(from_duration).unwrap_or_default();
    ExecutionFailed {
        execution_id: timeout.execution_id,
        exit_code: verdict::NO_EXIT_CODE,
        error_message: format!("the compiler did not end within {} s", limit.as_secs_f64()),
        stdout: timeout.stdout,
        stderr: timeout.stderr,
        ..ExecutionFailed::default()
    }
}
