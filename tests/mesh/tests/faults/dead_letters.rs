//! Dead letters of the real groups, whose handlers fail on purpose: by the command line, and through crashes.

use std::{collections::BTreeSet, path::Path, process::Output};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use runmesh_mesh_tests::{Client, Mesh, Options, PATIENCE, Stored, bash, binary, eventually};
use runmesh_proto::{
    dlq::{
        DeadLetterFilter, DeadLetterState, GetDlqStatsRequest, GetRedriveRequest, ListDeadLettersRequest,
        PlanRedriveRequest, Redrive, RedriveState, StartRedriveRequest,
    },
    event::{EventType, event::Payload},
    queue::PauseQueueRequest,
};
use serde_json::Value;

use crate::replays;

/// Settings with which a group fails.
fn fault(group: &str, event_type: &str, more: &str) -> Options {
    let file = format!("[[faults.rules]]\ngroup = {group:?}\nevent_type = {event_type:?}\n{more}\n");
    Options { file: Some(file), ..Options::default() }
}

/// Calls `runmesh dlq` for a mesh.
async fn dlq(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<Output> {
    replays::runmesh(mesh, &[&["dlq"], arguments].concat()).await
}

/// What such a command said, which has to be done.
async fn said(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<String> {
    replays::said(mesh, &[&["dlq"], arguments].concat()).await
}

fn lines(text: &str) -> anyhow::Result<Vec<Value>> {
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))).collect()
}

/// An execution whose end nobody could keep: it is seen, understood, delivered again, and then there is a result.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_what_failed_and_mends_it() -> anyhow::Result<()> {
    let words = "text = \"the disk is full: 7 bytes\"\ntimes = 1\nkind = \"permanent\"";
    let mesh = Mesh::start_with(fault("result-processor", "execution_completed", words)).await?;
    let client = mesh.client().await?;
    let id = client.launch(bash("echo out")).await?;
    let letters = eventually("a letter", async || {
        let letters = lines(&said(&mesh, &["ls", "--json"]).await?)?;
        Ok(Some(letters).filter(|letters| !letters.is_empty()))
    })
    .await?;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((&letter["aggregateId"], &letter["group"]), (&Value::from(id.as_str()), &"result-processor".into()));
    let letter_id = letter["deadLetterId"].as_str().context("an id")?;
    let table = said(&mesh, &["ls", "--group", "result-processor", "--type", "execution_completed"]).await?;
    ensure!(table.contains(letter_id) && table.to_lowercase().contains("parked"), "{table}");
    let shown = said(&mesh, &["show", letter_id]).await?;
    ensure!(shown.contains("the disk is full: 7 bytes") && shown.contains(&id), "{shown}");
    let groups = said(&mesh, &["groups"]).await?;
    ensure!(groups.contains("the disk is full"), "{groups}");
    let stats = said(&mesh, &["stats"]).await?;
    ensure!(stats.contains("execution_completed"), "{stats}");
    let exported = lines(&said(&mesh, &["export"]).await?)?;
    assert_eq!(exported[0]["deadLetter"]["deadLetterId"], letter_id);
    // Without a reason nothing is done.
    let refused = dlq(&mesh, &["retry", letter_id]).await?;
    ensure!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--reason"), "{refused:?}");
    said(&mesh, &["retry", letter_id, "--reason", "there is room again"]).await?;
    eventually("a result", async || Ok(client.result(&id).await.ok())).await?;
    let over = eventually("it is over", async || {
        let all = lines(&said(&mesh, &["ls", "--state", "all", "--json"]).await?)?;
        Ok(all.into_iter().find(|letter| letter["state"] == "DEAD_LETTER_STATE_RESOLVED"))
    })
    .await?;
    assert_eq!(over["deadLetterId"], letter_id);
    ensure!(!said(&mesh, &["ls"]).await?.contains(letter_id), "it is listed still");
    // Policies.
    said(&mesh, &["policy", "set", "execution_completed", "--preset", "manual", "--reason", "we look ourselves"])
        .await?;
    ensure!(said(&mesh, &["policy", "get", "execution_completed"]).await?.contains("manual"), "the policy");
    Ok(())
}

/// Faults are not for a mesh that serves.
#[tokio::test(flavor = "multi_thread")]
async fn serve_refuses_faults_unless_it_is_told_to_take_them() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("runmesh.toml");
    let serve = async |text: &str| {
        std::fs::write(&file, text)?;
        let output = tokio::process::Command::new(binary()?)
            .args(["serve", "--data"])
            .arg(folder.path().join("data"))
            .arg("--config")
            .arg(Path::new(&file))
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, output).await.context("serve did not end")??;
        ensure!(!output.status.success(), "it serves");
        anyhow::Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let refused = serve("[[faults.rules]]\nkind = \"panic\"\n").await?;
    ensure!(refused.contains("faults.rules") && refused.contains("--allow-faults"), "{refused}");
    let refused = serve("[[faults.rules]]\nkind = \"panic\"\nevent_type = \"nothing\"\n").await?;
    ensure!(refused.contains("rule 1") && refused.contains("\"nothing\""), "{refused}");
    let refused = serve("[[faults.rules]]\nkind = \"panic\"\nprobability = 2.0\n").await?;
    ensure!(refused.contains("probability"), "{refused}");
    Ok(())
}

