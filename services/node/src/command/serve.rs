//! `runmesh dev` and `runmesh serve`.

use std::process::ExitCode;

use serde_json::json;
use tokio::{
    io::AsyncReadExt as _,
    signal::unix::{SignalKind, signal},
};

use super::{print, real};
use crate::{
    Config, Environment, Listeners, Node, Roles,
    cli::{ConfigArgs, DevArgs, HostArgs, ServeArgs},
    telemetry::Telemetry,
};

pub(super) async fn dev(args: DevArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    if args.real {
        real::run(&args.host, environment).await
    } else {
        host(&args.host, environment, &Roles::all(), Allowed { faults: true, ..Allowed::default() }).await
    }
}

pub(super) async fn serve(args: ServeArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let roles = if args.roles.is_empty() { Roles::all() } else { Roles::of(args.roles) };
    let allowed = Allowed { faults: args.allow_faults, until_stdin_closes: args.until_stdin_closes };
    host(&args.host, environment, &roles, allowed).await
}

/// The settings that the arguments lead to.
pub(super) fn settings(
    args: &ConfigArgs,
    environment: &Environment,
    listen: Option<&HostArgs>,
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

/// What a node does beyond its settings.
#[derive(Debug, Clone, Copy, Default)]
struct Allowed {
    /// Take settings that make handlers fail on purpose.
    faults: bool,
    /// End when standard input does.
    until_stdin_closes: bool,
}

async fn host(args: &HostArgs, environment: &Environment, roles: &Roles, allowed: Allowed) -> anyhow::Result<ExitCode> {
    let config = settings(&args.config, environment, Some(args), &[])?;
    if !config.faults.rules.is_empty() {
        anyhow::ensure!(
            allowed.faults,
            "configuration: faults.rules: handlers would fail on purpose; --allow-faults takes them"
        );
        tracing::warn!(rules = config.faults.rules.len(), "handlers fail on purpose");
    }
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
        () = stdin_closed(), if allowed.until_stdin_closes => Ok(ExitCode::SUCCESS),
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

async fn stdin_closed() {
    let mut nothing = [0; 64];
    let mut stdin = tokio::io::stdin();
    while stdin.read(&mut nothing).await.is_ok_and(|read| read > 0) {}
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
        let health = node.health_address().map(|address| address.to_string());
        print::line(json!({ "grpc": grpc, "http": http, "health": health }))?;
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
