//! Read models that are built anew while several processes write them.

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::eventually;
use serde_json::{Value, json};

use crate::bed::Bed;

/// Both read models are built anew under load; who builds one is killed meanwhile, and so is one who writes it. Afterwards lists
/// and results have every execution as its log has it.
#[tokio::test(flavor = "multi_thread")]
async fn read_models_are_built_anew_while_several_processes_write_them() -> anyhow::Result<()> {
    let mut bed = Bed::new().await?;
    let mut load = bed.load().await?;
    let (http, base) = (reqwest::Client::new(), format!("{}/v1/replays", bed.mesh.http()));
    let mut ids = Vec::new();
    for model in ["executions", "results"] {
        let options = json!({"rate": 30, "batchSize": 10});
        let spec = json!({"all": true, "projection": {"readModel": model}, "options": options});
        let asked = json!({"spec": spec, "actor": "ann", "reason": "to see"});
        let created: Value = http.post(&base).json(&asked).send().await?.error_for_status()?.json().await?;
        let id = created["replay"]["replayId"].as_str().context("an id")?.to_owned();
        let who = json!({"actor": "ann", "reason": "now"});
        http.post(format!("{base}/{id}:start")).json(&who).send().await?.error_for_status()?;
        ids.push(id);
    }
    load.more(5).await?;
    let builder = bed.mesh.members().iter().find(|member| member.role == "replay").context("a role")?.name.clone();
    bed.mesh.kill(&builder).await?;
    load.more(5).await?;
    bed.mesh.kill("execution-1").await?;
    load.more(5).await?;
    for id in ids {
        let replay: Value = eventually("it is built", async || {
            let Ok(answer) = http.get(format!("{base}/{id}")).send().await?.error_for_status() else { return Ok(None) };
            let answer: Value = answer.json().await?;
            Ok(Some(answer["replay"].clone()).filter(|replay| replay["state"] != "REPLAY_STATE_RUNNING"))
        })
        .await?;
        ensure!(replay["state"] == "REPLAY_STATE_COMPLETED", "{replay}");
        load.more(2).await?;
    }
    let count = load.finish().await?;
    bed.mesh.verify().await?;
    let listed = bed.client.list().await?;
    assert_eq!(listed.len(), count, "every execution is in the list");
    for shown in listed {
        let execution = bed.client.get(&shown.execution_id).await?;
        assert_eq!((shown.state, shown.last_sequence), (execution.state, execution.last_sequence), "{shown:?}");
        bed.client.result(&shown.execution_id).await.with_context(|| format!("of {}", shown.execution_id))?;
    }
    Ok(())
}
