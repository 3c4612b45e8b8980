//! Beyond loopback nothing works without a token, and with it everything does.

use std::process::Output;

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Client, Mesh, Options, bash, binary, tool};
use runmesh_proto::execution::{
    CreateExecutionRequest, GetLimitsRequest, ListExecutionsRequest, WatchExecutionRequest,
    execution_service_client::ExecutionServiceClient,
};
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

const TOKEN: &str = "a-token-for-this-test-0123456789";

/// Starts a node that must refuse to start.
async fn refused(arguments: &[&str]) -> anyhow::Result<Output> {
    let folder = tempfile::tempdir()?;
    let output = tokio::process::Command::new(binary()?)
        .args(["dev", "--json", "--data"])
        .arg(folder.path().join("data"))
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(runmesh_mesh_tests::PATIENCE, output).await.context("it did not end")??;
    ensure!(!output.status.success(), "it ended with {}", output.status);
    Ok(output)
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_a_node_without_a_token_does_not_start() -> anyhow::Result<()> {
    for (grpc, http) in [("0.0.0.0:0", "127.0.0.1:0"), ("127.0.0.1:0", "0.0.0.0:0"), ("[::]:0", "127.0.0.1:0")] {
        let output = refused(&["--grpc", grpc, "--http", http]).await.with_context(|| format!("{grpc} {http}"))?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(words.contains("auth.token"), "it does not name the setting: {words}");
        ensure!(output.stdout.is_empty(), "it said that it was ready");
    }
    let output = refused(&["--grpc", "0.0.0.0:0", "--http", "127.0.0.1:0", "--set", "auth.token="]).await?;
    ensure!(String::from_utf8_lossy(&output.stderr).contains("auth.token"), "an empty token is none");
    Ok(())
}

async fn with_token() -> anyhow::Result<(Mesh, String, String)> {
    let mut options = Options::set([]);
    options.settings.push(format!("auth.token={TOKEN}"));
    options.grpc = Some("0.0.0.0:0".to_owned());
    options.http = Some("0.0.0.0:0".to_owned());
    let mesh = Mesh::start_with(options).await?;
    let port = |address: &str| address.rsplit(':').next().map(|port| format!("127.0.0.1:{port}")).context("no port");
    let (grpc, http) = (port(mesh.grpc()?)?, port(mesh.http()?)?);
    Ok((mesh, grpc, http))
}

fn bearing<T>(token: &str, message: T) -> anyhow::Result<Request<T>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    Ok(request)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_grpc_calls_need_it() -> anyhow::Result<()> {
    let (_mesh, grpc, _) = with_token().await?;
    let client = Client::connect(&grpc).await?;
    let mut executions = client.executions.clone();
    let create = || CreateExecutionRequest { request_id: String::new(), spec: Some(bash("echo in")) };

    for refused in [
        client.create(bash("echo in")).await.err(),
        client.list().await.err(),
        client.get("nonsense").await.err(),
        client.watch("nonsense", "").await.err(),
        executions.create_execution(bearing("another", create())?).await.err(),
        executions.create_execution(bearing("", create())?).await.err(),
        executions.create_execution(bearing(&TOKEN[1..], create())?).await.err(),
    ] {
        let status = refused.context("it was let in")?;
        ensure!(status.code() == Code::Unauthenticated, "{status:?}");
        ensure!(!format!("{status:?}").contains(TOKEN), "the answer has the token");
    }
    // Nothing was done for those that were refused.
    let list = executions.list_executions(bearing(TOKEN, ListExecutionsRequest::default())?).await?.into_inner();
    ensure!(list.executions.is_empty(), "{list:?}");

    let created = executions.create_execution(bearing(TOKEN, create())?).await?.into_inner();
    let execution_id = created.execution.context("no execution")?.execution_id;
    let watch = WatchExecutionRequest { execution_id, cursor: String::new() };
    let mut stream = executions.watch_execution(bearing(TOKEN, watch)?).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = tokio::time::timeout(runmesh_mesh_tests::PATIENCE, stream.message()).await?? {
        messages.push(message);
    }
    let transcript = runmesh_mesh_tests::Transcript { messages };
    transcript.complete()?;
    assert_eq!(transcript.stdout()?, b"in\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_health_and_public_methods_need_no_token() -> anyhow::Result<()> {
    let (_mesh, grpc, _) = with_token().await?;
    let channel = Channel::from_shared(format!("http://{grpc}"))?.connect().await?;
    for service in ["", "runmesh.execution.v1.ExecutionService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let health = HealthClient::new(channel.clone()).check(request).await?.into_inner();
        assert_eq!(health.status(), ServingStatus::Serving, "{service:?}");
    }
    ExecutionServiceClient::new(channel).get_limits(GetLimitsRequest {}).await?;
    let listed =
        tokio::process::Command::new(tool("bin/grpcurl")?).args(["-plaintext", &grpc, "list"]).output().await?;
    let words = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(
        words.contains("runmesh.execution.v1.ExecutionService"),
        "{words}{}",
        String::from_utf8_lossy(&listed.stderr)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_the_gateway_needs_it() -> anyhow::Result<()> {
    let (_mesh, _, http) = with_token().await?;
    let client = reqwest::Client::new();
    let url = format!("http://{http}/v1/executions");
    let body = serde_json::json!({"spec": {"language": "bash", "script": "echo in"}});
    for token in [None, Some("another")] {
        for request in [client.post(&url).json(&body), client.get(&url), client.get(format!("{url}/x:watch"))] {
            let request = match token {
                Some(token) => request.bearer_auth(token),
                None => request,
            };
            let response = request.send().await?;
            ensure!(response.status() == 401, "{} with {token:?}", response.status());
            let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            ensure!(kind.starts_with("application/problem+json"), "{kind}");
        }
    }
    ensure!(client.get(format!("http://{http}/healthz")).send().await?.status() == 200, "healthz");

    let created = client.post(&url).bearer_auth(TOKEN).json(&body).send().await?;
    ensure!(created.status() == 200, "{}", created.status());
    let created: serde_json::Value = created.json().await?;
    let id = created["execution"]["executionId"].as_str().context("no id")?;
    let watched = client.get(format!("{url}/{id}:watch")).bearer_auth(TOKEN).send().await?;
    ensure!(watched.status() == 200, "{}", watched.status());
    let stream = tokio::time::timeout(runmesh_mesh_tests::PATIENCE, watched.text()).await??;
    ensure!(stream.contains("event: end"), "{stream}");
    Ok(())
}
