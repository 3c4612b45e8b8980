//! What is kept of executions: lists with filters, deletion, one trace.

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Client, Mesh, Stored, bash, eventually, python};
use runmesh_proto::execution::{
    CreateExecutionRequest, DeleteExecutionRequest, Execution, ExecutionSpec, ExecutionState, ListExecutionsRequest,
};
use tonic::{Code, Request};

async fn list(client: &Client, request: ListExecutionsRequest) -> anyhow::Result<Vec<Execution>> {
    Ok(client.executions.clone().list_executions(request).await?.into_inner().executions)
}

fn labelled(spec: ExecutionSpec, labels: &[(&str, &str)]) -> ExecutionSpec {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ExecutionSpec { labels, ..spec }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_shows_what_its_filters_ask_for_without_the_sources() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let first = client.run(labelled(bash("exit 1"), &[("team", "a"), ("run", "1")])).await?.complete()?.clone();
    let second = client.run(labelled(bash("true"), &[("team", "a")])).await?.complete()?.clone();
    let third = client.run(labelled(python("pass"), &[("team", "b")])).await?.complete()?.clone();
    // The lists are brought up to date by a consumer group, so their states follow a moment later.
    eventually("the states of all three in the list", async || {
        let states = [(&first, ExecutionState::Failed), (&second, ExecutionState::Completed)];
        let listed = client.list().await?;
        let shown = |id: &str| listed.iter().find(|one| one.execution_id == id).map(Execution::state);
        Ok(states.iter().all(|(one, state)| shown(&one.execution_id) == Some(*state)).then_some(()))
    })
    .await?;
    let ids = async |request: ListExecutionsRequest| {
        let found = list(&client, request).await?;
        anyhow::Ok(found.into_iter().map(|execution| execution.execution_id).collect::<Vec<_>>())
    };
    let base = ListExecutionsRequest::default();
    let (first_id, second_id, third_id) = (&first.execution_id, &second.execution_id, &third.execution_id);
    assert_eq!(ids(base.clone()).await?, [third_id.as_str(), second_id, first_id]);
    let failed = ListExecutionsRequest { state: ExecutionState::Failed.into(), ..base.clone() };
    assert_eq!(ids(failed).await?, [first_id.as_str()]);
    let language = ListExecutionsRequest { language: "python".to_owned(), ..base.clone() };
    assert_eq!(ids(language).await?, [third_id.as_str()]);
    let team = ListExecutionsRequest { labels: vec!["team=a".to_owned()], ..base.clone() };
    assert_eq!(ids(team).await?, [second_id.as_str(), first_id]);
    let both = ListExecutionsRequest { labels: vec!["team=a".to_owned(), "run".to_owned()], ..base.clone() };
    assert_eq!(ids(both).await?, [first_id.as_str()]);
    let after = ListExecutionsRequest { created_after: second.created_at, ..base.clone() };
    assert_eq!(ids(after).await?, [third_id.as_str(), second_id]);
    let before = ListExecutionsRequest { created_before: second.created_at, ..base.clone() };
    assert_eq!(ids(before).await?, [first_id.as_str()]);

    for execution in list(&client, base).await? {
        let spec = execution.spec.context("no spec")?;
        ensure!(spec.script.is_empty(), "a list has the script");
        ensure!(
            !client.get(&execution.execution_id).await?.spec.context("no spec")?.script.is_empty(),
            "get has it not"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_is_gone_and_what_runs_is_not_deleted() -> anyhow::Result<()> {
    let mut mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let delete = async |execution_id: &str| {
        let request = DeleteExecutionRequest { execution_id: execution_id.to_owned() };
        client.executions.clone().delete_execution(request).await
    };
    let running = client.launch(bash("sleep 600")).await?;
    let refused = delete(&running).await.err().context("what runs was deleted")?;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    client.cancel(&running, "for the test").await?;
    client.follow(&running).await?;

    let kept = client.run(bash("echo kept")).await?.complete()?.execution_id.clone();
    delete(&running).await?;
    for gone in [client.get(&running).await.err(), client.result(&running).await.err()] {
        assert_eq!(gone.context("it is still there")?.code(), Code::NotFound);
    }
    let again = delete(&running).await.err().context("deleted twice")?;
    assert_eq!(again.code(), Code::NotFound);
    let left: Vec<String> = client.list().await?.into_iter().map(|execution| execution.execution_id).collect();
    assert_eq!(left, [kept.as_str()]);

    // Nor does it come back.
    mesh.stop().await?;
    ensure!(Stored::open(&mesh).await?.log(&running).await.is_err(), "its log is still stored");
    mesh.restart().await?;
    let left: Vec<String> = mesh.client().await?.list().await?.into_iter().map(|one| one.execution_id).collect();
    assert_eq!(left, [kept]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_execution_is_one_trace_and_one_correlation() -> anyhow::Result<()> {
    let mut mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let spec = Some(bash("echo traced"));
    let mut request = Request::new(CreateExecutionRequest { request_id: String::new(), spec });
    request.metadata_mut().insert("traceparent", format!("00-{trace_id}-00f067aa0ba902b7-01").parse()?);
    let created = client.executions.clone().create_execution(request).await?.into_inner();
    let execution_id = created.execution.context("no execution")?.execution_id;
    client.follow(&execution_id).await?;
    mesh.stop().await?;

    let log = Stored::open(&mesh).await?.log(&execution_id).await?;
    let root = log.first().context("no events")?;
    for event in &log {
        let name = event.payload.as_ref().map(|payload| payload.event_type().as_str_name()).unwrap_or_default();
        ensure!(event.traceparent.split('-').nth(1) == Some(trace_id), "{name} has the trace {:?}", event.traceparent);
        ensure!(event.correlation_id == root.correlation_id, "{name} has the correlation {:?}", event.correlation_id);
        ensure!(event.sequence == 1 || !event.causation_id.is_empty(), "{name} has no cause");
        ensure!(!event.producer.is_empty(), "{name} has no producer");
    }
    Ok(())
}
