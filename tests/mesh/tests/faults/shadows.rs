//! Executions run again and compared: what was planted is found, and nothing else; a crash runs nothing twice.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use runmesh_mesh_tests::{Mesh, Options, bash, eventually, python};
use runmesh_proto::{
    event::{EventFilter, EventType},
    execution::ExecutionSpec,
    replay::{
        CreateReplayRequest, ReplaySpec, ReplayState, RerunOptions, ShadowTarget, StartReplayRequest,
        replay_spec::Target,
    },
};
use serde_json::Value;

use crate::replays::{get, runmesh, said};

/// How many executions there are, and how many of them have which difference when they are run again.
const EXECUTIONS: usize = 200;
const HUNGRY: usize = 4;
const RESTLESS: usize = 3;
const MURMURING: usize = 2;

/// How many are asked for at the same time.
const CALLS: usize = 16;

/// What the execution of this number runs, and what is different when it is run again with less memory.
fn planted(number: usize) -> (ExecutionSpec, &'static [&'static str]) {
    if number < HUNGRY {
        (python("x = bytearray(150 << 20)\nprint(len(x))"), &["DIFFERENCE_VERDICT", "DIFFERENCE_STDOUT"])
    } else if number < HUNGRY + RESTLESS {
        (python("import time\nprint('the time')\nprint(time.time_ns())"), &["DIFFERENCE_STDOUT"])
    } else if number < HUNGRY + RESTLESS + MURMURING {
        (python("import sys, time\nprint(time.time_ns(), file=sys.stderr)"), &["DIFFERENCE_STDERR"])
    } else {
        (python(&format!("import sys\nprint('caf\u{e9} {number}')\nsys.exit({number} % 3)")), &[])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_finds_what_was_planted_and_nothing_else() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let launches = (0..EXECUTIONS).map(|number| {
        let client = &client;
        async move {
            let end = client.run(planted(number).0).await?.complete()?.clone();
            anyhow::Ok((end.execution_id, number))
        }
    });
    let numbers: BTreeMap<String, usize> = stream::iter(launches).buffer_unordered(CALLS).try_collect().await?;
    let how = ["--shadow", "--memory", "64M", "--parallel", "4"];
    let new = ["replay", "new", "--reason", "a new limit", "--yes", "--all"];
    let done = said(&mesh, &[&new[..], &how].concat()).await?;
    ensure!(done.contains(&format!("completed: 100 %, {EXECUTIONS} sent")), "{done}");
    let listed: Value = serde_json::from_str(said(&mesh, &["replay", "ls", "--json"]).await?.trim())?;
    let id = listed["replayId"].as_str().context("an id")?;

    let diff = runmesh(&mesh, &["replay", "diff", id, "--json"]).await?;
    assert_eq!(diff.status.code(), Some(1), "there are differences");
    let mut found = BTreeSet::new();
    for line in String::from_utf8(diff.stdout)?.lines() {
        let comparison: Value = serde_json::from_str(line)?;
        let number = numbers[comparison["original"]["executionId"].as_str().context("an execution")?];
        found.insert(number);
        let differences: Vec<&str> =
            comparison["differences"].as_array().context("differences")?.iter().filter_map(Value::as_str).collect();
        let expected = planted(number).1;
        ensure!(expected.iter().all(|one| differences.contains(one)), "{number}: {comparison}");
        if number < HUNGRY {
            assert_eq!(comparison["rerun"]["errorType"], "EXECUTION_ERROR_TYPE_OUT_OF_MEMORY", "{comparison}");
        } else {
            assert_eq!(differences, expected, "{comparison}");
        }
        if (HUNGRY..HUNGRY + RESTLESS).contains(&number) {
            assert_eq!(comparison["stdout"]["line"], "2", "{comparison}");
        }
    }
    assert_eq!(found, (0..HUNGRY + RESTLESS + MURMURING).collect(), "those that were planted");
    let words = runmesh(&mesh, &["replay", "diff", id]).await?;
    let words = String::from_utf8(words.stdout)?;
    ensure!(words.contains("200 compared: 191 the same, 9 different"), "{words}");

    // The same as a file, through the gateway.
    let base = format!("{}/v1/replays/{id}:exportReport", mesh.http()?);
    let report = reqwest::get(&base).await?.error_for_status()?;
    assert_eq!(report.headers()["content-type"], "application/json");
    let report: Value = report.json().await?;
    assert_eq!((&report["summary"]["compared"], &report["summary"]["different"]), (&"200".into(), &"9".into()));
    assert_eq!(report["comparisons"].as_array().map(Vec::len), Some(EXECUTIONS));
    let page =
        reqwest::get(format!("{base}?format=REPORT_FORMAT_HTML&onlyDifferent=true")).await?.error_for_status()?;
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let page = page.text().await?;
    ensure!(page.matches("<tr><td>").count() == found.len() && page.ends_with("</html>\n"), "{page}");
    assert_eq!(client.list().await?.len(), 2 * EXECUTIONS, "each was run again once");
    Ok(())
}

/// How many executions are run again while the node is killed.
const CUT: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_a_shadow_runs_nothing_twice() -> anyhow::Result<()> {
    let mut mesh = Mesh::start_with(Options { embedded: true, ..Options::default() }).await?;
    let client = mesh.client().await?;
    let script = "echo again; sleep 0.5";
    stream::iter((0..CUT).map(|_| client.run(bash(script)))).buffer_unordered(CALLS).try_collect::<Vec<_>>().await?;
    let filter = EventFilter { event_types: vec![EventType::ExecutionRequested.into()], ..Default::default() };
    let options = Some(RerunOptions { parallel: 2, ..Default::default() });
    let target = Some(Target::Shadow(ShadowTarget { options, ..Default::default() }));
    let spec = Some(ReplaySpec { filter: Some(filter), target, ..Default::default() });
    let (actor, reason) = ("ann".to_owned(), "a test".to_owned());
    let request = CreateReplayRequest { spec, actor: actor.clone(), reason: reason.clone(), ..Default::default() };
    let created = client.replays.clone().create_replay(request).await?.into_inner().replay.context("a replay")?;
    let id = created.replay_id;
    client.replays.clone().start_replay(StartReplayRequest { replay_id: id.clone(), actor, reason }).await?;
    eventually("some are compared", async || {
        Ok((get(&client, &id).await?.progress.context("progress")?.sent >= 6).then_some(()))
    })
    .await?;
    mesh.kill()?;
    mesh.restart().await?;
    let client = mesh.client().await?;
    let done = eventually("all are compared", async || {
        Ok(Some(get(&client, &id).await?).filter(|replay| replay.state() == ReplayState::Completed))
    })
    .await?;
    assert_eq!(done.progress.context("progress")?.takeovers, 1);
    let mut again: Vec<String> =
        client.list().await?.into_iter().map(|execution| execution.retry_of).filter(|of| !of.is_empty()).collect();
    again.sort();
    again.dedup();
    assert_eq!((again.len(), client.list().await?.len()), (CUT, 2 * CUT), "each was run again once");
    let diff = runmesh(&mesh, &["replay", "diff", &id]).await?;
    let words = String::from_utf8(diff.stdout)?;
    ensure!(words.contains(&format!("{CUT} compared")), "{words}");
    Ok(())
}
