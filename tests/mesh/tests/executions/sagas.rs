//! Sagas from a client's side: what is shown of each ending, lists, cancels, watches, and what is refused.

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Client, Mesh, Options, PATIENCE, bad_fields, bash, eventually, reason};
use runmesh_proto::{
    event::RunnerLoss,
    execution::{DeleteExecutionRequest, ExecutionSpec, ExecutionState, Limits},
    saga::{
        CancelSagaRequest, GetSagaByExecutionRequest, GetSagaRequest, ListSagasRequest, Saga, SagaState, SagaStepState,
        WatchSagaRequest, WatchSagaResponse, saga_service_client::SagaServiceClient, watch_saga_response::Item,
    },
};
use serde_json::{Value, json};
use tonic::{Code, Status, transport::Channel};

/// A client of SagaService.
#[derive(Clone)]
struct Sagas(SagaServiceClient<Channel>);

impl Sagas {
    async fn connect(mesh: &Mesh) -> anyhow::Result<Self> {
        Ok(Self(SagaServiceClient::connect(format!("http://{}", mesh.grpc()?)).await?))
    }

    async fn get(&self, saga_id: &str) -> Result<Saga, Status> {
        let request = GetSagaRequest { saga_id: saga_id.to_owned() };
        Ok(self.0.clone().get_saga(request).await?.into_inner().saga.unwrap_or_default())
    }

    async fn of(&self, execution_id: &str) -> Result<Saga, Status> {
        let request = GetSagaByExecutionRequest { execution_id: execution_id.to_owned() };
        Ok(self.0.clone().get_saga_by_execution(request).await?.into_inner().saga.unwrap_or_default())
    }

    async fn cancel(&self, saga_id: &str, reason: &str) -> Result<Saga, Status> {
        let request = CancelSagaRequest { saga_id: saga_id.to_owned(), reason: reason.to_owned() };
        Ok(self.0.clone().cancel_saga(request).await?.into_inner().saga.unwrap_or_default())
    }

    async fn list(&self, request: ListSagasRequest) -> Result<(Vec<Saga>, String), Status> {
        let page = self.0.clone().list_sagas(request).await?.into_inner();
        Ok((page.sagas, page.next_page_token))
    }

    /// At most so many messages of a watch.
    async fn watch(&self, saga_id: &str, cursor: &str, most: usize) -> anyhow::Result<Vec<WatchSagaResponse>> {
        let request = WatchSagaRequest { saga_id: saga_id.to_owned(), cursor: cursor.to_owned() };
        let mut stream = self.0.clone().watch_saga(request).await?.into_inner();
        let mut messages = Vec::new();
        while messages.len() < most
            && let Some(message) = tokio::time::timeout(PATIENCE, stream.message()).await??
        {
            messages.push(message);
        }
        Ok(messages)
    }
}

fn states(saga: &Saga) -> Vec<SagaStepState> {
    saga.steps.iter().map(|step| step.state()).collect()
}

