//! The stream of the results of cases: resumed anywhere, over gRPC and as Server-Sent Events; asked for twice, run once.

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use runmesh_mesh_tests::{Client, Mesh, Options, bad_fields, bash, eventually, reason};
use runmesh_proto::{
    event::RunCase,
    execution::{
        CreateExecutionRequest, DeleteExecutionRequest, ExecutionSpec, ExecutionState, RunCasesRequest,
        RunCasesResponse, run_cases_response::Item,
    },
};
use serde_json::{Value, json};
use tonic::Code;

fn spec(cases: usize) -> ExecutionSpec {
    let case = |number: usize| RunCase {
        stdin: number.to_string().into(),
        expected_stdout: Some(number.to_string().into()),
        ..RunCase::default()
    };
    let script =
        "#include <stdio.h>\n#warning hello\nint main(void) { int c; while ((c = getchar()) != EOF) putchar(c); }";
    ExecutionSpec {
        language: "c".to_owned(),
        script: script.to_owned(),
        cases: (0..cases).map(case).collect(),
        ..ExecutionSpec::default()
    }
}

fn begin(request_id: &str, spec: ExecutionSpec) -> RunCasesRequest {
    RunCasesRequest { request_id: request_id.to_owned(), spec: Some(spec), ..RunCasesRequest::default() }
}

fn resume(execution_id: &str, cursor: &str) -> RunCasesRequest {
    RunCasesRequest { execution_id: execution_id.to_owned(), cursor: cursor.to_owned(), ..RunCasesRequest::default() }
}

fn id_of(messages: &[RunCasesResponse]) -> anyhow::Result<String> {
    match messages.first().and_then(|message| message.item.as_ref()) {
        Some(Item::Execution(execution)) => Ok(execution.execution_id.clone()),
        other => anyhow::bail!("the first message is {other:?}"),
    }
}

async fn whole(client: &Client, request: RunCasesRequest) -> anyhow::Result<Vec<RunCasesResponse>> {
    client.run_cases(request).await?.rest().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_resumes_after_each_cursor_during_the_run_and_after_it() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    // Cut after every message while it runs, resumed in turn by request and by id.
    let mut seen: Vec<RunCasesResponse> = Vec::new();
    loop {
        let cursor = seen.last().map(|message| message.cursor.clone()).unwrap_or_default();
        let request = match seen.len() % 2 {
            0 => RunCasesRequest { cursor, ..begin("cut", spec(12)) },
            _ => resume(&id_of(&seen)?, &cursor),
        };
        let mut stream = client.run_cases(request).await?;
        let Some(message) = stream.next().await? else { break };
        seen.push(message);
    }
    let last = seen.last().and_then(|message| message.item.as_ref());
    let Some(Item::End(end)) = last else { anyhow::bail!("the last message is {last:?}") };
    ensure!(end.execution.as_ref().is_some_and(|one| one.state() == ExecutionState::Completed), "{end:?}");
    let results = seen.iter().filter(|message| matches!(message.item, Some(Item::Result(_)))).count();
    assert_eq!(results, 12);
    ensure!(seen.iter().any(|message| matches!(message.item, Some(Item::CompileOutput(_)))), "no compiler's output");

    let id = id_of(&seen)?;
    assert_eq!(whole(&client, resume(&id, "")).await?, seen);
    for (index, message) in seen.iter().enumerate() {
        let rest = whole(&client, resume(&id, &message.cursor)).await?;
        ensure!(rest == seen[index + 1..], "after {} came {rest:?}", message.cursor);
    }
    // Cursors of the whole log are cursors here too.
    for number in 1..8 {
        let rest = whole(&client, resume(&id, &number.to_string())).await?;
        ensure!(seen.ends_with(&rest), "after {number} came {rest:?}");
    }
    assert_eq!(client.list().await?.len(), 1, "more than one execution was made");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_run_once() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let (one, other) =
        tokio::try_join!(whole(&client, begin("twice", spec(3))), whole(&client, begin("twice", spec(3))))?;
    assert_eq!(one, other);
    let status = client.run_cases(begin("twice", spec(4))).await.err().context("other cases")?;
    assert_eq!((status.code(), bad_fields(&status)), (Code::AlreadyExists, vec!["request_id".to_owned()]));
    // An execution with cases can be created without watching it.
    let request = CreateExecutionRequest { request_id: "apart".to_owned(), spec: Some(spec(2)) };
    let created = client.executions.clone().create_execution(request).await?.into_inner();
    let id = created.execution.context("no execution")?.execution_id;
    let messages = whole(&client, begin("apart", spec(2))).await?;
    assert_eq!(id_of(&messages)?, id);
    assert_eq!(client.list().await?.len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_ends_a_stream_of_results() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let id = id_of(&whole(&client, begin("gone", spec(1))).await?)?;
    client.executions.clone().delete_execution(DeleteExecutionRequest { execution_id: id.clone() }).await?;
    for request in [resume(&id, ""), RunCasesRequest { cursor: "3".to_owned(), ..begin("gone", spec(1)) }] {
        let status = client.run_cases(request).await.err().context("it is gone")?;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "EXECUTION_NOT_FOUND"));
    }
    ensure!(client.list().await?.is_empty(), "a cursor made an execution");
    Ok(())
}

