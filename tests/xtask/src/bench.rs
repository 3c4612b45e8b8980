//! `cargo xtask bench`: the benchmark is `tests/mesh/benches/mesh.rs`; it starts the release build of the binary.

use crate::step;

/// The node, and the helper that it finds beside itself.
const BUILD: [&str; 8] =
    ["build", "--release", "--locked", "--package", "runmesh-node", "--package", "runmesh-runner", "--bins"];

/// Builds what is measured and measures it.
///
/// # Errors
/// When something does not compile, or the benchmark fails.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    step::run(step::cargo().args(BUILD))?;
    step::run(
        step::cargo()
            .args(["bench", "--locked", "--package", "runmesh-mesh-tests", "--bench", "mesh", "--"])
            .args(arguments),
    )
}
