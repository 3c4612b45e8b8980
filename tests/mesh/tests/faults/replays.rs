//! Replays of a real mesh: by the command line and as Server-Sent Events, and through crashes.

use std::{collections::BTreeMap, process::Output, sync::Arc};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use runmesh_bus::{Bus as _, EmbeddedBus, header};
use runmesh_mesh_tests::{Client, Mesh, Options, PATIENCE, bash, binary, eventually};
use runmesh_proto::{
    event::{EventFilter, EventType},
    queue::PauseQueueRequest,
    replay::{
        CreateReplayRequest, GetReplayRequest, Replay, ReplayOptions, ReplaySpec, ReplayState, StartReplayRequest,
        TopicsTarget, replay_spec::Target,
    },
};
use runmesh_store::{EventStore as _, Filter, Position, SqliteStore, sqlite::SqliteConfig};
use serde_json::{Value, json};

/// Calls a command for a mesh.
pub(crate) async fn runmesh(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<Output> {
    let folder = tempfile::tempdir()?;
    let output = tokio::process::Command::new(binary()?)
        .args(arguments)
        .args(["--server", mesh.grpc()?])
        .current_dir(folder.path())
        .env("HOME", folder.path())
        .env("USER", "ann")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(PATIENCE, output)
        .await
        .with_context(|| format!("{arguments:?} did not end"))?
        .context("runmesh")
}

/// What a command said, which has to be done.
pub(crate) async fn said(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<String> {
    let output = runmesh(mesh, arguments).await?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{arguments:?}: {}: {stderr}{stdout}", output.status);
    Ok(stdout.into_owned())
}

pub(crate) async fn get(client: &Client, id: &str) -> anyhow::Result<Replay> {
    let request = GetReplayRequest { replay_id: id.to_owned() };
    client.replays.clone().get_replay(request).await?.into_inner().replay.context("a replay")
}

/// An operator copies what happened to a file, has a group that lost its documents read it again, and sends everything to the topics.
/// Nothing runs twice, and the ledger is sound.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_replays_what_happened() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    for _ in 0..3 {
        client.run(bash("echo caf\u{e9}")).await?;
    }
    // The last events of a log come after its end.
    said(&mesh, &["verify", "--wait", "30s"]).await?;
    let which = ["--type", "execution_requested,execution_completed,execution_output"];
    let preview = said(&mesh, &[&["replay", "preview", "--to-topics"], &which[..]].concat()).await?;
    ensure!(preview.contains("result-processor") && preview.contains("saga-orchestrator"), "{preview}");
    let new = ["replay", "new", "--reason", "to see", "--yes"];
    let copied = said(&mesh, &[&new[..], &which, &["--to-file"]].concat()).await?;
    ensure!(copied.contains("completed: 100 %, 9 sent"), "{copied}");
    let listed: Value = serde_json::from_str(said(&mesh, &["replay", "ls", "--json"]).await?.trim())?;
    let id = listed["replayId"].as_str().context("an id")?;
    let group = ["--to-group", "execution-coordinator", "--from-file", id];
    let rebuilt = said(&mesh, &[&new[..], &group].concat()).await?;
    ensure!(rebuilt.contains("6 sent, 3 not for the target"), "{rebuilt}");
    let refused = runmesh(&mesh, &[&new[..], &["--all", "--to-group", "scheduler"]].concat()).await?;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && words.contains("--to-group: group \"scheduler\""), "{words}");
    let all = said(&mesh, &[&new[..], &["--all", "--to-topics"]].concat()).await?;
    ensure!(all.contains("completed: 100 %"), "{all}");
    said(&mesh, &["verify", "--wait", "30s"]).await?;
    assert_eq!(client.list().await?.len(), 3, "no execution came of it");
    Ok(())
}

/// The gateway shows how a replay goes, by events whose ids are cursors.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_sees_how_a_replay_goes() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    client.run(bash("true")).await?;
    let (http, base) = (reqwest::Client::new(), format!("{}/v1/replays", mesh.http()?));
    let who = json!({"actor": "ann", "reason": "to see"});
    let spec = json!({"all": true, "topics": {}, "options": {"rate": 3}});
    let created: Value = http
        .post(&base)
        .json(&json!({"spec": spec, "actor": "ann", "reason": "to see"}))
        .send()
        .await?
        .error_for_status()?
        .json()
        .await?;
    let id = created["replay"]["replayId"].as_str().context("an id")?;
    http.post(format!("{base}/{id}:start")).json(&who).send().await?.error_for_status()?;
    let again = http.post(format!("{base}/{id}:start")).json(&who).send().await?;
    let status = again.status();
    let problem: Value = again.json().await?;
    ensure!(status == 400 && problem["reason"] == "REPLAY_RUNNING", "{status}: {problem}");
    let watch = http.get(format!("{base}/{id}:watch")).header("accept", "text/event-stream");
    let shown = tokio::time::timeout(PATIENCE, async { watch.send().await?.text().await }).await??;
    let frames: Vec<&str> = shown.split("\n\n").filter(|frame| frame.contains("data:")).collect();
    ensure!(frames.len() > 2, "{shown}");
    let (end, rest) = frames.split_last().context("an end")?;
    ensure!(rest.iter().all(|frame| frame.contains("event: replay")), "{shown}");
    ensure!(end.contains("event: end") && end.contains("REPLAY_STATE_COMPLETED"), "{shown}");
    // From the end on there is nothing.
    let after =
        http.get(format!("{base}/{id}:watch")).header("accept", "text/event-stream").header("last-event-id", "end");
    assert_eq!(after.send().await?.status(), 204);
    let delete = http.delete(format!("{base}/{id}?actor=ann&reason=seen")).send().await?;
    ensure!(delete.status().is_success(), "{delete:?}");
    Ok(())
}

