//! The run of a program on its cases, one after the other, each in a sandbox of its own.

use std::time::Duration;

use runmesh_events::{Payload, from_duration, to_duration};
use runmesh_proto::event::{
    CaseCounts, CaseOptions, CaseResult, CaseVerdict, CompileResult, ExecutionCompleted, ExecutionErrorType,
    ExecutionFailed, ExecutionRunning, ExecutionTimeout, ResourceUsage, RunCase,
};
use tokio::time::Instant;

use self::judge::{Judge, add, verdict_in_words};
use crate::{
    Run, RunSpec,
    execute::{Asked, Execution, GivenUp, Last},
    output::Tails,
    plan,
    receipt::receipt_to_proto,
    service::ordinal,
    verdict::{self, Ended, NO_EXIT_CODE},
};

mod compare;
mod judge;

/// The cases, how they are run, and what became of them so far.
struct Cases {
    list: Vec<RunCase>,
    options: CaseOptions,
    /// What all of them may take together, and until when that is.
    total: Duration,
    deadline: Instant,
    counts: CaseCounts,
    usage: ResourceUsage,
    /// The first that was not accepted, in words.
    first_rejected: Option<String>,
}

/// How the run of one case ended.
enum CaseEnd {
    Decided(Box<CaseResult>),
    /// So does the execution.
    Over(Box<Last>),
}

impl Execution {
    /// Runs the cases and records what becomes of each. Returns what may still have to be cleaned up.
    pub(crate) async fn run_cases(&mut self, compiled: Option<CompileResult>) -> Result<Option<Run>, GivenUp> {
        let mut cases = Cases::of(self);
        let mut before: Option<Run> = None;
        let mut compiled = Some(compiled);
        for index in 0..cases.list.len() {
            let Some((spec, is_cut)) = cases.spec(&self.spec, index) else {
                self.end_cases(cases.timed_out(&self.spec.execution_id), &cases).await?;
                return Ok(before);
            };
            let run = match self.start(&spec, &format!("case {}", index + 1)).await? {
                Ok(run) => run,
                Err(last) => {
                    self.end_cases(last, &cases).await?;
                    return Ok(before);
                }
            };
            if let Some(compiled) = compiled.take() {
                self.append_started(&run, compiled).await?;
            }
            // No more than one sandbox is left to be cleaned up while the next is in use.
            if let Some(before) = before.take() {
                self.meanwhile(before.cleaned()).await?;
            }
            let (run, end) = self.run_case(run, &spec, is_cut, index, &cases).await?;
            before = Some(run);
            match end {
                CaseEnd::Decided(result) => {
                    let accepted = cases.count(&result);
                    self.append_result(*result, &cases).await?;
                    if !accepted && cases.options.stop_on_failure {
                        break;
                    }
                }
                CaseEnd::Over(last) => {
                    self.end_cases(*last, &cases).await?;
                    return Ok(before);
                }
            }
        }
        let last = cases.verdict(&self.spec.execution_id);
        self.end_cases(last, &cases).await?;
        Ok(before)
    }

    /// Waits for the end of a case that runs. `is_cut`: it has less time than its own limit, since no more is left for all.
    async fn run_case(
        &mut self,
        mut run: Run,
        spec: &RunSpec,
        is_cut: bool,
        index: usize,
        cases: &Cases,
    ) -> Result<(Run, CaseEnd), GivenUp> {
        let mut judge = Judge::new(&cases.list[index], index, &cases.options);
        while let Some(chunk) = self.meanwhile(run.next_chunk()).await? {
            judge.take(&chunk);
        }
        let outcome = run.outcome().await;
        let Asked { cancel, shutdown } = self.asked(&outcome).await?;
        let usage = verdict::resource_usage(&outcome.usage);
        // Of other cases it is that of the execution, unless there was less time left.
        let has_limits = plan::has_limits(&cases.list[index]);
        let receipt = if has_limits { receipt_to_proto(&outcome.receipt) } else { Vec::new() };
        let pod_name = self.pod_name();
        let ended = Ended { spec, subject: "the program", pod_name: &pod_name, tails: Tails::default(), cancel };
        let end = match ended.events(outcome).pop() {
            Some(Payload::ExecutionTimeout(_)) if is_cut => {
                CaseEnd::Over(Box::new(cases.timed_out(&self.spec.execution_id)))
            }
            Some(event @ Payload::ExecutionCancelled(_)) => CaseEnd::Over(Box::new(Last { event, shutdown })),
            Some(Payload::ExecutionFailed(last)) if last.error_type() == ExecutionErrorType::SandboxError => {
                let error_message = format!("case {}: {}", index + 1, last.error_message);
                let event = ExecutionFailed { error_message, ..last }.into();
                CaseEnd::Over(Box::new(Last { event, shutdown: false }))
            }
            last => CaseEnd::Decided(Box::new(CaseResult { receipt, ..judge.decide(last, usage) })),
        };
        Ok((run, end))
    }

