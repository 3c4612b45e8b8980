//! `cargo xtask servers up | down | status`.

use std::time::SystemTime;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use runmesh_servers::{Kind, Server, State};

/// What to do with the test servers.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
    /// Answers in JSON, on standard output.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Installs and starts them, on free ports of the loopback address. Those that run already are left alone.
    Up,
    /// Ends them and removes their data.
    Down,
    /// Shows them. The exit code is 0 when all of them run.
    Status,
}

/// Does it.
///
/// # Errors
/// When a prerequisite is missing, a server does not start or end, or, for the status, one does not run.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match arguments.action {
        Action::Up => {
            let outcome = runmesh_servers::up(&Kind::ALL)?;
            if arguments.json {
                return print(&json(&outcome.state));
            }
            print!("{outcome}");
        }
        Action::Down => {
            let ended = runmesh_servers::down(&Kind::ALL)?;
            if arguments.json {
                let ended: Vec<String> = ended.iter().map(Kind::to_string).collect();
                return print(&serde_json::json!({ "ended": ended }));
            }
            for kind in Kind::ALL {
                println!("{kind} {}", if ended.contains(&kind) { "has ended" } else { "did not run" });
            }
        }
        Action::Status => {
            let state = runmesh_servers::status()?;
            if arguments.json {
                print(&json(&state))?;
            } else {
                println!("{:10} {:8} {:>8} {:>9} {:>9}  ADDRESS", "SERVER", "STATE", "PID", "UPTIME", "MEMORY");
                Kind::ALL.iter().for_each(|&kind| println!("{}", line(kind, state.get(kind))));
            }
            let missing: Vec<String> = Kind::ALL
                .iter()
                .filter(|&&kind| !state.get(kind).is_some_and(Server::serves))
                .map(Kind::to_string)
                .collect();
            if !missing.is_empty() {
                bail!("not running: {}: `cargo xtask servers up` starts them", missing.join(", "));
            }
        }
    }
    Ok(())
}

fn line(kind: Kind, server: Option<&Server>) -> String {
    let Some(server) = server else { return format!("{:10} {:8}", kind.to_string(), "down") };
    let state = match (server.runs(), server.serves()) {
        (true, true) => "up",
        (true, false) => "silent",
        (false, _) => "dead",
    };
    let memory = server.memory().map(|bytes| format!("{} MiB", bytes >> 20)).unwrap_or_default();
    let uptime = if server.runs() { uptime(server) } else { String::new() };
    format!("{:10} {state:8} {:>8} {uptime:>9} {memory:>9}  {}", kind.to_string(), server.pid, server.uri)
}

fn uptime(server: &Server) -> String {
    let seconds = SystemTime::now().duration_since(server.started).map_or(0, |duration| duration.as_secs());
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

/// `kafka` and `mongodb` are what clients need: the bootstrap address and the URI, or null. `runmesh dev --real` reads them.
fn json(state: &State) -> serde_json::Value {
    let address = |kind| state.get(kind).filter(|server| server.serves()).map(|server| server.uri.clone());
    let servers: serde_json::Map<_, _> = Kind::ALL
        .iter()
        .filter_map(|&kind| {
            let server = state.get(kind)?;
            let started = server.started.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let shown = serde_json::json!({
                "serves": server.serves(), "uri": server.uri, "pid": server.pid, "started": started,
                "memory_bytes": server.memory(), "log": server.log,
            });
            Some((kind.to_string(), shown))
        })
        .collect();
    serde_json::json!({
        "kafka": address(Kind::Kafka), "mongodb": address(Kind::MongoDb), "servers": servers,
    })
}

fn print(value: &serde_json::Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value).context("the answer as JSON")?);
    Ok(())
}
