//! TLS with the certificates of `runmesh certs dev`: this command line, grpcurl, a gateway in a process of its own.

use std::{path::Path, process::Stdio};

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Mesh, Options, PATIENCE, binary, tool};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{run, succeed};

const LIMITS: &str = "runmesh.execution.v1.ExecutionService/GetLimits";

/// Settings of a process with this owner's certificate.
fn tls(folder: &Path, owner: &str) -> [String; 3] {
    let file = |key: &str, name: String| format!("tls.{key}={}", folder.join(name).display());
    [file("ca", "ca.crt".to_owned()), file("certificate", format!("{owner}.crt")), file("key", format!("{owner}.key"))]
}

/// Makes certificates and a mesh that asks for them.
async fn certified() -> anyhow::Result<(tempfile::TempDir, Mesh)> {
    let folder = tempfile::tempdir()?;
    let output = run(Command::new(binary()?).args(["certs", "dev", "--out"]).arg(folder.path())).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut options = Options::set(["health.listen=127.0.0.1:0"]);
    options.settings.extend(tls(folder.path(), "node"));
    let mesh = Mesh::start_with(options).await?;
    Ok((folder, mesh))
}

fn port(address: &str) -> anyhow::Result<&str> {
    address.rsplit(':').next().context("no port")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_and_grpcurl_need_the_certificates() -> anyhow::Result<()> {
    let (folder, mesh) = certified().await?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (ca, certificate, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
    let call = |flags: &[&str]| {
        let mut command = Command::new(binary()?);
        command.args(["call", "--server", mesh.grpc()?]).args(flags).arg(LIMITS);
        anyhow::Ok(command)
    };
    let limits = succeed(&mut call(&["--ca", &ca, "--cert", &certificate, "--key", &key])?, &mesh).await?;
    ensure!(limits.contains("maximumLimits"), "{limits}");
    for (flags, words) in
        [(vec![], "without TLS"), (vec!["--ca", &certificate, "--cert", &certificate, "--key", &key], "UnknownIssuer")]
    {
        let output = run(&mut call(&flags)?).await?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && stderr.contains(words), "{flags:?}: {stderr}");
    }

    let address = format!("localhost:{}", port(mesh.grpc()?)?);
    let mut foreign = Command::new(tool("bin/grpcurl")?);
    foreign.args(["-cacert", &ca, "-cert", &certificate, "-key", &key, &address, LIMITS]);
    ensure!(succeed(&mut foreign, &mesh).await?.contains("maximumLimits"), "no limits");
    let mut refused = Command::new(tool("bin/grpcurl")?);
    refused.args(["-max-time", "20", "-cacert", &ca, &address, LIMITS]);
    ensure!(!run(&mut refused).await?.status.success(), "it was let in without a certificate");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_sees_health_without_tls_and_nothing_else() -> anyhow::Result<()> {
    let (_folder, mesh) = certified().await?;
    let health = mesh.health()?;
    // There is no reflection on it, so the probe brings the contract.
    let protos = tempfile::tempdir()?;
    std::fs::write(
        protos.path().join("health.proto"),
        r#"syntax = "proto3";
        package grpc.health.v1;
        message HealthCheckRequest { string service = 1; }
        message HealthCheckResponse { enum Status { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; } Status status = 1; }
        service Health { rpc Check(HealthCheckRequest) returns (HealthCheckResponse); }"#,
    )?;
    let mut probe = Command::new(tool("bin/grpcurl")?);
    probe.arg("-plaintext").arg("-import-path").arg(protos.path()).args(["-proto", "health.proto"]);
    let answer = succeed(probe.args([health, "grpc.health.v1.Health/Check"]), &mesh).await?;
    ensure!(answer.contains("SERVING"), "{answer}");
    let other = run(Command::new(binary()?).args(["call", "--server", health, LIMITS])).await?;
    let words = String::from_utf8_lossy(&other.stderr).into_owned();
    ensure!(!other.status.success() && words.contains("UNIMPLEMENTED"), "{words}");
    Ok(())
}

/// A gateway in a process of its own, and its URL.
async fn gateway(settings: &[String]) -> anyhow::Result<(Child, String)> {
    let mut command = Command::new(binary()?);
    command.args(["serve", "--roles", "gateway", "--json", "--until-stdin-closes"]);
    command.args(["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let stdout = child.stdout.take().context("no output")?;
    let line = timeout(PATIENCE, BufReader::new(stdout).lines().next_line()).await??.context("it ended")?;
    let ready: serde_json::Value = serde_json::from_str(&line)?;
    let url = ready["http"].as_str().context("no http")?.to_owned();
    Ok((child, url))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_calls_services_of_other_processes_over_tls() -> anyhow::Result<()> {
    let (folder, mesh) = certified().await?;
    let port = port(mesh.grpc()?)?;
    let settings = |owner: &str, service: String| [tls(folder.path(), owner).as_slice(), &[service]].concat();
    for address in [format!("127.0.0.1:{port}"), format!("https://localhost:{port}"), format!("dns://localhost:{port}")]
    {
        let (mut process, url) = gateway(&settings("gateway", format!("services.execution={address}"))).await?;
        let answer = reqwest::get(format!("{url}/v1/limits")).await?;
        ensure!(answer.status().is_success(), "{address}: {}", answer.text().await?);
        let answer = reqwest::get(format!("{url}/v1/executions/none/result")).await?;
        ensure!(answer.status() == 501, "the results have no address: {}", answer.status());
        drop(process.stdin.take());
        ensure!(timeout(PATIENCE, process.wait()).await??.success(), "it ended with an error");
    }
    // The certificate of another authority.
    let other = tempfile::tempdir()?;
    run(Command::new(binary()?).args(["certs", "dev", "--out"]).arg(other.path())).await?;
    let stranger = [tls(other.path(), "gateway").as_slice(), &[format!("gateway.upstream=127.0.0.1:{port}")]].concat();
    let (process, url) = gateway(&stranger).await?;
    let answer = reqwest::get(format!("{url}/v1/limits")).await?;
    ensure!(answer.status() == 503 && answer.headers().contains_key("retry-after"), "{}", answer.status());
    drop(process);
    Ok(())
}
