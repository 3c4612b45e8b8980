//! A program on many inputs: each case its own verdict, with the evidence.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Client, Mesh, bash, python};
use runmesh_proto::{
    event::{
        CaseCounts, CaseOptions, CaseResult, CaseVerdict, Enforcement, ExecutionErrorType, LimitKind, OutputComparison,
        RunCase, event::Payload,
    },
    execution::{
        Execution, ExecutionSpec, ExecutionState, Limits, RetryExecutionRequest, RunCasesRequest, RunCasesResponse,
        run_cases_response::Item,
    },
};

/// A case with an input and what should come of it.
fn case(stdin: &str, expected: &str) -> RunCase {
    RunCase { stdin: stdin.to_owned().into(), expected_stdout: Some(expected.to_owned().into()), ..RunCase::default() }
}

fn with_cases(spec: ExecutionSpec, cases: Vec<RunCase>) -> ExecutionSpec {
    ExecutionSpec { cases, ..spec }
}

/// Runs to the end.
async fn run(client: &Client, spec: ExecutionSpec) -> anyhow::Result<Run> {
    let request = RunCasesRequest { spec: Some(spec), ..RunCasesRequest::default() };
    Run::of(client.run_cases(request).await?.rest().await?)
}

/// What a whole stream said.
struct Run {
    messages: Vec<RunCasesResponse>,
    results: Vec<CaseResult>,
    end: Execution,
}

impl Run {
    fn of(messages: Vec<RunCasesResponse>) -> anyhow::Result<Self> {
        let first = messages.first().and_then(|message| message.item.as_ref());
        let Some(Item::Execution(created)) = first else { anyhow::bail!("the first message is {first:?}") };
        let last = messages.last().and_then(|message| message.item.as_ref());
        let Some(Item::End(end)) = last else { anyhow::bail!("the last message is {last:?}") };
        let end = end.execution.clone().context("an end without the execution")?;
        ensure!(end.execution_id == created.execution_id, "{created:?} {end:?}");
        for shown in [created, &end] {
            let spec = shown.spec.as_ref().context("no spec")?;
            ensure!(spec.script.is_empty() && spec.cases.is_empty(), "{spec:?}");
        }
        let mut results = Vec::new();
        for message in &messages {
            ensure!(!message.cursor.is_empty(), "a message without a cursor");
            if let Some(Item::Result(result)) = &message.item {
                results.push(result.clone());
            }
        }
        for (index, result) in results.iter().enumerate() {
            ensure!(usize::try_from(result.number)? == index + 1, "result {} in place {index}", result.number);
        }
        Ok(Self { messages, results, end })
    }

    fn verdicts(&self) -> Vec<CaseVerdict> {
        self.results.iter().map(CaseResult::verdict).collect()
    }
}

/// Does what its input says.
const PROGRAM: &str = r#"
import os, sys, time
word, _, rest = sys.stdin.read().partition(" ")
if word == "say":
    print(rest)
elif word == "exit":
    print("before the end")
    print("why it ended", file=sys.stderr)
    sys.exit(int(rest))
elif word == "kill":
    os.kill(os.getpid(), 9)
elif word == "sleep":
    print("begun", flush=True)
    time.sleep(600)
elif word == "flood":
    while True:
        sys.stdout.write("x" * 1000)
