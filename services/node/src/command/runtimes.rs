//! `runmesh runtimes`: the languages that can be run, and what is missing for the others.

use std::process::ExitCode;

use anyhow::Context as _;
use runmesh_proto::execution::{
    ListRuntimesRequest, ListRuntimesResponse, Runtime, execution_service_client::ExecutionServiceClient,
};
use runmesh_runner::Runtimes;
use tonic::service::interceptor::InterceptedService;

use super::{connect, print, serve::settings};
use crate::{Environment, cli::RuntimesArgs, runtimes::listed, sandbox};

pub(super) async fn runtimes(args: RuntimesArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let known = if args.server.server.is_some() {
        let (channel, credentials) = connect(&args.server).await?;
        let mut client = ExecutionServiceClient::new(InterceptedService::new(channel, credentials));
        client.list_runtimes(ListRuntimesRequest {}).await.map_err(|status| print::error(&status))?.into_inner()
    } else {
        let config = settings(&args.config, environment, None, &[("log.filter", "warn")])?;
        let found = Runtimes::discover(&sandbox::search(&config, environment)).await?;
        listed(&found)
    };
    if args.json {
        let descriptor = runmesh_proto::descriptors()
            .get_message_by_name("runmesh.execution.v1.ListRuntimesResponse")
            .context("the contract has no ListRuntimesResponse")?;
        print::line(print::json(&print::dynamic(&known, descriptor)?)?)?;
    } else {
        show(&known)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(listed: &ListRuntimesResponse) -> std::io::Result<()> {
    print::line(format_args!("{:<10}  {:<10}  {:<8}  PROGRAM", "LANGUAGE", "VERSION", "COMPILED"))?;
    for runtime in &listed.runtimes {
        let compiled = if runtime.compile_command.is_empty() { "" } else { "yes" };
        let default = if runtime.default { "" } else { "  (by its version)" };
        let program = program(runtime);
        print::line(format_args!(
            "{:<10}  {:<10}  {compiled:<8}  {program}{default}",
            runtime.language, runtime.version
        ))?;
    }
    for one in &listed.unavailable {
        let package = match one.package.as_str() {
            "" => "not found here".to_owned(),
            package => format!("not found here; on Debian: apt-get install {package}"),
        };
        print::line(format_args!("{:<10}  {:<10}  {:<8}  {package}", one.language, "-", ""))?;
    }
    Ok(())
}

/// What runs, or compiles, the programs.
fn program(runtime: &Runtime) -> &str {
    runtime.compile_command.first().or(runtime.command.first()).map_or("", String::as_str)
}
