//! `runmesh dev --real`: the mesh as separate processes on Kafka and MongoDB.

mod process;

use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{process::Command, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::process::{HTTP_LISTEN, Plan, Process};
use super::{
    print,
    serve::{Stop, settings},
};
use crate::{Config, Environment, Role, cli::HostArgs, store};

/// The processes: how many of each role. Those of a stage are started when those before are ready, since they need their
/// addresses.
const STAGES: [&[(Role, usize)]; 3] = [
    &[
        (Role::Execution, 2),
        (Role::Results, 1),
        (Role::EventLog, 1),
        (Role::Saga, 2),
        (Role::Scheduler, 2),
        (Role::Dlq, 1),
        (Role::Runner, 2),
        (Role::Relay, 2),
    ],
    &[(Role::Replay, 1)],
    &[(Role::Gateway, 1)],
];

/// What `cargo xtask servers up --json` prints.
#[derive(Deserialize)]
struct TestServers {
    kafka: String,
    mongodb: String,
}

/// Where the mesh lives.
struct Backends {
    store: String,
    bus: String,
}

pub(super) async fn run(args: &HostArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let config = settings(&args.config, environment, Some(args), &[])?;
    let mut stop = Stop::listen()?;
    let ended = CancellationToken::new();
    let mut supervisors = JoinSet::new();
    let started = tokio::select! {
        started = start(args, &config, environment, &ended, &mut supervisors) => started,
        () = stop.asked() => Err(anyhow::anyhow!("stopped before everything had started")),
    };
    let result = match started {
        Ok(()) => {
            tokio::select! {
                () = stop.asked() => {}
                // They go on until they are told to end.
                Some(ended) = supervisors.join_next() => ended?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error),
    };
    ended.cancel();
    tokio::select! {
        () = async { while supervisors.join_next().await.is_some() {} } => {}
        // A second signal: dropping them kills.
        () = stop.asked() => bail!("stopped before everything had ended"),
    }
    result
}

async fn start(
    args: &HostArgs,
    config: &Config,
    environment: &Environment,
    ended: &CancellationToken,
    supervisors: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let backends = backends(config).await?;
    let program = std::env::current_exe().context("can't tell where this program is")?;
    let data = if config.data.as_os_str().is_empty() { environment.data_folder() } else { config.data.clone() };
    let mut processes: Vec<(Role, Process)> = Vec::new();
    for stage in STAGES {
        let mut plans = Vec::new();
        for (role, number) in stage.iter().flat_map(|(role, count)| (1..=*count).map(|number| (*role, number))) {
            let name = format!("{role}-{number}");
            let mut variables = addresses(&processes);
            variables.extend([
                ("RUNMESH_STORE__URI".to_owned(), backends.store.clone()),
                ("RUNMESH_BUS__URI".to_owned(), backends.bus.clone()),
                ("RUNMESH_NODE".to_owned(), name.clone()),
                ("RUNMESH_DATA".to_owned(), data.join("real").join(&name).display().to_string()),
            ]);
            if role == Role::Gateway {
                // With the flag in it, if there is one.
                variables.push((HTTP_LISTEN.to_owned(), config.http.listen.to_string()));
            }
            let arguments = arguments(args, role);
            plans.push((role, Plan { name, program: program.clone(), arguments, variables }));
        }
        // All at once: each takes a moment to join its groups.
        let start = plans.into_iter().map(async |(role, plan)| anyhow::Ok((role, Process::start(plan).await?)));
        processes.extend(futures::future::try_join_all(start).await?);
    }
    announce(args.json, &backends, &processes)?;
    let as_json = args.json;
    let restarted: Arc<dyn Fn(&Process) + Send + Sync> = Arc::new(move |process: &Process| {
        let line = json!({ "restarted": process.name(), "pid": process.pid() });
        // A mesh whose output nobody reads runs all the same.
        let _ = if as_json {
            print::line(line)
        } else {
            print::line(format_args!("{} ended and was started again (pid {})", process.name(), process.pid()))
        };
    });
    for (_, process) in processes {
        supervisors.spawn(process.supervise(Arc::clone(&restarted), ended.clone()));
    }
    Ok(())
}

/// The settings that say where the services of these processes are.
fn addresses(processes: &[(Role, Process)]) -> Vec<(String, String)> {
    let mut addresses: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (role, process) in processes.iter().filter(|(role, _)| !role.services().is_empty()) {
        addresses.entry(role.setting()).or_default().push(process.grpc());
    }
    let setting = |role: String| format!("RUNMESH_SERVICES__{}", role.to_uppercase());
    addresses.into_iter().map(|(role, of_role)| (setting(role), of_role.join(","))).collect()
}

fn arguments(args: &HostArgs, role: Role) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["serve", "--json", "--until-stdin-closes", "--roles", role.as_str()].map(str::to_owned).into();
    if let Some(file) = &args.config.config {
        arguments.extend(["--config".to_owned(), file.display().to_string()]);
    }
    for entry in &args.config.overrides {
        arguments.extend(["--set".to_owned(), entry.clone()]);
    }
    arguments
}

/// The servers of the settings, or the test servers.
async fn backends(config: &Config) -> anyhow::Result<Backends> {
    let named = (store::is_shared(&config.store.uri), config.bus.is_remote());
    match named {
        (true, true) => return Ok(Backends { store: config.store.uri.clone(), bus: config.bus.uri.clone() }),
        (false, false) => {}
        (true, false) => bail!("store.uri names MongoDB; name Kafka too, in bus.uri, or neither"),
        (false, true) => bail!("bus.uri names Kafka; name MongoDB too, in store.uri, or neither"),
    }
    let output = Command::new("cargo")
        .args(["xtask", "servers", "up", "--json"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .await
        .context("can't run cargo, which starts the test servers; name servers of your own by store.uri and bus.uri")?;
    if !output.status.success() {
        bail!(
            "`cargo xtask servers up` failed; it works in a checkout of Runmesh. Elsewhere name servers of your own by \
             store.uri and bus.uri"
        );
    }
    let servers: TestServers =
        serde_json::from_slice(&output.stdout).context("`cargo xtask servers up --json` printed something else")?;
    Ok(Backends { store: servers.mongodb, bus: format!("kafka://{}", servers.kafka) })
}

fn announce(as_json: bool, backends: &Backends, processes: &[(Role, Process)]) -> std::io::Result<()> {
    let http = processes.iter().find_map(|(_, process)| process.http());
    if as_json {
        let list: Vec<Value> = processes
            .iter()
            .map(|(role, process)| {
                json!({
                    "name": process.name(),
                    "role": role.as_str(),
                    "pid": process.pid(),
                    "grpc": process.grpc(),
                    "http": process.http(),
                })
            })
            .collect();
        return print::line(json!({ "http": http, "processes": list }));
    }
    print::line(format_args!("runmesh {} is ready, as {} processes", env!("CARGO_PKG_VERSION"), processes.len()))?;
    print::line(format_args!("  bus           {}", backends.bus))?;
    for (_, process) in processes {
        print::line(format_args!("  {:<13} pid {:<8} gRPC {}", process.name(), process.pid(), process.grpc()))?;
    }
    if let Some(http) = http {
        print::line(format_args!("  page and API  {http}/"))?;
    }
    print::line("Ctrl-C ends them. Try to kill one: it is started again, and nothing is lost.")
}