elif word == "memory":
    hog = bytearray(1)
    while True:
        hog += b"x" * (16 << 20)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_verdict_has_its_evidence() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let short = |case: RunCase| RunCase { wall_time: Some(prost_types::Duration { seconds: 3, nanos: 0 }), ..case };
    let cases = vec![
        RunCase { name: "fine".to_owned(), ..case("say 42", "42\n") },
        case("say 42", "43\n"),
        case("exit 3", "before the end\n"),
        case("kill 9", ""),
        short(case("sleep 1", "")),
        case("flood 1", ""),
        RunCase { memory_bytes: 64 << 20, ..case("memory 1", "") },
        RunCase { expected_stdout: None, ..case("say whatever", "") },
        RunCase { args: vec!["ignored".to_owned()], ..case("say last", "last\n") },
    ];
    let limits = Limits { output_bytes: 100_000, ..Limits::default() };
    let spec = ExecutionSpec { limits: Some(limits), ..with_cases(python(PROGRAM), cases) };
    let run = run(&client, spec).await?;
    use CaseVerdict::{Accepted, Limit, RuntimeError, Timeout, WrongAnswer};
    assert_eq!(
        run.verdicts(),
        [Accepted, WrongAnswer, RuntimeError, RuntimeError, Timeout, Limit, Limit, Accepted, Accepted],
        "{:#?}",
        run.results
    );
    let [fine, wrong, exit, kill, sleep, flood, memory, ..] = &run.results[..] else { anyhow::bail!("too few") };

    assert_eq!((fine.name.as_str(), fine.exit_code, fine.message.as_str()), ("fine", Some(0), ""));
    assert_eq!((&fine.stdout[..], fine.difference.as_ref()), (&b"42\n"[..], None));
    let usage = fine.resource_usage.context("no usage")?;
    ensure!(usage.stdout_bytes == 3 && usage.wall_time.is_some_and(|time| time.seconds + i64::from(time.nanos) > 0));

    let difference = wrong.difference.as_ref().context("no difference")?;
    assert_eq!((difference.line, &difference.expected[..], &difference.actual[..]), (1, &b"43"[..], &b"42"[..]));
    ensure!(wrong.message == r#"line 1: expected "43", got "42""#, "{}", wrong.message);

    assert_eq!((exit.exit_code, exit.error_type()), (Some(3), ExecutionErrorType::ScriptError));
    assert_eq!((&exit.stdout[..], &exit.stderr[..]), (&b"before the end\n"[..], &b"why it ended\n"[..]));
    assert_eq!((kill.exit_code, kill.error_type()), (Some(137), ExecutionErrorType::Signaled));
    ensure!(sleep.exit_code.is_none() && sleep.message.contains("within 3 s"), "{sleep:?}");
    assert_eq!(&sleep.stdout[..], b"begun\n");
    assert_eq!(flood.error_type(), ExecutionErrorType::OutputLimit);
    ensure!(flood.stdout.len() == 4 << 10, "{} bytes of a flood are kept", flood.stdout.len());
    assert_eq!(flood.resource_usage.map(|usage| usage.stdout_bytes), Some(100_000));
    ensure!(memory.verdict() == Limit && memory.exit_code != Some(0), "{memory:?}");

    assert_eq!(run.end.cases, Some(CaseCounts { total: 9, accepted: 3, rejected: 6, not_run: 0 }));
    assert_eq!((run.end.state(), run.end.exit_code), (ExecutionState::Failed, None));
    assert_eq!(run.end.error_type(), ExecutionErrorType::CasesRejected);
    ensure!(
        run.end.error_message.contains("6 of 9") && run.end.error_message.contains("case 2"),
        "{}",
        run.end.error_message
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_accepted_is_completed_and_the_result_and_the_log_say_the_same() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let cases = (0..5).map(|number| case(&format!("{number}\n"), &format!("{number}"))).collect();
    let run = run(&client, with_cases(bash("cat; echo seen >&2"), cases)).await?;
    assert_eq!((run.end.state(), run.end.exit_code), (ExecutionState::Completed, None));
    assert_eq!(run.end.cases, Some(CaseCounts { total: 5, accepted: 5, rejected: 0, not_run: 0 }));
    let id = &run.end.execution_id;
    let result = client.result(id).await?;
    assert_eq!(result.cases, run.end.cases);
    assert_eq!(result.case_results.len(), 5);
    for (kept, streamed) in result.case_results.iter().zip(&run.results) {
        ensure!(kept.stdout.is_empty() && kept.stderr.is_empty(), "{kept:?}");
        assert_eq!(
            (kept.number, kept.verdict, kept.resource_usage),
            (streamed.number, streamed.verdict, streamed.resource_usage)
        );
    }
    // The log has no more and no less: a case is an event.
    let transcript = client.follow(id).await?;
    let logged: Vec<CaseResult> = transcript
        .events()
        .filter_map(|event| match &event.payload {
            Some(Payload::ExecutionRunning(running)) => running.case_result.clone(),
            _ => None,
        })
        .collect();
    assert_eq!(logged, run.results);
    ensure!(transcript.stdout()?.is_empty(), "the output of cases is in the log");
    let progress: Vec<i32> = transcript
        .events()
        .filter_map(|event| match &event.payload {
            Some(Payload::ExecutionRunning(running)) => running.progress_percentage,
            _ => None,
        })
        .collect();
    assert_eq!(progress, [20, 40, 60, 80, 100]);
    assert_eq!(client.get(id).await?.cases, run.end.cases);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_compiled_once_and_each_case_begins_anew() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    // Says what it was given, and whether an earlier case has left something.
    let script = r#"
        #include <stdio.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            char word[32] = "nothing";
            scanf("%31s", word);
            printf("%s %s %s\n", word, argc > 2 ? argv[2] : "-", access("left", F_OK) ? "clean" : "dirty");
            fclose(fopen("left", "w"));
        }
    "#;
    let mut cases: Vec<RunCase> =
        (0..20).map(|number| case(&number.to_string(), &format!("{number} - clean"))).collect();
    cases.push(RunCase { args: vec!["own".to_owned()], ..case("x", "x own clean") });
    let spec = ExecutionSpec {
        language: "c".to_owned(),
        script: script.to_owned(),
        args: vec!["all".to_owned()],
        ..Default::default()
    };
    let run = run(&client, with_cases(spec, cases)).await?;
    ensure!(run.end.state() == ExecutionState::Completed, "{:?} {:?}", run.end, run.results);
    let compiled: Vec<_> =
        run.messages.iter().filter(|message| matches!(message.item, Some(Item::Compile(_)))).collect();
    ensure!(compiled.len() == 1, "{} reports of the compiler", compiled.len());
    ensure!(matches!(run.messages[1].item, Some(Item::Compile(_))), "{:?}", run.messages[1]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_with_limits_of_its_own_has_a_receipt_of_its_own() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let asked = |receipt: &[Enforcement], kind: LimitKind| {
        receipt.iter().find(|line| line.limit() == kind).map(|line| line.asked.clone()).unwrap_or_default()
    };
    let (whole, own) = (200 << 20, 100 << 20);
    let second = prost_types::Duration { seconds: 9, nanos: 0 };
    let cases = vec![
        RunCase { memory_bytes: own, ..case("1", "1") },
        case("2", "2"),
        RunCase { wall_time: Some(second), ..case("3", "3") },
    ];
    let limits = Limits { memory_bytes: whole, ..Limits::default() };
    let run = run(&client, ExecutionSpec { limits: Some(limits), ..with_cases(bash("cat"), cases) }).await?;
    assert_eq!(run.end.state(), ExecutionState::Completed);
    let [memory, none, time] = &run.results[..] else { anyhow::bail!("{:?}", run.results) };
    assert_eq!(asked(&memory.receipt, LimitKind::Memory), own.to_string());
    ensure!(none.receipt.is_empty(), "{none:?}");
    assert_eq!(asked(&time.receipt, LimitKind::WallTime), "9s");
    assert_eq!(asked(&time.receipt, LimitKind::Memory), whole.to_string());

    // That of the execution is of its own limits, from the start on.
    assert_eq!(asked(&run.end.receipt, LimitKind::Memory), whole.to_string());
    let transcript = client.follow(&run.end.execution_id).await?;
    let started = transcript.events().find_map(|event| match &event.payload {
        Some(Payload::ExecutionStarted(started)) => Some(started.receipt.clone()),
        _ => None,
    });
    assert_eq!(started.as_ref(), Some(&run.end.receipt));
    let result = client.result(&run.end.execution_id).await?;
    assert_eq!(result.receipt, run.end.receipt);
    ensure!(result.case_results.iter().all(|case| case.receipt.is_empty()), "{:?}", result.case_results);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_compile_has_no_results() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let spec = ExecutionSpec { language: "c".to_owned(), script: "int main(void) {".to_owned(), ..Default::default() };
    let run = run(&client, with_cases(spec, vec![case("", ""), case("", "")])).await?;
    assert_eq!(run.end.error_type(), ExecutionErrorType::CompileError);
    ensure!(run.results.is_empty(), "{:?}", run.results);
    assert_eq!(run.end.cases, Some(CaseCounts { total: 2, not_run: 2, ..CaseCounts::default() }));
    let kinds: Vec<&str> = run
        .messages
        .iter()
        .map(|message| match message.item {
            Some(Item::CompileOutput(_)) => "output",
            Some(Item::Compile(_)) => "compile",
            _ => "",
        })
        .filter(|kind| !kind.is_empty())
        .collect();
    ensure!(kinds.first() == Some(&"output") && kinds.last() == Some(&"compile"), "{kinds:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_failure_can_be_the_last_case() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let options = CaseOptions { stop_on_failure: true, ..CaseOptions::default() };
    let cases = ["1", "2", "x", "4", "5"].map(|expected| case(expected.replace('x', "3").as_str(), expected)).to_vec();
    let spec = ExecutionSpec { case_options: Some(options), ..with_cases(bash("cat"), cases) };
    let run = run(&client, spec).await?;
    assert_eq!(run.verdicts(), [CaseVerdict::Accepted, CaseVerdict::Accepted, CaseVerdict::WrongAnswer]);
    assert_eq!(run.end.cases, Some(CaseCounts { total: 5, accepted: 2, rejected: 1, not_run: 2 }));
    ensure!(run.end.error_message.contains("2 were not run"), "{}", run.end.error_message);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_are_compared_as_was_asked_for() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let cases = || vec![case("a b\n", "a b\n"), case("a b", "a b \n\n"), case("a  b\n", "a b"), case("b a", "a b")];
    for (comparison, accepted) in [
        (OutputComparison::Exact, [true, false, false, false]),
        (OutputComparison::TrailingWhitespace, [true, true, false, false]),
        (OutputComparison::Tokens, [true, true, true, false]),
        (OutputComparison::Unspecified, [true, true, false, false]),
    ] {
        let options = CaseOptions { comparison: comparison as i32, ..CaseOptions::default() };
        let spec = ExecutionSpec { case_options: Some(options), ..with_cases(bash("cat"), cases()) };
        let run = run(&client, spec).await?;
        let got: Vec<bool> = run.results.iter().map(|result| result.verdict() == CaseVerdict::Accepted).collect();
        ensure!(got == accepted, "{comparison:?}: {:?}", run.results);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_cases_together_have_a_limit_too() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let total = prost_types::Duration { seconds: 6, nanos: 0 };
    let options = CaseOptions { total_wall_time: Some(total), ..CaseOptions::default() };
    let spec = with_cases(
        bash("read word; sleep $word; echo $word"),
        vec![case("0", "0"), case("600", "600"), case("0", "0")],
    );
    let run = run(&client, ExecutionSpec { case_options: Some(options), ..spec }).await?;
    assert_eq!(run.end.state(), ExecutionState::TimedOut);
    // The one that was cut short had more time of its own, so it has no verdict.
    assert_eq!(run.verdicts(), [CaseVerdict::Accepted]);
    assert_eq!(run.end.cases, Some(CaseCounts { total: 3, accepted: 1, rejected: 0, not_run: 2 }));
    let transcript = client.follow(&run.end.execution_id).await?;
    let Payload::ExecutionTimeout(timeout) = transcript.terminal()? else { anyhow::bail!("{:?}", transcript.types()) };
    assert_eq!(timeout.timeout, Some(total));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_runs_the_same_cases() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let first = run(&client, with_cases(bash("cat"), vec![case("1", "1"), case("2", "x")])).await?;
    let retry = RetryExecutionRequest { execution_id: first.end.execution_id.clone(), ..Default::default() };
    let again =
        client.executions.clone().retry_execution(retry).await?.into_inner().execution.context("no execution")?;
    let request = RunCasesRequest { execution_id: again.execution_id, ..RunCasesRequest::default() };
    let again = Run::of(client.run_cases(request).await?.rest().await?)?;
    assert_eq!(again.verdicts(), first.verdicts());
    assert_eq!(again.end.retry_of, first.end.execution_id);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cases_come_in_order_and_in_full() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let cases =
        (0..1_000).map(|number| case(&number.to_string(), if number % 10 == 9 { "no" } else { "yes" })).collect();
    let script = "read number; case $number in *9) echo no;; *) echo yes;; esac";
    let since = std::time::Instant::now();
    let request = RunCasesRequest { spec: Some(with_cases(bash(script), cases)), ..RunCasesRequest::default() };
    let mut stream = client.run_cases(request).await?;
    let run = Run::of(stream.rest().await?)?;
    println!("1,000 cases took {:.3?}", since.elapsed());
    ensure!(run.end.state() == ExecutionState::Completed, "{:?}", run.end);
    assert_eq!(run.end.cases, Some(CaseCounts { total: 1_000, accepted: 1_000, rejected: 0, not_run: 0 }));
    assert_eq!(run.results.len(), 1_000);
    assert_eq!(client.result(&run.end.execution_id).await?.case_results.len(), 1_000);
    let used = run.end.resource_usage.and_then(|usage| usage.wall_time).context("no usage")?;
    ensure!(Duration::try_from(used)? < since.elapsed(), "{used:?}");
    Ok(())
}
