//! The developers' commands: `cargo xtask setup | servers | test | lint | guest | bench`.
//!
//! It stands on no crate of Runmesh but the one that starts the test servers, so that it builds in seconds and works while
//! the others don't compile. What the tests need beyond cargo is installed under `target/tools/` and `target/servers/`, and
//! nowhere else.

mod base;
mod bench;
mod guest;
mod interrupt;
mod lint;
mod servers;
mod setup;
mod step;
mod test;

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// The developers' commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks what has to be on the machine, and installs the test tools under target/tools/ and target/servers/.
    Setup,
    /// Starts and stops the servers that tests share: Apache Kafka, and FerretDB for MongoDB's protocol.
    Servers(servers::Arguments),
    /// Runs all tests, or those whose names contain a filter: setup, build, `cargo test --workspace`.
    Test {
        /// Given to `cargo test` as they are: a filter, `--test executions`, `-- --nocapture`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Checks formatting, clippy, the contract (buf) and the dependencies (cargo-deny).
    Lint,
    /// Runs the sandbox's tests in a small Linux guest (QEMU) that has cgroups of version 2 alone.
    Guest(guest::Arguments),
    /// Measures a release build: latency and throughput against bare processes, the event store's append rate.
    Bench {
        /// Given to the benchmark: the names of the parts to run. None: all.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = enter_workspace().and_then(|()| match Arguments::parse().command {
        Command::Setup => setup::run().and_then(|()| runmesh_servers::install().map(drop)),
        Command::Servers(arguments) => servers::run(&arguments),
        Command::Test { arguments } => test::run(&arguments),
        Command::Lint => lint::run(),
        Command::Guest(arguments) => guest::run(&arguments),
        Command::Bench { arguments } => bench::run(&arguments),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            // A command that failed has its own exit code; it is passed on.
            error.downcast_ref::<step::Failed>().map_or(ExitCode::FAILURE, |failed| ExitCode::from(failed.code()))
        }
    }
}

/// Every command works from the workspace's folder, wherever it was called.
fn enter_workspace() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().with_context(|| format!("the workspace is not at {} any more", root.display()))?;
    std::env::set_current_dir(&root).with_context(|| format!("can't enter {}", root.display()))
}
