//! The step before the run: the program is compiled in a sandbox of its own, with limits and output of its own.

use std::sync::Arc;

use runmesh_events::{Payload, from_duration};
use runmesh_proto::event::{
    CompileResult, CompileStep, ExecutionErrorType, ExecutionFailed, ExecutionStep, ExecutionTimeout, ResourceUsage,
};

use crate::{
    Run, RunSpec, SourceFile,
    execute::{Asked, Execution, GivenUp},
    plan,
    service::ordinal,
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
        let spec = match self.compile_spec(&step).await? {
            Some(spec) => spec,
            None => return Ok(Compiled::Over(None)),
        };
        let run = match self.start(&spec).await {
            Ok(run) => run,
            Err(error) => {
                let words = format!("the compiler could not be started: {error}");
                self.end_without_run(words).await?;
                return Ok(Compiled::Over(None));
            }
        };
        self.append_sandbox().await?;
        let (mut run, tails) = self.stream(run, ExecutionStep::Compile).await?;
        let mut outcome = run.outcome().await;
        let collected = std::mem::take(&mut outcome.collected);
        let usage = resource_usage(&outcome.usage);
        let Asked { cancel, shutdown } = self.asked(&outcome).await?;
        let pod_name = self.pod_name();
        let ended = Ended { spec: &spec, subject: "the compiler", pod_name: &pod_name, tails, cancel };
        let events = ended.events(outcome);
        match judge(events, plan::program(collected), usage) {
            Ok((compiled, files)) => {
                // The sources stay: a program may want to read what it was submitted with.
                self.spec.files.extend(files);
                run.cleaned().await;
                Ok(Compiled::Ready(Some(compiled)))
            }
            Err(events) => {
                self.append_end(events, shutdown).await?;
                Ok(Compiled::Over(Some(run)))
            }
        }
    }

    /// What to run, with all that the compiler needs. `None`: there is no such compiler, and the execution has ended.
    async fn compile_spec(&mut self, step: &CompileStep) -> Result<Option<RunSpec>, GivenUp> {
        let mut spec = plan::compile_spec(&self.request, step, self.lease.document.attempt);
        let (language, version) = (self.request.language.clone(), self.request.language_version.clone());
        let (runner, active) = (Arc::clone(&self.runner), Arc::clone(&self.active));
        let environment = active.end.run_until_cancelled(runner.toolchains.environment(&language, &version));
        match self.meanwhile(environment).await? {
            Some(Ok(environment)) => {
                spec.environment = environment;
                Ok(Some(spec))
            }
            None => {
                let Asked { cancel, shutdown } = self.asked_to_end().await?;
                let ended = verdict::cancelled(&self.spec.execution_id, cancel, false);
                self.append_end(vec![ended], shutdown).await?;
                Ok(None)
            }
            Some(Err(error)) => {
                let words = format!("the program could not be compiled: {error}");
                self.end_without_run(words).await?;
                Ok(None)
            }
        }
    }

    async fn end_without_run(&mut self, words: String) -> Result<(), GivenUp> {
        let id = &self.spec.execution_id;
        let ended = verdict::without_run(id, ExecutionErrorType::SandboxError, words);
        self.append(vec![self.cause().derive(ordinal::TERMINAL, ended)]).await
    }
}

/// From the verdict on the compiler to that on the step: the program, or the events that end the execution.
fn judge(
    mut events: Vec<Payload>,
    files: Vec<SourceFile>,
    usage: ResourceUsage,
) -> Result<(CompileResult, Vec<SourceFile>), Vec<Payload>> {
    let mut result = CompileResult { resource_usage: Some(usage), ..CompileResult::default() };
    let failed = match events.pop() {
        Some(Payload::ExecutionCompleted(_)) if !files.is_empty() => {
            result.exit_code = Some(0);
            let bytes: usize = files.iter().map(|file| file.content.len()).sum();
            result.program_bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            return Ok((result, files));
        }
        Some(Payload::ExecutionCompleted(completed)) => ExecutionFailed {
            execution_id: completed.execution_id,
            error_message: "the compiler ended with exit code 0, but left no program".to_owned(),
            stdout: completed.stdout,
            stderr: completed.stderr,
            ..ExecutionFailed::default()
        },
        Some(Payload::ExecutionFailed(failed)) if failed.error_type() != ExecutionErrorType::SandboxError => failed,
        Some(Payload::ExecutionTimeout(timeout)) => too_slow(timeout),
        other => {
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
