//! The foreign clients that `cargo xtask setup` installs.

use std::path::{Path, PathBuf};

use anyhow::ensure;

/// The repository's folder.
pub fn repository() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    path.canonicalize().unwrap_or(path)
}

/// A tool below `target/tools/`, such as `bin/grpcurl`.
///
/// # Errors
/// When it is not there: a test that needs it must fail, not pass without having tested anything.
pub fn tool(path: &str) -> anyhow::Result<PathBuf> {
    let file = repository().join("target/tools").join(path);
    ensure!(file.exists(), "target/tools/{path} is missing: run `cargo xtask setup`");
    Ok(file)
}

/// The Python that has grpcio and grpcio-tools.
///
/// # Errors
/// As [`tool`].
pub fn python() -> anyhow::Result<PathBuf> {
    tool("python/bin/python")
}
