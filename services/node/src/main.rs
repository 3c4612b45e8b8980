//! The binary `runmesh`. It alone reads the environment and the arguments, installs signals, and sets globals.

use std::process::ExitCode;

use clap::Parser as _;
use runmesh_node::{Cli, Environment, command};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tikv_jemallocator::Jemalloc;

/// The C libraries in this program, SQLite above all, take their memory from it too (docs/performance.md).
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// As many open files as this process may have: the soft limit of a login is far lower, for programs that use `select`.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where that is refused, what there is has to do.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).ok();
}

fn main() -> ExitCode {
    // The node starts this program again to make sandboxes.
    runmesh_runner::run_sandbox_helper_if_asked();
    raise_open_files();
    let environment = Environment::of_process();
    let cli = Cli::parse();
    command::main(cli, &environment)
}
