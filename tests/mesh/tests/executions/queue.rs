//! The queue: who waits and why, and what operators can do about it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Client, Mesh, Options, bad_fields, bash, eventually, reason};
use runmesh_proto::{
    event::{ExecutionErrorType, QueuePriority},
    execution::ExecutionState,
    queue::{
        DrainRunnerRequest, GetQueuePositionRequest, GetQueueStatsRequest, ListQueueRequest, ListQueueResponse,
        PauseQueueRequest, QueueConstraint, QueueEntry, QueueStats, ResumeQueueRequest, UndrainRunnerRequest,
        UpdatePriorityRequest, WatchQueueRequest, watch_queue_response::Item,
    },
};
use tonic::{Code, Status};

const NOBODY: &str = "0190b1f2-7d1e-7000-8000-000000000000";

async fn position(client: &Client, execution_id: &str) -> Result<QueueEntry, Status> {
    let request = GetQueuePositionRequest { execution_id: execution_id.to_owned() };
    let answer = client.queue.clone().get_queue_position(request).await?.into_inner();
    answer.entry.ok_or_else(|| Status::internal("no entry"))
}

async fn stats(client: &Client) -> anyhow::Result<QueueStats> {
    let answer = client.queue.clone().get_queue_stats(GetQueueStatsRequest {}).await?;
    answer.into_inner().stats.context("no stats")
}

async fn list(client: &Client, page_size: i32, page_token: &str) -> Result<ListQueueResponse, Status> {
    let request = ListQueueRequest { page_size, page_token: page_token.to_owned(), ..ListQueueRequest::default() };
    client.queue.clone().list_queue(request).await.map(tonic::Response::into_inner)
}

/// Waits until an execution waits for this reason.
async fn waits_for(client: &Client, execution_id: &str, constraint: QueueConstraint) -> anyhow::Result<QueueEntry> {
    eventually(&format!("to wait for {constraint:?}"), async || {
        Ok(position(client, execution_id).await.ok().filter(|entry| entry.constraint() == constraint))
    })
    .await
}