/// How many letters the redrive has that is cut short again and again, and how often.
const LETTERS: usize = 10_000;
const KILLS: u64 = 5;

/// How many executions are asked for at the same time.
const CALLS: usize = 64;

async fn redrive(client: &Client, id: &str) -> anyhow::Result<Redrive> {
    let request = GetRedriveRequest { redrive_id: id.to_owned() };
    client.dead_letters.clone().get_redrive(request).await?.into_inner().redrive.context("a redrive")
}

async fn open_letters(client: &Client) -> anyhow::Result<i64> {
    let stats = client.dead_letters.clone().get_dlq_stats(GetDlqStatsRequest {}).await?.into_inner();
    let over = [DeadLetterState::Resolved, DeadLetterState::Discarded];
    Ok(stats.topics.iter().filter(|topic| !over.contains(&topic.state())).map(|topic| topic.count).sum())
}

/// The node is killed again and again in the middle of a redrive. In the end each letter has reached its group, whose work
/// was done once, and the states say so.
#[tokio::test(flavor = "multi_thread")]
async fn no_crash_in_a_redrive_loses_or_doubles_anything() -> anyhow::Result<()> {
    // Ten thousand take too long on the servers of the tests.
    let options = fault("saga-orchestrator", "execution_requested", "kind = \"permanent\"");
    let mut mesh = Mesh::start_with(Options { embedded: true, ..options }).await?;
    let client = mesh.client().await?;
    // Nothing is to run here: what the group does is to begin sagas.
    client.queue.clone().pause_queue(PauseQueueRequest { reason: "a test".to_owned() }).await?;
    let launches = (0..LETTERS).map(|_| client.launch(bash("true")));
    let launched: Vec<String> = stream::iter(launches).buffer_unordered(CALLS).try_collect().await?;
    eventually("all are letters", async || Ok((open_letters(&client).await? == i64::try_from(LETTERS)?).then_some(())))
        .await?;
    // The group is mended.
    mesh.stop().await?;
    mesh.set_file(None);
    mesh.restart().await?;
    let client = mesh.client().await?;
    let filter = DeadLetterFilter {
        groups: vec!["saga-orchestrator".to_owned()],
        event_types: vec![EventType::ExecutionRequested as i32],
        ..Default::default()
    };
    let planned =
        client.dead_letters.clone().plan_redrive(PlanRedriveRequest { filter: Some(filter), rate: 0.0 }).await?;
    let plan = planned.into_inner().plan.context("a plan")?;
    assert_eq!(plan.count, i64::try_from(LETTERS)?);
    let request = StartRedriveRequest {
        plan_token: plan.plan_token,
        actor: "ann".to_owned(),
        reason: "it is mended".to_owned(),
        ..Default::default()
    };
    let id = client.dead_letters.clone().start_redrive(request).await?.into_inner().redrive.context("one")?.redrive_id;
    for kill in 1..=KILLS {
        let client = mesh.client().await?;
        let wanted = i64::try_from(LETTERS)? * i64::try_from(kill)? / i64::try_from(KILLS + 1)?;
        eventually("a part is delivered", async || {
            Ok(Some(redrive(&client, &id).await?).filter(|redrive| redrive.delivered >= wanted))
        })
        .await?;
        mesh.kill()?;
        mesh.restart().await?;
    }
    let client = mesh.client().await?;
    let done = eventually("all are delivered", async || {
        Ok(Some(redrive(&client, &id).await?).filter(|redrive| redrive.state() == RedriveState::Completed))
    })
    .await?;
    let all = i64::try_from(LETTERS)?;
    assert_eq!((done.delivered, done.skipped, done.resolved, done.failed), (all, 0, all, 0));
    assert_eq!(open_letters(&client).await?, 0);
    let filter = DeadLetterFilter { states: vec![DeadLetterState::Resolved as i32], ..Default::default() };
    let (mut aggregates, mut page_token) = (BTreeSet::new(), String::new());
    loop {
        let request =
            ListDeadLettersRequest { filter: Some(filter.clone()), page_size: 1_000, page_token, ..Default::default() };
        let page = client.dead_letters.clone().list_dead_letters(request).await?.into_inner();
        for letter in page.dead_letters {
            ensure!(letter.retries == 1 && letter.redrive_id == id, "{letter:?}");
            aggregates.insert(letter.aggregate_id);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(aggregates, launched.iter().cloned().collect());
    mesh.stop().await?;
    let store = Stored::open(&mesh).await?;
    for execution_id in &launched {
        let log = store.log(execution_id).await?;
        let begun = log.iter().filter(|event| matches!(event.payload, Some(Payload::SagaStarted(_)))).count();
        ensure!(begun == 1, "{execution_id} began {begun} sagas");
    }
    Ok(())
}