/// How many events are replayed, how fast, and how often the node is killed meanwhile.
const EVENTS: usize = 3_000;
const RATE: f64 = 300.0;
const KILLS: i64 = 3;

/// How many executions are asked for at the same time.
const CALLS: usize = 64;

/// The node is killed again and again in the middle of a replay. In the end everything was sent, in order, and what was sent twice
/// lies behind the checkpoints from which it went on.
#[tokio::test(flavor = "multi_thread")]
async fn no_crash_in_a_replay_leaves_anything_out() -> anyhow::Result<()> {
    let mut mesh = Mesh::start_with(Options { embedded: true, ..Options::default() }).await?;
    let client = mesh.client().await?;
    // Nothing is to run here.
    client.queue.clone().pause_queue(PauseQueueRequest { reason: "a test".to_owned() }).await?;
    let launches = (0..EVENTS).map(|_| client.launch(bash("true")));
    stream::iter(launches).buffer_unordered(CALLS).try_collect::<Vec<_>>().await?;
    let filter = EventFilter { event_types: vec![EventType::ExecutionRequested.into()], ..Default::default() };
    let spec = ReplaySpec {
        filter: Some(filter),
        target: Some(Target::Topics(TopicsTarget::default())),
        options: Some(ReplayOptions { rate: RATE, ..Default::default() }),
        ..Default::default()
    };
    let (actor, reason) = ("ann".to_owned(), "a test".to_owned());
    let request =
        CreateReplayRequest { spec: Some(spec), actor: actor.clone(), reason: reason.clone(), ..Default::default() };
    let created = client.replays.clone().create_replay(request).await?.into_inner().replay.context("a replay")?;
    let id = created.replay_id;
    client.replays.clone().start_replay(StartReplayRequest { replay_id: id.clone(), actor, reason }).await?;
    let mut checkpoints = Vec::new();
    for kill in 1..=KILLS {
        let client = mesh.client().await?;
        // Early enough that it is not over when the kill comes late.
        let wanted = i64::try_from(EVENTS)? * kill / 8;
        eventually("a part is sent", async || {
            let sent = get(&client, &id).await?.progress.context("progress")?.sent;
            Ok(Some(sent).filter(|sent| *sent >= wanted))
        })
        .await?;
        mesh.kill()?;
        mesh.restart().await?;
        // The one that was killed has it for some seconds still, so this is where it goes on.
        let client = mesh.client().await?;
        let replay = get(&client, &id).await?;
        let progress = replay.progress.context("progress")?;
        ensure!(replay.state() == ReplayState::Running && i64::from(progress.takeovers) == kill - 1, "{progress:?}");
        checkpoints.push(u64::try_from(progress.checkpoint)?);
    }
    let client = mesh.client().await?;
    let done = eventually("all is sent", async || {
        Ok(Some(get(&client, &id).await?).filter(|replay| replay.state() == ReplayState::Completed))
    })
    .await?;
    let progress = done.progress.context("progress")?;
    assert_eq!((progress.sent, progress.matched, progress.failed), (EVENTS as i64, EVENTS as i64, 0));
    assert_eq!(i64::from(progress.takeovers), KILLS);
    mesh.stop().await?;

    let store = SqliteStore::open(&SqliteConfig::new(mesh.data_folder().join("runmesh.db")))?;
    let types = vec![EventType::ExecutionRequested];
    let stored = store.scan(&Filter { types: types.clone(), ..Filter::default() }, Position(0), EVENTS + 1).await?;
    assert_eq!(stored.len(), EVENTS);
    // By the id, the place of the event in the log, and its position.
    let places: BTreeMap<&str, (usize, u64)> = stored
        .iter()
        .enumerate()
        .map(|(place, stored)| (stored.event.event_id.as_str(), (place, stored.position.0)))
        .collect();
    let bus = EmbeddedBus::new(store.clone());
    let extent = bus.extents(&types).await?[0];
    let mut records = bus.read(extent.lane, extent.first, extent.next).await?;
    let (mut next, mut returns, mut sent) = (0, 0, 0);
    while let Some(record) = records.try_next().await? {
        if record.header(header::REPLAY) != Some(&id) {
            continue;
        }
        sent += 1;
        let event: Arc<_> = record.event().map_err(anyhow::Error::msg)?;
        let (place, _) = *places.get(event.event_id.as_str()).context("an event of the log")?;
        ensure!(place <= next, "after {next} came {place}: something was left out");
        if place < next {
            returns += 1;
            let before = place.checked_sub(1).and_then(|before| stored.get(before)).map_or(0, |one| one.position.0);
            let position = stored[place].position.0;
            let at_checkpoint = |checkpoint: &u64| (before..position).contains(checkpoint);
            ensure!(checkpoints.iter().any(at_checkpoint), "it went back to {place}, which is behind no checkpoint");
        }
        next = place + 1;
    }
    assert_eq!(next, EVENTS, "the last one is the last");
    ensure!(returns <= KILLS, "it went back {returns} times");
    // What a checkpoint lags behind is less than half a second, and a batch.
    ensure!(sent <= EVENTS + usize::try_from(KILLS)? * (RATE as usize), "{sent} were sent for {EVENTS}");
    Ok(())
}
