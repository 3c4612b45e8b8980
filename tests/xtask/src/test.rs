//! `cargo xtask test`.

use runmesh_servers::{Session, unnamed};

use crate::{interrupt::Interrupts, setup, step};

/// Sets up, builds everything, starts the test servers, runs the tests. Their output is inherited, so that their closing
/// lines are seen.
///
/// The servers are ended at the end, also after a failure or an interrupt, unless they ran before.
///
/// # Errors
/// When a prerequisite is missing, something does not compile, a server does not start, or a test fails.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    // Those servers that the environment names are used as they are.
    let servers = unnamed()?;
    setup::run()?;
    if !servers.is_empty() {
        runmesh_servers::install()?;
    }
    // Binaries and tests in one build: a build of the binary alone would enable fewer features of its dependencies and
    // compile them twice. The mesh tests start the binary that is made here.
    step::run(step::cargo().args(["build", "--workspace", "--bins", "--tests", "--locked"]))?;
    let interrupts = Interrupts::listen()?;
    let (session, outcome) = Session::begin(&servers)?;
    eprint!("{outcome}");
    let passed = tests(&interrupts, arguments);
    let ended = session.end();
    passed.and(ended.map(drop))
}

fn tests(interrupts: &Interrupts, arguments: &[String]) -> anyhow::Result<()> {
    if !arguments.is_empty() {
        return interrupts.run(test().args(arguments));
    }
    // The examples in the documentation first: most crates have none, and the last lines should count tests.
    let examples = interrupts.run(test().arg("--doc"));
    let tests = interrupts.run(test().args(["--lib", "--bins", "--tests"]));
    // The end-to-end suite once more, with every mesh on Kafka and a server of MongoDB's protocol.
    let mut suite = test();
    suite.args(["--test", "executions", "--test", "faults", "--test", "foreign"]).env("MESH_TEST_BACKEND", "real");
    let on_servers = interrupts.run(&mut suite);
    examples.and(tests).and(on_servers)
}

fn test() -> std::process::Command {
    let mut command = step::cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    command
}
