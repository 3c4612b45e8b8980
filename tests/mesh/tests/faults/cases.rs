//! Cases that are cancelled in the middle, and those whose node is killed.

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Cases, Mark, Mesh, Stored, bash, is_terminal};
use runmesh_proto::{
    event::{CaseCounts, ExecutionErrorType, RunCase, event::Payload},
    execution::{
        Execution, ExecutionSpec, ExecutionState, RunCasesRequest, RunCasesResponse, run_cases_response::Item,
    },
};

const CASES: i32 = 40;

fn spec(mark: &Mark) -> ExecutionSpec {
    // Each case says who it is and takes a while.
    let cases = (0..CASES).map(|number| RunCase { stdin: number.to_string().into(), ..RunCase::default() });
    ExecutionSpec { cases: cases.collect(), environment: mark.environment(), ..bash("cat; sleep 0.2") }
}

/// Reads until there are so many results.
async fn results(stream: &mut Cases, many: usize) -> anyhow::Result<Vec<RunCasesResponse>> {
    let mut seen = Vec::new();
    let mut found = 0;
    while found < many {
        let message = stream.next().await?.context("the stream ended")?;
        found += usize::from(matches!(message.item, Some(Item::Result(_))));
        seen.push(message);
    }
    Ok(seen)
}

fn created(seen: &[RunCasesResponse]) -> anyhow::Result<String> {
    match seen.first().and_then(|message| message.item.as_ref()) {
        Some(Item::Execution(execution)) => Ok(execution.execution_id.clone()),
        other => anyhow::bail!("the first message is {other:?}"),
    }
}

fn end(seen: &[RunCasesResponse]) -> anyhow::Result<Execution> {
    match seen.last().and_then(|message| message.item.as_ref()) {
        Some(Item::End(end)) => end.execution.clone().context("an end without the execution"),
        other => anyhow::bail!("the last message is {other:?}"),
    }
}

fn count(seen: &[RunCasesResponse]) -> i32 {
    let results = seen.iter().filter(|message| matches!(message.item, Some(Item::Result(_)))).count();
    i32::try_from(results).unwrap_or(i32::MAX)
}

fn resume(execution_id: &str, cursor: &str) -> RunCasesRequest {
    RunCasesRequest { execution_id: execution_id.to_owned(), cursor: cursor.to_owned(), ..RunCasesRequest::default() }
}

/// What must hold of a run that ended early: its results are the first ones, and the counts are theirs.
fn ended_early(seen: &[RunCasesResponse]) -> anyhow::Result<Execution> {
    let (end, results) = (end(seen)?, count(seen));
    ensure!(results < CASES, "all cases ran");
    let counts = CaseCounts { total: CASES, accepted: results, rejected: 0, not_run: CASES - results };
    ensure!(end.cases == Some(counts), "{results} results, and the end has {:?}", end.cases);
    let numbers: Vec<i32> = seen
        .iter()
        .filter_map(|message| match &message.item {
            Some(Item::Result(result)) => Some(result.number),
            _ => None,
        })
        .collect();
    ensure!(numbers == (1..=results).collect::<Vec<_>>(), "{numbers:?}");
    Ok(end)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_in_the_middle_keeps_the_results_so_far() -> anyhow::Result<()> {
    let mark = Mark::new("cancelled-cases");
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let request = RunCasesRequest { spec: Some(spec(&mark)), ..RunCasesRequest::default() };
    let mut stream = client.run_cases(request).await?;
    let mut seen = results(&mut stream, 3).await?;
    client.cancel(&created(&seen)?, "enough").await?;
    seen.extend(stream.rest().await?);
    let end = ended_early(&seen)?;
    assert_eq!((end.state(), end.error_message.as_str()), (ExecutionState::Cancelled, "enough"));
    mark.gone().await?;
    assert_eq!(client.run_cases(resume(&end.execution_id, "")).await?.rest().await?, seen);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_leaves_the_results_so_far_and_one_end() -> anyhow::Result<()> {
    let mark = Mark::new("killed-cases");
    let mut mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let request_id = "before-the-crash".to_owned();
    let request = RunCasesRequest { request_id, spec: Some(spec(&mark)), ..RunCasesRequest::default() };
    let mut stream = client.run_cases(request.clone()).await?;
    let mut seen = results(&mut stream, 3).await?;
    mesh.kill()?;
    // What was on its way is seen or comes again, never both.
    while let Ok(Some(message)) = stream.next().await {
        seen.push(message);
    }
    mesh.restart().await?;

    let client = mesh.client().await?;
    let cursor = seen.last().context("nothing")?.cursor.clone();
    let again = RunCasesRequest { cursor, ..request };
    seen.extend(client.run_cases(again).await?.rest().await?);
    let end = ended_early(&seen)?;
    assert_eq!((end.state(), end.error_type()), (ExecutionState::Failed, ExecutionErrorType::RunnerLost));
    assert_eq!(client.run_cases(resume(&created(&seen)?, "")).await?.rest().await?, seen);
    assert_eq!(client.result(&end.execution_id).await?.cases, end.cases);
    mark.gone().await?;

    mesh.stop().await?;
    let log = Stored::open(&mesh).await?.log(&end.execution_id).await?;
    let terminal = log.iter().filter(|event| event.payload.as_ref().is_some_and(is_terminal)).count();
    ensure!(terminal == 1, "{terminal} terminal events");
    let starts = log.iter().filter(|event| matches!(event.payload, Some(Payload::ExecutionStarted(_)))).count();
    ensure!(starts == 1, "it was started {starts} times");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_in_the_middle_keeps_the_results_so_far() -> anyhow::Result<()> {
    let mark = Mark::new("shut-down-cases");
    let options = runmesh_mesh_tests::Options::set(["shutdown.drain=300ms"]);
    let mut mesh = Mesh::start_with(options).await?;
    let client = mesh.client().await?;
    let request = RunCasesRequest { spec: Some(spec(&mark)), ..RunCasesRequest::default() };
    let mut stream = client.run_cases(request).await?;
    let seen = results(&mut stream, 2).await?;
    mesh.stop().await?;
    mark.gone().await?;
    mesh.restart().await?;
    let client = mesh.client().await?;
    let all = client.run_cases(resume(&created(&seen)?, "")).await?.rest().await?;
    ensure!(all.starts_with(&seen), "other results than before");
    let end = ended_early(&all)?;
    assert_eq!((end.state(), end.error_type()), (ExecutionState::Failed, ExecutionErrorType::RunnerLost));
    Ok(())
}
