//! `runmesh run --cases`: one program on many inputs, a table of what became of each.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use runmesh_events::ExecutionId;
use runmesh_proto::{
    event::{CaseResult, CaseVerdict, ExecutionErrorType},
    execution::{
        Execution, ExecutionSpec, ExecutionState, RunCasesRequest, RunCasesResponse,
        execution_service_client::ExecutionServiceClient, run_cases_response::Item,
    },
};
use tonic::{Status, Streaming};

use super::{
    ending::{self, wall},
    exit,
    following::{Channel, Followed},
    print, write,
};

/// The widest name that is shown whole.
const WIDEST: usize = 40;

/// How many lines of its standard error are shown of a case that was not accepted.
const LAST_LINES: usize = 5;

/// A program and its cases, followed to their end.
pub(super) struct Cases {
    request: RunCasesRequest,
    table: Table,
    as_json: bool,
}

impl Cases {
    pub(super) fn of(spec: ExecutionSpec, as_json: bool) -> Self {
        let table = Table::new(&spec);
        // The name of this run, so that asking again can't start another.
        let request_id = format!("run-cases-{}", ExecutionId::new());
        let request = RunCasesRequest { request_id, spec: Some(spec), ..RunCasesRequest::default() };
        Self { request, table, as_json }
    }
}

impl Followed for Cases {
    const NAME: &str = "cases";
    type Message = RunCasesResponse;

    async fn ask<T: Channel>(
        &self,
        client: &mut ExecutionServiceClient<T>,
    ) -> Result<Streaming<RunCasesResponse>, Status> {
        Ok(client.run_cases(self.request.clone()).await?.into_inner())
    }

    fn execution_id(&self) -> &str {
        &self.request.execution_id
    }

    fn take(&mut self, response: RunCasesResponse) -> anyhow::Result<Option<Execution>> {
        self.request.cursor.clone_from(&response.cursor);
        if let Some(Item::Execution(execution)) = &response.item {
            // From here on it is resumed by its id, without the spec.
            self.request.execution_id.clone_from(&execution.execution_id);
            (self.request.request_id, self.request.spec) = (String::new(), None);
        }
        show(&response, &mut self.table, self.as_json)?;
        Ok(match response.item {
            Some(Item::End(end)) => Some(end.execution.unwrap_or_default()),
            _ => None,
        })
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

pub(super) fn verdict(execution: &Execution, as_json: bool) -> ExitCode {
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