/// An event of a stream of Server-Sent Events.
#[derive(Debug, Clone, PartialEq)]
struct Sent {
    id: String,
    event: String,
    data: Value,
}

/// The events until the stream ends, or so many of them. `None`: there is no stream (204).
async fn events(request: reqwest::RequestBuilder, most: usize) -> anyhow::Result<Option<Vec<Sent>>> {
    let response = request.send().await?;
    if response.status() == reqwest::StatusCode::NO_CONTENT {
        return Ok(None);
    }
    ensure!(response.status().is_success(), "{}: {}", response.status(), response.text().await?);
    let mut stream = response.bytes_stream();
    let (mut text, mut sent) = (String::new(), Vec::new());
    while sent.len() < most {
        let Some(piece) = stream.next().await else { break };
        text.push_str(std::str::from_utf8(&piece?).context("a frame that is split within a character")?);
        while let Some((frame, rest)) = text.split_once("\n\n").map(|(frame, rest)| (frame.to_owned(), rest.to_owned()))
        {
            text = rest;
            let field = |name: &str| {
                frame
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                    .unwrap_or_default()
                    .to_owned()
            };
            if !field("data").is_empty() && sent.len() < most {
                sent.push(Sent { id: field("id"), event: field("event"), data: serde_json::from_str(&field("data"))? });
            }
        }
    }
    Ok(Some(sent))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_streams_and_resumes_results() -> anyhow::Result<()> {
    let mesh = Mesh::start_with(Options::default()).await?;
    let http = reqwest::Client::new();
    let post = |cursor: &str| {
        let body = json!({
            "requestId": "by-http",
            "spec": {
                "language": "bash",
                "script": "cat",
                "cases": [
                    {"name": "one", "stdin": "MQ==", "expectedStdout": "MQ=="},
                    {"name": "two", "stdin": "MQ==", "expectedStdout": "Mg=="},
                    {"name": "three"},
                ],
                "caseOptions": {"comparison": "OUTPUT_COMPARISON_EXACT"},
            },
        });
        let request = http.post(format!("{}/v1/executions:runCases", mesh.http().unwrap_or_default())).json(&body);
        if cursor.is_empty() { request } else { request.header("last-event-id", cursor) }
    };
    let whole = events(post(""), usize::MAX).await?.context("no stream")?;
    let names: Vec<&str> = whole.iter().map(|sent| sent.event.as_str()).collect();
    assert_eq!(names, ["execution", "result", "result", "result", "end"]);
    assert_eq!(whole[1].data["result"]["verdict"], "CASE_VERDICT_ACCEPTED");
    assert_eq!(whole[2].data["result"]["verdict"], "CASE_VERDICT_WRONG_ANSWER");
    assert_eq!(whole[2].data["result"]["difference"], json!({"line": "1", "expected": "Mg==", "actual": "MQ=="}));
    let counts = json!({"total": 3, "accepted": 2, "rejected": 1, "notRun": 0});
    assert_eq!(whole[4].data["end"]["execution"]["cases"], counts);

    let id = whole[0].data["execution"]["executionId"].as_str().context("no id")?.to_owned();
    let watch = format!("{}/v1/executions/{id}:watchCases", mesh.http()?);
    assert_eq!(events(http.get(&watch), usize::MAX).await?.context("no stream")?, whole);
    for (index, sent) in whole.iter().enumerate() {
        let rest = whole[index + 1..].to_vec();
        let rest = (!rest.is_empty()).then_some(rest);
        let by_header = http.get(&watch).header("last-event-id", &sent.id);
        let by_query = http.get(format!("{watch}?cursor={}", sent.id));
        for request in [by_header, by_query, post(&sent.id)] {
            assert_eq!(events(request, usize::MAX).await?, rest, "after {}", sent.id);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_does_not_end_the_run() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let cases = (0..5).map(|_| RunCase::default()).collect();
    let request = begin("", ExecutionSpec { cases, ..bash("sleep 0.1") });
    let mut stream = client.run_cases(request).await?;
    let first = stream.next().await?.context("nothing came")?;
    drop(stream);
    let id = id_of(&[first])?;
    eventually("the end of all cases", async || {
        let execution = client.get(&id).await?;
        Ok((execution.state() == ExecutionState::Completed).then_some(()))
    })
    .await?;
    assert_eq!(client.get(&id).await?.cases.map(|counts| counts.accepted), Some(5));
    Ok(())
}
