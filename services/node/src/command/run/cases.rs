//! `runmesh run --cases`: one program on many inputs, a table of what became of each.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use bytes::Bytes;
use futures::TryStreamExt as _;
use runmesh_events::ExecutionId;
use runmesh_proto::{
    event::{CaseResult, CaseVerdict, ExecutionErrorType},
    execution::{
        Execution, ExecutionSpec, ExecutionState, RunCasesRequest, RunCasesResponse,
        execution_service_client::ExecutionServiceClient, run_cases_response::Item,
    },
};
use tonic::{body::Body, client::GrpcService, codegen::StdError};

use super::{
    Stop, cancel,
    ending::{self, wall},
    exit, may_return, pause, print, write,
};

/// The widest name that is shown whole.
const WIDEST: usize = 40;

/// How many lines of its standard error are shown of a case that was not accepted.
const LAST_LINES: usize = 5;

pub(super) async fn follow<T>(
    mut client: ExecutionServiceClient<T>,
    spec: ExecutionSpec,
    as_json: bool,
    stop: &mut Stop,
) -> anyhow::Result<ExitCode>
where
    T: GrpcService<Body> + Clone,
    T::Error: Into<StdError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    let mut table = Table::new(&spec);
    // The name of this run, so that asking again can't start another.
    let request_id = format!("run-cases-{}", ExecutionId::new());
    let mut request = RunCasesRequest { request_id, spec: Some(spec), ..RunCasesRequest::default() };
    let mut asked_to_stop = false;
    let mut give_up = None;
    loop {
        pause(give_up, stop).await?;
        let mut results = match client.run_cases(request.clone()).await {
            Ok(response) => response.into_inner(),
            Err(status) if may_return(&status, &mut give_up) => continue,
            Err(status) => return Err(print::error(&status)),
        };
        loop {
            let next = tokio::select! {
                next = results.try_next() => next,
                () = stop.asked() => {
                    if asked_to_stop || request.execution_id.is_empty() {
                        anyhow::bail!("stopped before the cases had ended");
                    }
                    asked_to_stop = true;
                    cancel(&mut client, &request.execution_id, "interrupted at the terminal").await;
                    continue;
                }
            };
            match next {
                Ok(Some(response)) => {
                    give_up = None;
                    request.cursor.clone_from(&response.cursor);
                    if let Some(Item::Execution(execution)) = &response.item {
                        // From here on it is resumed by its id, without the spec.
                        request.execution_id.clone_from(&execution.execution_id);
                        (request.request_id, request.spec) = (String::new(), None);
                    }
                    if let Err(error) = show(&response, &mut table, as_json) {
                        // Nobody reads the output any more.
                        cancel(&mut client, &request.execution_id, "the output is not read").await;
                        return Err(error);
                    }
                    if let Some(Item::End(end)) = response.item {
                        return Ok(verdict(&end.execution.unwrap_or_default(), as_json));
                    }
                }
                Ok(None) => anyhow::bail!("the stream ended without the end of the cases"),
                Err(status) if may_return(&status, &mut give_up) => break,
                Err(status) => return Err(print::error(&status)),
            }
        }
    }
}

fn show(response: &RunCasesResponse, table: &mut Table, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let descriptor = runmesh_proto::descriptors()
            .get_message_by_name("runmesh.execution.v1.RunCasesResponse")
            .context("the contract has no RunCasesResponse")?;
        return Ok(print::line(print::json(&print::dynamic(response, descriptor)?)?)?);
    }
    match &response.item {
        Some(Item::CompileOutput(output)) => write(&mut std::io::stderr().lock(), &output.data)?,
        Some(Item::Result(result)) => table.row(result)?,
        _ => {}
    }
    Ok(())
}

/// The table, a row as each case is decided.
struct Table {
    number: usize,
    name: usize,
    begun: bool,
}

impl Table {
    fn new(spec: &ExecutionSpec) -> Self {
        let name = spec.cases.iter().map(|case| case.name.chars().count()).max().unwrap_or_default();
        Self { number: spec.cases.len().to_string().len().max(1), name: name.clamp(4, WIDEST), begun: false }
    }

    fn row(&mut self, result: &CaseResult) -> std::io::Result<()> {
        let (number, name) = (self.number, self.name);
        if !self.begun {
            self.begun = true;
            print::line(format_args!(
                "{:>number$}  {:<name$}  {:<13}  {:>9}  {:>10}",
                "#", "NAME", "VERDICT", "TIME", "MEMORY"
            ))?;
        }
        let usage = result.resource_usage.unwrap_or_default();
        let shown: String = result.name.chars().take(WIDEST).collect();
        let words = if result.message.is_empty() { String::new() } else { format!("  {}", result.message) };
        let row = format!(
            "{:>number$}  {shown:<name$}  {:<13}  {:>7.3} s  {:>6.1} MiB{words}",
            result.number,
            verdict_name(result.verdict()),
            wall(&usage).as_secs_f64(),
            mebibytes(usage.peak_memory_bytes),
        );
        print::line(row.trim_end())?;
        if result.verdict() != CaseVerdict::Accepted {
            for said in last_lines(&result.stderr) {
                print::line(format_args!("{:number$}  | {said}", ""))?;
            }
        }
        Ok(())
    }
}

/// The end of what a program said on standard error.
fn last_lines(stderr: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    // What a terminal would act on is not for a table.
    let plain = |line: &&str| line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(plain).collect()
}

fn verdict_name(verdict: CaseVerdict) -> &'static str {
    match verdict {
        CaseVerdict::Accepted => "accepted",
        CaseVerdict::WrongAnswer => "wrong answer",
        CaseVerdict::RuntimeError => "runtime error",
        CaseVerdict::Timeout => "timeout",
        CaseVerdict::Limit => "limit",
        CaseVerdict::Unspecified => "unknown",
    }
}

#[allow(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
fn mebibytes(bytes: i64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn verdict(execution: &Execution, as_json: bool) -> ExitCode {
    let code = match execution.state() {
        ExecutionState::Completed => 0,
        ExecutionState::TimedOut => exit::TIMED_OUT,
        ExecutionState::Cancelled => exit::CANCELLED,
        _ => exit::FAILED,
    };
    if !as_json {
        ending::not_held(execution);
        let counts = execution.cases.unwrap_or_default();
        let wall = wall(&execution.resource_usage.unwrap_or_default());
        let mut words = format!("{} of {} cases accepted", counts.accepted, counts.total);
        for (count, what) in [(counts.rejected, "rejected"), (counts.not_run, "not run")] {
            if count > 0 {
                words.push_str(&format!(", {count} {what}"));
            }
        }
        words.push_str(&format!(", in {:.3} s", wall.as_secs_f64()));
        if execution.error_type() == ExecutionErrorType::CompileError {
            words = ending::in_words(execution, code);
        } else if code != 0 {
            words.push_str(&ending::why(execution));
        }
        let _ = writeln!(std::io::stderr(), "{words}");
    }
    ExitCode::from(code)
}
