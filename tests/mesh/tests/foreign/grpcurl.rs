//! grpcurl, by reflection alone: no proto file is given to it.

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Mesh, tool};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{run, succeed};

const SERVICE: &str = "runmesh.execution.v1.ExecutionService";

fn grpcurl(mesh: &Mesh, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(tool("bin/grpcurl")?);
    let (target, flags): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|argument| !argument.starts_with('-'));
    command.arg("-plaintext").args(flags).arg(mesh.grpc()?).args(target);
    Ok(command)
}

/// Calls a method, and returns what it answers: one value, or those of a stream.
async fn call(mesh: &Mesh, method: &str, request: &Value) -> anyhow::Result<Vec<Value>> {
    let mut command = Command::new(tool("bin/grpcurl")?);
    command.args(["-plaintext", "-emit-defaults", "-d", &request.to_string(), mesh.grpc()?]);
    let stdout = succeed(command.arg(format!("{SERVICE}/{method}")), mesh).await?;
    Ok(serde_json::Deserializer::from_str(&stdout).into_iter().collect::<Result<_, _>>()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_lists_and_describes_what_is_there() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let services = succeed(&mut grpcurl(&mesh, &["list"])?, &mesh).await?;
    for service in [SERVICE, "runmesh.result.v1.ResultService", "grpc.health.v1.Health"] {
        ensure!(services.lines().any(|line| line == service), "{service} is missing:\n{services}");
    }
    let methods = succeed(&mut grpcurl(&mesh, &["list", SERVICE])?, &mesh).await?;
    for method in ["CreateExecution", "WatchExecution", "CancelExecution", "ListExecutions"] {
        ensure!(methods.contains(&format!("{SERVICE}.{method}")), "{method} is missing:\n{methods}");
    }
    let described = succeed(&mut grpcurl(&mesh, &["describe", &format!("{SERVICE}.WatchExecution")])?, &mesh).await?;
    ensure!(described.contains("returns ( stream .runmesh.execution.v1.WatchExecutionResponse )"), "{described}");
    let described = succeed(&mut grpcurl(&mesh, &["describe", "runmesh.event.v1.Event"])?, &mesh).await?;
    ensure!(described.contains("execution_output = 158"), "{described}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_creates_watches_lists_and_cancels() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let spec = json!({"spec": {"language": "bash", "script": "echo hello"}});
    let created = call(&mesh, "CreateExecution", &spec).await?;
    let id = created[0]["execution"]["executionId"].as_str().context("no id")?.to_owned();
    let messages = call(&mesh, "WatchExecution", &json!({"executionId": id})).await?;
    let last = messages.last().context("nothing was watched")?;
    assert_eq!(last["end"]["execution"]["state"], "EXECUTION_STATE_COMPLETED");
    let output: Vec<&str> =
        messages.iter().filter_map(|message| message["event"]["executionOutput"]["data"].as_str()).collect();
    assert_eq!(output, ["aGVsbG8K"], "base64 of the output");

    let spec = json!({"spec": {"language": "bash", "script": "sleep 600"}});
    let created = call(&mesh, "CreateExecution", &spec).await?;
    let running = created[0]["execution"]["executionId"].as_str().context("no id")?.to_owned();
    let listed = call(&mesh, "ListExecutions", &json!({})).await?;
    let ids: Vec<&str> = listed[0]["executions"]
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(|execution| execution["executionId"].as_str())
        .collect();
    assert_eq!(ids, [running.as_str(), id.as_str()]);

    call(&mesh, "CancelExecution", &json!({"executionId": running, "reason": "by grpcurl"})).await?;
    let messages = call(&mesh, "WatchExecution", &json!({"executionId": running})).await?;
    let last = messages.last().context("nothing was watched")?;
    assert_eq!(last["end"]["execution"]["state"], "EXECUTION_STATE_CANCELLED");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_sees_health_and_the_details_of_errors() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    for service in ["", SERVICE] {
        let request = json!({"service": service}).to_string();
        let mut command = Command::new(tool("bin/grpcurl")?);
        command.args(["-plaintext", "-d", &request, mesh.grpc()?, "grpc.health.v1.Health/Check"]);
        ensure!(succeed(&mut command, &mesh).await?.contains("SERVING"), "{service:?}");
    }
    let mut command = Command::new(tool("bin/grpcurl")?);
    command.args([
        "-plaintext",
        "-d",
        r#"{"executionId": "nonsense"}"#,
        mesh.grpc()?,
        &format!("{SERVICE}/GetExecution"),
    ]);
    let output = run(&mut command).await?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "it was accepted");
    for part in ["InvalidArgument", "google.rpc.BadRequest", "execution_id"] {
        ensure!(words.contains(part), "no {part} in:\n{words}");
    }
    Ok(())
}