    async fn append_result(&mut self, result: CaseResult, cases: &Cases) -> Result<(), GivenUp> {
        let number = u32::try_from(result.number).unwrap_or_default();
        let running = ExecutionRunning {
            execution_id: self.spec.execution_id.clone(),
            pod_name: self.pod_name(),
            progress_percentage: Some(cases.percent()),
            case_result: Some(result),
        };
        self.append(vec![self.cause().derive(ordinal::CASES + number, running)]).await
    }

    /// Appends the last events of the execution.
    async fn end_cases(&mut self, last: Last, cases: &Cases) -> Result<(), GivenUp> {
        self.end(Last { event: verdict::with_counts(last.event, Some(cases.counts)), ..last }).await
    }
}

impl Cases {
    fn of(execution: &mut Execution) -> Self {
        let list = std::mem::take(&mut execution.request.cases);
        let options = execution.request.case_options.unwrap_or_default();
        let total = options.total_wall_time.as_ref().and_then(from_duration).unwrap_or(Duration::from_secs(3_600));
        let number = i32::try_from(list.len()).unwrap_or(i32::MAX);
        Self {
            list,
            options,
            total,
            deadline: Instant::now() + total,
            counts: CaseCounts { total: number, not_run: number, ..CaseCounts::default() },
            usage: ResourceUsage::default(),
            first_rejected: None,
        }
    }

    /// What to run for a case, and whether its time is cut to what is left for all of them. `None`: nothing is left.
    fn spec(&self, base: &RunSpec, index: usize) -> Option<(RunSpec, bool)> {
        let case = &self.list[index];
        let own = plan::own_wall_time(case).unwrap_or(base.limits.wall_time);
        let left = self.deadline.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| (plan::case_spec(base, case, index + 1, own.min(left)), left < own))
    }

    /// Takes a result into account. Returns whether the case was accepted.
    fn count(&mut self, result: &CaseResult) -> bool {
        let accepted = result.verdict() == CaseVerdict::Accepted;
        self.counts.not_run -= 1;
        if accepted {
            self.counts.accepted += 1;
        } else {
            self.counts.rejected += 1;
            self.first_rejected.get_or_insert_with(|| verdict_in_words(result));
        }
        add(&mut self.usage, result.resource_usage.as_ref());
        accepted
    }

    fn percent(&self) -> i32 {
        let decided = i64::from(self.counts.total - self.counts.not_run);
        i32::try_from(decided * 100 / i64::from(self.counts.total.max(1))).unwrap_or_default()
    }

    /// The last event once no more cases are to be run.
    fn verdict(&self, execution_id: &str) -> Last {
        let (execution_id, resource_usage) = (execution_id.to_owned(), Some(self.usage));
        let event = match &self.first_rejected {
            None => ExecutionCompleted { execution_id, resource_usage, ..ExecutionCompleted::default() }.into(),
            Some(first) => {
                let CaseCounts { rejected, total, not_run, .. } = self.counts;
                let not_run = if not_run > 0 { format!(", {not_run} were not run") } else { String::new() };
                ExecutionFailed {
                    execution_id,
                    exit_code: NO_EXIT_CODE,
                    error_type: ExecutionErrorType::CasesRejected as i32,
                    error_message: format!(
                        "{rejected} of {total} cases were not accepted{not_run}; the first is {first}"
                    ),
                    resource_usage,
                    ..ExecutionFailed::default()
                }
                .into()
            }
        };
        Last { event, shutdown: false }
    }

    fn timed_out(&self, execution_id: &str) -> Last {
        let event = ExecutionTimeout {
            execution_id: execution_id.to_owned(),
            timeout: Some(to_duration(self.total)),
            resource_usage: Some(self.usage),
            ..ExecutionTimeout::default()
        };
        Last { event: event.into(), shutdown: false }
    }
}
