//! `runmesh dev` and `runmesh serve`.

use std::process::ExitCode;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::print;
use crate::{
    Config, Environment, Listeners, Node, Roles,
    cli::{ConfigArgs, DevArgs, ServeArgs},
    telemetry::Telemetry,
};

pub(super) async fn dev(args: DevArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    host(&args, environment, &Roles::all()).await
}

pub(super) async fn serve(args: ServeArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let roles = if args.roles.is_empty() { Roles::all() } else { Roles::of(args.roles) };
    host(&args.dev, environment, &roles).await
}

/// The settings that the arguments lead to.
pub(super) fn settings(
    args: &ConfigArgs,
    environment: &Environment,
    listen: Option<&DevArgs>,
    defaults: &[(&str, &str)],
) -> anyhow::Result<Config> {
    let mut overrides = args.overrides.clone();
    if let Some(data) = &args.data {
        overrides.push(format!("data={}", data.display()));
    }
    if let Some(address) = listen.and_then(|listen| listen.grpc) {
        overrides.push(format!("grpc.listen={address}"));
    }
    if let Some(address) = listen.and_then(|listen| listen.http) {
        overrides.push(format!("http.listen={address}"));
    }
    Ok(Config::load(args.config.as_deref(), environment, &overrides, defaults)?)
}

async fn host(args: &DevArgs, environment: &Environment, roles: &Roles) -> anyhow::Result<ExitCode> {
    let config = settings(&args.config, environment, Some(args), &[])?;
    let telemetry = Telemetry::install(&config)?;
    let mut stop = Stop::listen()?;
    let listeners = Listeners::bind(&config, roles).await?;
    let render = Box::new(telemetry.render());
    let mut node = Node::start(&config, environment, roles, listeners, Some(render)).await?;
    for drift in &node.topics().drift {
        tracing::warn!(
            topic = drift.topic,
            setting = drift.setting,
            wanted = drift.wanted,
            found = drift.found,
            "drift"
        );
    }
    // A node whose output nobody reads runs all the same.
    let _ = announce(args.json, &node, roles);
    let result = tokio::select! {
        () = stop.asked() => Ok(ExitCode::SUCCESS),
        error = node.failed() => Err(error.into()),
    };
    tracing::info!("shutting down");
    tokio::select! {
        () = node.shutdown() => {}
        // A second signal: at once.
        () = stop.asked() => anyhow::bail!("stopped before everything had ended"),
    }
    telemetry.shutdown();
    result
}

/// The signals that ask for an orderly end.
pub(super) struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn announce(as_json: bool, node: &Node, roles: &Roles) -> std::io::Result<()> {
    let http = node.http_address().map(|address| format!("http://{address}"));
    let grpc = node.grpc_address().map(|address| address.to_string());
    if as_json {
        print::line(json!({ "grpc": grpc, "http": http }))?;
        return Ok(());
    }
    print::line(format_args!("runmesh {} is ready ({roles})", env!("CARGO_PKG_VERSION")))?;
    if let Some(http) = http {
        print::line(format_args!("  page and API  {http}/"))?;
    }
    if let Some(grpc) = grpc {
        print::line(format_args!("  gRPC          {grpc}"))?;
    }
    print::line("Ctrl-C ends it.")
}
