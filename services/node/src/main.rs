//! The binary `runmesh`. It alone reads the environment and the arguments, installs signals, and sets globals.

use std::process::ExitCode;

use clap::Parser as _;
use runmesh_node::{Cli, Environment, command};

fn main() -> ExitCode {
    // The node starts this program again to make sandboxes.
    runmesh_runner::run_sandbox_helper_if_asked();
    let environment = Environment::of_process();
    let cli = Cli::parse();
    command::main(cli, &environment)
}
