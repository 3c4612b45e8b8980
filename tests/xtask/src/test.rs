//! `cargo xtask test`.

use crate::{setup, step};

/// Sets up, builds everything, runs the tests. Their output is inherited, so that their closing lines are seen.
///
/// # Errors
/// When a prerequisite is missing, something does not compile, or a test fails.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    setup::run()?;
    // Binaries and tests in one build: a build of the binary alone would enable fewer features of its dependencies and
    // compile them twice. The mesh tests start the binary that is made here.
    step::run(step::cargo().args(["build", "--workspace", "--bins", "--tests", "--locked"]))?;
    if !arguments.is_empty() {
        return step::run(test().args(arguments));
    }
    // The examples in the documentation first: most crates have none, and the last lines should count tests.
    let examples = step::run(test().arg("--doc"));
    let tests = step::run(test().args(["--lib", "--bins", "--tests"]));
    examples.and(tests)
}

fn test() -> std::process::Command {
    let mut command = step::cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    command
}
