//! Read models that are built from the log while the mesh works, and through a crash.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use runmesh_mesh_tests::{Client, Mesh, Options, bash, eventually};
use runmesh_proto::{
    execution::{DeleteExecutionRequest, Execution, ExecutionState},
    replay::ReplayState,
    result::Result as ExecutionResult,
};
use rusqlite::Connection;
use serde_json::Value;

use crate::replays::{get, runmesh, said};

/// How many executions there are.
const EXECUTIONS: usize = 40;

/// How many are asked for at the same time.
const CALLS: usize = 8;

/// What lists show, by id.
async fn listed(client: &Client) -> anyhow::Result<BTreeMap<String, Execution>> {
    let all = client.list().await?;
    Ok(all.into_iter().map(|execution| (execution.execution_id.clone(), execution)).collect())
}

/// What the results are, without the times at which they were stored. `None`: there is none.
async fn results(client: &Client, ids: &BTreeSet<String>) -> anyhow::Result<Vec<Option<ExecutionResult>>> {
    let mut results = Vec::new();
    for id in ids {
        results.push(client.result(id).await.ok().map(|result| ExecutionResult { stored_at: None, ..result }));
    }
    Ok(results)
}

async fn delete(client: &Client, id: &str) -> anyhow::Result<()> {
    let request = DeleteExecutionRequest { execution_id: id.to_owned() };
    client.executions.clone().delete_execution(request).await?;
    Ok(())
}

/// Half of the documents are lost, and there is one of what never was. Both read models are built anew, while executions run and
/// are deleted; the node is killed in the middle. Then lists and results are what they were, with what happened since.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_read_model_is_built_from_the_log_while_the_mesh_works() -> anyhow::Result<()> {
    let mut mesh = Mesh::start_with(Options { embedded: true, ..Options::default() }).await?;
    let client = mesh.client().await?;
    let runs = (0..EXECUTIONS).map(|number| client.run(bash(&format!("echo {number}; exit $(({number} % 3))"))));
    stream::iter(runs).buffer_unordered(CALLS).try_collect::<Vec<_>>().await?;
    said(&mesh, &["verify", "--wait", "30s"]).await?;
    let mut wanted = listed(&client).await?;
    assert_eq!(wanted.len(), EXECUTIONS);
    let ids: Vec<String> = wanted.keys().cloned().collect();
    let all_results = results(&client, &wanted.keys().cloned().collect()).await?;
    mesh.stop().await?;
    let file = mesh.data_folder().join("runmesh.db");
    let broken = "DELETE FROM doc_executions WHERE rowid % 2 = 0; DELETE FROM doc_results WHERE rowid % 2 = 0;
                  UPDATE doc_executions SET id = 'ghost' WHERE rowid = (SELECT max(rowid) FROM doc_executions);";
    Connection::open(&file)?.execute_batch(broken)?;
    mesh.restart().await?;
    let client = mesh.client().await?;
    assert_eq!(client.list().await?.len(), EXECUTIONS / 2);

    let new = ["replay", "new", "--all", "--yes", "--reason", "half of it is lost"];
    // Most events of an execution go into the one, and one of each into the other.
    for (model, rate) in [("executions", "20"), ("results", "3")] {
        let slow = ["--detach", "--rate", rate, "--batch-size", "10"];
        said(&mesh, &[&new[..], &slow, &["--to-projection", model]].concat()).await?;
        let refused = runmesh(&mesh, &[&new[..], &["--to-projection", model]].concat()).await?;
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(1) && words.contains("--to-projection"), "{words}");
    }
    let replays: Vec<String> = said(&mesh, &["replay", "ls", "--json"])
        .await?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|replay| replay["state"] == "REPLAY_STATE_RUNNING")
        .filter_map(|replay| replay["replayId"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(replays.len(), 2);
    let first = &replays[1];
    eventually("a part is there", async || {
        Ok((get(&client, first).await?.progress.context("progress")?.sent >= 20).then_some(()))
    })
    .await?;
    // One that is there already goes, one that comes later too, and there are new ones.
    for id in [&ids[0], &ids[EXECUTIONS - 1]] {
        delete(&client, id).await?;
        wanted.remove(id);
    }
    let mut news = BTreeSet::new();
    news.insert(client.run(bash("echo new")).await?.complete()?.execution_id.clone());
    mesh.kill()?;
    mesh.restart().await?;
    let client = mesh.client().await?;
    news.insert(client.run(bash("echo newer")).await?.complete()?.execution_id.clone());
    for id in &replays {
        let done = eventually("it is built", async || {
            Ok(Some(get(&client, id).await?).filter(|replay| replay.state() != ReplayState::Running))
        })
        .await?;
        ensure!(done.state() == ReplayState::Completed, "{done:?}");
    }
    said(&mesh, &["verify", "--wait", "30s"]).await?;
    let mut found = listed(&client).await?;
    for id in &news {
        let new = found.remove(id).context("a new one is missing")?;
        assert_eq!(new.state(), ExecutionState::Completed);
    }
    assert_eq!(found, wanted, "lists are what they were");
    let results_of_old = results(&client, &wanted.keys().cloned().collect()).await?;
    assert_eq!(results_of_old, all_results[1..EXECUTIONS - 1], "results are what they were");
    let ids: BTreeSet<String> = wanted.into_keys().chain(news).collect();
    let before = results(&client, &ids).await?;
    ensure!(before.iter().all(Option::is_some), "{before:?}");

    // Once more, with nothing in the way: the same, in the other collection.
    for model in ["executions", "results"] {
        let done = said(&mesh, &[&new[..], &["--to-projection", model]].concat()).await?;
        ensure!(done.contains("completed: 100 %"), "{done}");
    }
    assert_eq!(listed(&client).await?.into_keys().collect::<BTreeSet<_>>(), ids);
    assert_eq!(results(&client, &ids).await?, before);
    mesh.stop().await?;
    let connection = Connection::open(&file)?;
    for (table, rows) in [("executions", ids.len()), ("executions_2", 0), ("results", ids.len()), ("results_2", 0)] {
        let sql = format!("SELECT count(*) FROM doc_{table}");
        let counted: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
        assert_eq!(counted, i64::try_from(rows)?, "{table}");
    }
    Ok(())
}