/// A mesh with one slot, which an execution has that runs until it is cancelled.
async fn full() -> anyhow::Result<(Mesh, Client, String)> {
    let mesh = Mesh::start_with(Options::set(["scheduler.slots=1"])).await?;
    let client = mesh.client().await?;
    let holder = client.launch(bash("sleep 1000")).await?;
    eventually("it runs", async || Ok((client.get(&holder).await?.state() == ExecutionState::Running).then_some(())))
        .await?;
    Ok((mesh, client, holder))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_waits_is_told_its_place_and_why() -> anyhow::Result<()> {
    let (_mesh, client, holder) = full().await?;
    let mut waiting = Vec::new();
    for number in 1..=3 {
        let execution_id = client.launch(bash("true")).await?;
        let entry = waits_for(&client, &execution_id, QueueConstraint::Slots).await?;
        assert_eq!((entry.position, entry.priority()), (Some(number), QueuePriority::Normal), "{entry:?}");
        ensure!(entry.reason.contains("all 1 slots are in use"), "{entry:?}");
        waiting.push(execution_id);
    }
    let status = position(&client, &holder).await.err().context("it has a slot")?;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "NOT_QUEUED"));

    // By pages, the longest wait first.
    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(&client, 2, &token).await?;
        listed.extend(page.entries.into_iter().map(|entry| entry.execution_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, waiting);
    let told = stats(&client).await?;
    assert_eq!((told.waiting, told.running, told.slots, told.paused), (3, 1, 1, false));
    assert_eq!((told.runners.len(), told.users.len(), told.priorities[0].waiting), (1, 1, 3), "{told:?}");

    // A higher priority goes first.
    let update = UpdatePriorityRequest { execution_id: waiting[2].clone(), priority: QueuePriority::High as i32 };
    let entry = client.queue.clone().update_priority(update).await?.into_inner().entry.context("no entry")?;
    assert_eq!((entry.position, entry.priority()), (Some(1), QueuePriority::High));
    assert_eq!(position(&client, &waiting[0]).await?.position, Some(2));
    client.cancel(&holder, "enough").await?;
    for execution_id in &waiting {
        client.follow(execution_id).await?;
    }
    let started = async |index: usize| anyhow::Ok(client.get(&waiting[index]).await?.started_at.context("no start")?);
    let [first, second, third] = [started(2).await?, started(0).await?, started(1).await?];
    let at = |time: &prost_types::Timestamp| (time.seconds, time.nanos);
    ensure!(at(&first) < at(&second) && at(&second) < at(&third), "not in the order of their places");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_gives_out_no_slot_also_after_a_restart() -> anyhow::Result<()> {
    let mut mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    client.queue.clone().pause_queue(PauseQueueRequest { reason: "an upgrade".to_owned() }).await?;
    let execution_id = client.launch(bash("echo ran")).await?;
    waits_for(&client, &execution_id, QueueConstraint::Paused).await?;
    mesh.kill()?;
    mesh.restart().await?;
    let client = mesh.client().await?;
    waits_for(&client, &execution_id, QueueConstraint::Paused).await?;
    let told = stats(&client).await?;
    assert_eq!((told.paused, told.pause_reason.as_str(), told.waiting), (true, "an upgrade", 1));
    client.queue.clone().resume_queue(ResumeQueueRequest {}).await?;
    let transcript = client.follow(&execution_id).await?;
    assert_eq!(transcript.stdout()?, b"ran\n");
    ensure!(!stats(&client).await?.paused, "it is paused still");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_runner_takes_no_more_and_keeps_what_it_has() -> anyhow::Result<()> {
    let mesh = Mesh::start_with(Options::set(["scheduler.slots=2"])).await?;
    let client = mesh.client().await?;
    let long = client.launch(bash("echo begun; sleep 10; echo over")).await?;
    eventually("it runs", async || Ok((client.get(&long).await?.state() == ExecutionState::Running).then_some(())))
        .await?;
    let runner = stats(&client).await?.runners.first().context("no runner")?.runner.clone();
    client.queue.clone().drain_runner(DrainRunnerRequest { runner: runner.clone() }).await?;
    let late = client.launch(bash("echo late")).await?;
    waits_for(&client, &late, QueueConstraint::Draining).await?;
    ensure!(stats(&client).await?.runners[0].draining, "it is not told");
    assert_eq!(client.follow(&long).await?.stdout()?, b"begun\nover\n");
    ensure!(client.get(&late).await?.state() == ExecutionState::Queued, "it was taken");
    client.queue.clone().undrain_runner(UndrainRunnerRequest { runner }).await?;
    assert_eq!(client.follow(&late).await?.stdout()?, b"late\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_runner_can_run_is_refused_at_once() -> anyhow::Result<()> {
    let mesh = Mesh::start_with(Options::set(["runner.memory_bytes=67108864"])).await?;
    let client = mesh.client().await?;
    let end = client.run(bash("true")).await?.complete()?.clone();
    assert_eq!((end.state(), end.error_type()), (ExecutionState::Failed, ExecutionErrorType::ResourceLimit));
    eventually("the list says why", async || {
        Ok(client.list().await?[0].error_message.contains("67108864 bytes").then_some(()))
    })
    .await?;
    eventually("nothing is held", async || {
        let told = stats(&client).await?;
        Ok((told.waiting + told.running == 0).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_queue_tells_of_changes() -> anyhow::Result<()> {
    let (mut mesh, client, holder) = full().await?;
    let mut watch = client.queue.clone().watch_queue(WatchQueueRequest::default()).await?.into_inner();
    let mut next = async || anyhow::Ok(watch.message().await?.context("it ended")?.item.context("nothing in it")?);
    let Item::Stats(first) = next().await? else { anyhow::bail!("no stats") };
    assert_eq!((first.waiting, first.running), (0, 1));
    let execution_id = client.launch(bash("true")).await?;
    let Item::Stats(second) = next().await? else { anyhow::bail!("no stats") };
    assert_eq!((second.waiting, second.running), (1, 1), "{second:?}");
    // A browser sees the same.
    let mut events = reqwest::get(format!("{}/v1/queue:watch", mesh.http()?)).await?;
    let mut text = String::new();
    while !(text.contains("event: stats") && text.ends_with("\n\n")) {
        text += std::str::from_utf8(&events.chunk().await?.context("it ended")?)?;
    }
    ensure!(text.contains("event: stats") && text.contains("\"waiting\":\"1\""), "{text}");
    client.cancel(&execution_id, "enough").await?;
    client.cancel(&holder, "enough").await?;
    mesh.ask_to_end()?;
    let ended = async {
        loop {
            if let Item::End(end) = next().await? {
                return anyhow::Ok(end.reason);
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), ended).await??, "the node is being shut down");
    mesh.ended(Duration::from_secs(20)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_questions_about_the_queue_are_refused() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    for (id, code) in [("", Code::InvalidArgument), ("x", Code::InvalidArgument), (NOBODY, Code::NotFound)] {
        let status = position(&client, id).await.err().context(id)?;
        assert_eq!(status.code(), code, "{status:?}");
        ensure!(code == Code::NotFound || bad_fields(&status) == ["execution_id"], "{status:?}");
    }
    for (size, token, field) in [(-1, "", "page_size"), (1_001, "", "page_size"), (0, "abc!", "page_token")] {
        let status = list(&client, size, token).await.err().context(field)?;
        assert_eq!((status.code(), bad_fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]));
    }
    let update = |priority| UpdatePriorityRequest { execution_id: NOBODY.to_owned(), priority };
    for priority in [0, 99] {
        let status = client.queue.clone().update_priority(update(priority)).await.err().context("accepted")?;
        assert_eq!((status.code(), bad_fields(&status)), (Code::InvalidArgument, vec!["priority".to_owned()]));
    }
    let status = client.queue.clone().update_priority(update(1)).await.err().context("accepted")?;
    assert_eq!(status.code(), Code::NotFound);
    let reason = "x".repeat(257);
    let status = client.queue.clone().pause_queue(PauseQueueRequest { reason }).await.err().context("accepted")?;
    assert_eq!(bad_fields(&status), ["reason"]);
    for (runner, code) in [("", Code::InvalidArgument), ("nobody", Code::NotFound)] {
        let request = DrainRunnerRequest { runner: runner.to_owned() };
        let status = client.queue.clone().drain_runner(request).await.err().context("accepted")?;
        assert_eq!(status.code(), code);
    }
    Ok(())
}
