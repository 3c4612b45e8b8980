//! A stream never lies: whoever watches sees exactly the stored log, however often the connection is cut.

use anyhow::{Context as _, ensure};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use runmesh_mesh_tests::{Client, Mesh, Stored, Transcript, bash};
use runmesh_proto::event::Event;

/// How often a watcher's connection is cut, and where it resumes.
#[derive(Debug, Clone)]
struct Cut {
    /// After how many more messages.
    after: usize,
    /// How many messages further back than the last one seen it resumes.
    back: usize,
}

/// A script and those who watch it.
#[derive(Debug, Clone)]
struct Case {
    /// For each piece of output, the milliseconds before it.
    pauses: Vec<u8>,
    watchers: Vec<Vec<Cut>>,
}

fn cases() -> impl Strategy<Value = Case> {
    let cut = (1..12_usize, prop_oneof![3 => Just(0), 1 => 1..8_usize]).prop_map(|(after, back)| Cut { after, back });
    (vec(0..20_u8, 0..40), vec(vec(cut, 0..8), 1..5)).prop_map(|(pauses, watchers)| Case { pauses, watchers })
}

/// Watches to the end with cuts. A message that comes again must be the same as before.
async fn watch_with_cuts(client: &Client, execution_id: &str, cuts: &[Cut]) -> anyhow::Result<Transcript> {
    let mut seen = Transcript::default();
    for cut in cuts.iter().map(Some).chain([None]) {
        let cursor = seen.cursors().last().copied().unwrap_or_default().to_owned();
        let mut watch = client.watch(execution_id, &cursor).await?;
        let mut left = cut.map_or(usize::MAX, |cut| cut.after);
        while left > 0
            && let Some(message) = watch.next().await?
        {
            seen.messages.push(message);
            left -= 1;
        }
        let Some(cut) = cut else { break };
        // The connection is gone with the watch. What was seen after the place to resume at must come again.
        drop(watch);
        let kept = seen.messages.len().saturating_sub(cut.back);
        let again = seen.messages.split_off(kept);
        let cursor = seen.cursors().last().copied().unwrap_or_default().to_owned();
        let mut watch = client.watch(execution_id, &cursor).await?;
        for before in again {
            let message = watch.next().await?.context("the stream ended before what it had sent before")?;
            ensure!(message == before, "{message:?} came where {before:?} had come");
            seen.messages.push(message);
        }
    }
    Ok(seen)
}

/// Runs one case and returns the log that all watchers agree on.
async fn check(client: &Client, case: &Case) -> anyhow::Result<Transcript> {
    let script: String = case.pauses.iter().map(|pause| format!("sleep 0.{pause:03}; echo $SECONDS\n")).collect();
    let execution_id = client.launch(bash(&format!("{script}:\n"))).await?;
    let watchers: Vec<_> = case
        .watchers
        .iter()
        .cloned()
        .map(|cuts| {
            let (client, execution_id) = (client.clone(), execution_id.clone());
            tokio::spawn(async move { watch_with_cuts(&client, &execution_id, &cuts).await })
        })
        .collect();
    let mut seen = Vec::new();
    for watcher in watchers {
        seen.push(watcher.await??);
    }
    // After its end, from the start and from every cursor.
    let whole = client.follow(&execution_id).await?;
    for (watcher, seen) in seen.iter().enumerate() {
        ensure!(*seen == whole, "watcher {watcher} saw\n{seen:?}\nand the log is\n{whole:?}");
    }
    for (index, cursor) in whole.cursors().iter().enumerate() {
        let rest = client.watch(&execution_id, cursor).await?.rest().await?;
        ensure!(rest.messages == whole.messages[index + 1..], "after {cursor} came {rest:?}");
    }
    Ok(whole)
}

#[test]
fn watchers_that_reconnect_anywhere_see_exactly_the_stored_log() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut mesh = runtime.block_on(Mesh::start())?;
    let client = runtime.block_on(mesh.client())?;
    let logs = std::sync::Mutex::new(Vec::new());
    let config = Config { cases: 16, max_shrink_iters: 64, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&cases(), |case| {
            let whole = runtime.block_on(check(&client, &case));
            let whole = whole.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
            logs.lock().map_err(|_| TestCaseError::fail("poisoned"))?.push(whole);
            Ok(())
        })
        .map_err(|error| anyhow::anyhow!("{error}\n{}", mesh.log()))?;
    drop(client);

    // What was watched is what is stored.
    runtime.block_on(mesh.stop())?;
    let logs = logs.into_inner().map_err(|_| anyhow::anyhow!("poisoned"))?;
    ensure!(!logs.is_empty(), "nothing was watched");
    let store = runtime.block_on(Stored::open(&mesh))?;
    for log in logs {
        let events: Vec<Event> = log.events().cloned().collect();
        let stored = runtime.block_on(store.visible(&log.complete()?.execution_id))?;
        ensure!(events == stored, "watched:\n{events:?}\nstored:\n{stored:?}");
    }
    Ok(())
}
