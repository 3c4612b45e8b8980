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
    step::run(step::cargo().args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(arguments))
}