/// Runs it to the end of its log.
async fn ended(client: &Client, sagas: &Sagas, spec: ExecutionSpec) -> anyhow::Result<Saga> {
    let execution_id = client.run(spec).await?.complete()?.execution_id.clone();
    Ok(sagas.of(&execution_id).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_shows_each_ending_with_its_steps() -> anyhow::Result<()> {
    use SagaStepState::{Compensated, Done, Failed, Skipped};
    let mesh = Mesh::start().await?;
    let (client, sagas) = (mesh.client().await?, Sagas::connect(&mesh).await?);

    let completed = ended(&client, &sagas, bash("true")).await?;
    assert_eq!((completed.state(), states(&completed)), (SagaState::Completed, vec![Done; 5]), "{completed:?}");
    ensure!(completed.steps.iter().all(|step| step.attempts == 1 && step.ended_at.is_some()), "{completed:?}");
    ensure!(completed.ended_at.is_some() && completed.attempt == 1 && completed.error.is_empty(), "{completed:?}");

    let failed = ended(&client, &sagas, bash("exit 3")).await?;
    let undone = vec![Compensated, Compensated, Compensated, Failed, Skipped];
    assert_eq!((failed.state(), states(&failed)), (SagaState::Failed, undone.clone()), "{failed:?}");
    ensure!(failed.error.contains('3') && failed.steps[3].error == failed.error, "{failed:?}");

    let limits =
        Limits { wall_time: Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 }), ..Limits::default() };
    let late = ExecutionSpec { limits: Some(limits), ..bash("sleep 600") };
    let late = ended(&client, &sagas, late).await?;
    assert_eq!((late.state(), states(&late)), (SagaState::Failed, undone), "{late:?}");

    for saga in [completed, failed, late] {
        assert_eq!(sagas.get(&saga.saga_id).await?, saga, "by its own id");
        ensure!(saga.last_sequence > 0, "{saga:?}");
        let message = sagas.cancel(&saga.saga_id, "too late").await.err().context("an ended one was cancelled")?;
        assert_eq!((message.code(), reason(&message).as_str()), (Code::FailedPrecondition, "EXECUTION_ENDED"));
        let same = client.cancel(&saga.execution_id, "too late").await.err().context("cancelled")?;
        assert_eq!((same.code(), same.message()), (message.code(), message.message()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_is_cancelled_while_it_runs_and_while_it_waits() -> anyhow::Result<()> {
    use SagaStepState::{Compensated, Running, Skipped};
    let mesh = Mesh::start_with(Options::set(["scheduler.slots=1"])).await?;
    let (client, sagas) = (mesh.client().await?, Sagas::connect(&mesh).await?);
    let running = client.launch(bash("echo here; sleep 600")).await?;
    eventually("the script runs", async || {
        Ok((client.get(&running).await?.state() == ExecutionState::Running).then_some(()))
    })
    .await?;
    let waiting = client.launch(bash("true")).await?;
    // Whoever has asked for it by its execution can go on with its own id.
    let waiting = sagas.of(&waiting).await?;
    assert_eq!(sagas.get(&waiting.saga_id).await?.execution_id, waiting.execution_id);
    eventually("it waits for a slot", async || {
        Ok((sagas.get(&waiting.saga_id).await?.steps[1].state() == Running).then_some(()))
    })
    .await?;

    let running = sagas.of(&running).await?;
    assert_eq!((running.state(), running.steps[3].state()), (SagaState::Running, Running), "{running:?}");
    for (saga, undone) in [(&waiting, 1), (&running, 3)] {
        sagas.cancel(&saga.saga_id, "enough").await?;
        sagas.cancel(&saga.saga_id, "again").await?;
        let end = client.follow(&saga.execution_id).await?.complete()?.clone();
        assert_eq!((end.state(), end.error_message.as_str()), (ExecutionState::Cancelled, "enough"));
        let cancelled = sagas.get(&saga.saga_id).await?;
        assert_eq!((cancelled.state(), cancelled.error.as_str()), (SagaState::Cancelled, "enough"));
        let wanted: Vec<_> = (0..5).map(|step| if step < undone { Compensated } else { Skipped }).collect();
        assert_eq!(states(&cancelled), wanted, "{cancelled:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_shows_the_attempt_after_one_that_was_lost() -> anyhow::Result<()> {
    let mut mesh = Mesh::start().await?;
    let spec = ExecutionSpec { on_runner_loss: RunnerLoss::Retry as i32, maximum_retries: 2, ..bash("sleep 8") };
    let execution_id = mesh.client().await?.launch(spec).await?;
    let client = mesh.client().await?;
    eventually("the script runs", async || {
        Ok((client.get(&execution_id).await?.state() == ExecutionState::Running).then_some(()))
    })
    .await?;
    mesh.kill()?;
    mesh.restart().await?;
    let (client, sagas) = (mesh.client().await?, Sagas::connect(&mesh).await?);
    let end = client.follow(&execution_id).await?.complete()?.clone();
    assert_eq!(end.state(), ExecutionState::Completed, "{end:?}");
    let saga = sagas.of(&execution_id).await?;
    assert_eq!((saga.state(), states(&saga)), (SagaState::Completed, vec![SagaStepState::Done; 5]), "{saga:?}");
    let attempts: Vec<i32> = saga.steps.iter().map(|step| step.attempts).collect();
    assert_eq!((saga.attempt, attempts), (2, vec![2, 2, 2, 2, 1]), "{saga:?}");
    ensure!(!saga.steps[3].error.is_empty(), "why the first attempt failed: {saga:?}");
    // The watch has what was undone in between.
    let undone = sagas.watch(&saga.saga_id, "", usize::MAX).await?.into_iter().any(|message| match message.item {
        Some(Item::Saga(saga)) => saga.state() == SagaState::Compensating && saga.attempt == 1,
        _ => false,
    });
    ensure!(undone, "the first attempt was not undone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_pages_and_filters_and_forgets_what_is_deleted() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, sagas) = (mesh.client().await?, Sagas::connect(&mesh).await?);
    let mut all = Vec::new();
    for script in ["true", "false", "true", "false", "true"] {
        all.insert(0, ended(&client, &sagas, bash(script)).await?);
    }
    let running = client.launch(bash("sleep 600")).await?;
    all.insert(0, sagas.of(&running).await?);
    let ids = |sagas: &[Saga]| sagas.iter().map(|saga| saga.saga_id.clone()).collect::<Vec<_>>();
    let base = ListSagasRequest::default();
    // The document of one that has ended follows a moment later.
    eventually("the ends in the list", async || {
        let (listed, _) = sagas.list(base.clone()).await?;
        Ok((listed.iter().filter(|saga| saga.ended_at.is_some()).count() == 5).then_some(()))
    })
    .await?;
    let (listed, next) = sagas.list(base.clone()).await?;
    assert_eq!((ids(&listed), next.as_str()), (ids(&all), ""));
    for (one, whole) in listed.iter().zip(&all).skip(1) {
        assert_eq!(*one, Saga { steps: Vec::new(), ..whole.clone() });
    }

    let mut pages = Vec::new();
    let mut request = ListSagasRequest { page_size: 4, ..base.clone() };
    loop {
        let (page, next) = sagas.list(request.clone()).await?;
        ensure!(page.len() <= 4, "a page of {}", page.len());
        pages.extend(page);
        if next.is_empty() {
            break;
        }
        request.page_token = next;
    }
    assert_eq!(ids(&pages), ids(&all));

    let of = async |states: &[SagaState]| {
        let states = states.iter().map(|state| *state as i32).collect();
        let (found, _) = sagas.list(ListSagasRequest { states, ..base.clone() }).await?;
        let found: Vec<SagaState> = found.iter().map(Saga::state).collect();
        anyhow::Ok(found)
    };
    assert_eq!(of(&[SagaState::Failed]).await?, [SagaState::Failed; 2]);
    assert_eq!(of(&[SagaState::Running, SagaState::Compensating]).await?, [SagaState::Running]);
    assert_eq!(of(&[SagaState::Running, SagaState::Completed]).await?.len(), 4);
    assert_eq!(of(&[SagaState::Cancelled]).await?, []);
    let of_user = ListSagasRequest { user_id: "nobody".to_owned(), ..base.clone() };
    assert_eq!(sagas.list(of_user).await?.0, []);

    let (page, token) = sagas.list(ListSagasRequest { page_size: 1, ..base.clone() }).await?;
    assert_eq!(page.len(), 1);
    let failed = vec![SagaState::Failed as i32];
    for (request, field) in [
        (ListSagasRequest { page_token: "x".to_owned(), ..base.clone() }, "page_token"),
        (ListSagasRequest { page_token: token, states: failed, ..base.clone() }, "page_token"),
        (ListSagasRequest { page_size: -1, ..base.clone() }, "page_size"),
        (ListSagasRequest { page_size: 1_001, ..base.clone() }, "page_size"),
        (ListSagasRequest { states: vec![SagaState::Failed as i32, 77], ..base.clone() }, "states[1]"),
    ] {
        let refused = sagas.list(request.clone()).await.err().with_context(|| format!("{request:?}"))?;
        assert_eq!((refused.code(), bad_fields(&refused)), (Code::InvalidArgument, vec![field.to_owned()]));
    }

    let gone = &all[1];
    let request = DeleteExecutionRequest { execution_id: gone.execution_id.clone() };
    client.executions.clone().delete_execution(request).await?;
    let missing = sagas.get(&gone.saga_id).await.err().context("a deleted one was found")?;
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::NotFound, "SAGA_NOT_FOUND"));
    assert_eq!(sagas.list(base).await?.0.len(), 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_or_is_no_id_is_refused_with_its_name() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let sagas = Sagas::connect(&mesh).await?;
    let unknown = "0198c2f0-0000-7000-8000-000000000000";
    for (bad, code) in [("", Code::InvalidArgument), ("x", Code::InvalidArgument), (unknown, Code::NotFound)] {
        let answers = [
            (sagas.get(bad).await.err(), "saga_id", "SAGA_NOT_FOUND"),
            (sagas.cancel(bad, "").await.err(), "saga_id", "SAGA_NOT_FOUND"),
            (sagas.of(bad).await.err(), "execution_id", "EXECUTION_NOT_FOUND"),
        ];
        for (refused, field, not_found) in answers {
            let refused = refused.with_context(|| format!("{field} {bad:?}"))?;
            assert_eq!(refused.code(), code, "{refused:?}");
            if code == Code::NotFound {
                assert_eq!(reason(&refused), not_found);
            } else {
                assert_eq!(bad_fields(&refused), [field]);
            }
        }
        let watched = sagas.watch(bad, "", 1).await.err().context("it was watched")?;
        assert_eq!(watched.downcast::<Status>()?.code(), code);
    }
    let long = "x".repeat(1_025);
    let refused = sagas.cancel(unknown, &long).await.err().context("a long reason was taken")?;
    assert_eq!(bad_fields(&refused), ["reason"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_each_change_once_and_resumes_after_any_of_them() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, sagas) = (mesh.client().await?, Sagas::connect(&mesh).await?);
    let execution_id = client.launch(bash("echo one; sleep 0.3; echo two")).await?;
    let saga_id = sagas.of(&execution_id).await?.saga_id;
    // Cut after each message while it runs.
    let mut seen: Vec<WatchSagaResponse> = Vec::new();
    loop {
        let cursor = seen.last().map(|message| message.cursor.clone()).unwrap_or_default();
        let next = sagas.watch(&saga_id, &cursor, 1).await?;
        let Some(message) = next.into_iter().next() else { break };
        seen.push(message);
    }
    let whole = sagas.watch(&saga_id, "", usize::MAX).await?;
    assert_eq!(seen, whole);
    for (place, message) in whole.iter().enumerate() {
        assert_eq!(sagas.watch(&saga_id, &message.cursor, usize::MAX).await?, whole[place + 1..]);
    }
    let saga = sagas.get(&saga_id).await?;
    let (end, changes) = whole.split_last().context("no messages")?;
    ensure!(matches!(&end.item, Some(Item::End(end)) if end.saga.as_ref() == Some(&saga)), "{end:?}");
    ensure!(matches!(&changes[changes.len() - 1].item, Some(Item::Saga(last)) if *last == saga), "{changes:?}");
    let sequences = changes.iter().map(|change| match &change.item {
        Some(Item::Saga(saga)) => saga.last_sequence,
        _ => 0,
    });
    ensure!(sequences.is_sorted_by(|before, after| before < after), "{changes:?}");

    for (cursor, code) in [("9999", Code::OutOfRange), ("1.end", Code::OutOfRange), ("x", Code::InvalidArgument)] {
        let refused = sagas.watch(&saga_id, cursor, 1).await.err().context("a bad cursor was taken")?;
        let refused = refused.downcast::<Status>()?;
        assert_eq!((refused.code(), bad_fields(&refused)), (code, vec!["cursor".to_owned()]), "{cursor}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_are_served_over_http_too() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, sagas) = (mesh.client().await?, Sagas::connect(&mesh).await?);
    let saga = ended(&client, &sagas, bash("true")).await?;
    let (id, base) = (&saga.saga_id, format!("{}/v1", mesh.http()?));
    let json = async |url: String| anyhow::Ok(reqwest::get(url).await?.json::<Value>().await?);
    let by_id = json(format!("{base}/sagas/{id}")).await?;
    assert_eq!(by_id["saga"]["state"], "SAGA_STATE_COMPLETED", "{by_id}");
    assert_eq!(by_id, json(format!("{base}/executions/{}/saga", saga.execution_id)).await?);
    let listed = json(format!("{base}/sagas?pageSize=1")).await?;
    assert_eq!(listed["sagas"][0]["sagaId"].as_str(), Some(id.as_str()), "{listed}");
    let http = reqwest::Client::new();
    let refused = http.post(format!("{base}/sagas/{id}:cancel")).json(&json!({"reason": "late"})).send().await?;
    let refused = refused.json::<Value>().await?;
    ensure!(refused.to_string().contains("EXECUTION_ENDED"), "{refused}");

    let watch = format!("{base}/sagas/{id}:watch");
    let whole = sagas.watch(id, "", usize::MAX).await?;
    let text = reqwest::get(&watch).await?.text().await?;
    let lines = |name: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned()).collect()
    };
    let cursors: Vec<&str> = whole.iter().map(|message| message.cursor.as_str()).collect();
    assert_eq!(lines("id:"), cursors, "{text}");
    let (last, before) = (lines("event:").pop(), lines("event:").len() - 1);
    ensure!(last.as_deref() == Some("end") && lines("event:")[..before].iter().all(|name| name == "saga"), "{text}");
    let after = async |cursor: &str| http.get(&watch).header("last-event-id", cursor).send().await;
    let rest = after(cursors[cursors.len() - 2]).await?.text().await?;
    ensure!(rest.contains("event: end") && !rest.contains("event: saga"), "{rest}");
    assert_eq!(after(cursors[cursors.len() - 1]).await?.status(), 204);
    Ok(())
}
