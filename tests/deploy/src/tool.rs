//! The programs that `cargo xtask setup` installs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

/// The repository's folder.
pub fn repository() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    path.canonicalize().unwrap_or(path)
}

/// A tool below `target/tools/`, such as `bin/helm`.
///
/// # Errors
/// When it is not there: a test that needs it must fail, not pass without having tested anything.
pub fn tool(path: &str) -> anyhow::Result<PathBuf> {
    let file = repository().join("target/tools").join(path);
    ensure!(file.exists(), "target/tools/{path} is missing: run `cargo xtask setup`");
    Ok(file)
}

/// Runs a program in the repository's folder and returns what it prints on standard output.
///
/// # Errors
/// When it can't be started, or fails; then with all that it printed.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.current_dir(repository()).output().with_context(|| format!("can't start {command:?}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{}: {printed}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(printed)
}

/// What `deploy-check` says about a file, as JSON.
///
/// # Errors
/// When the file is not what it should be.
pub fn deploy_check(arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
    let printed = run(Command::new(tool("bin/deploy-check")?).args(arguments))?;
    serde_json::from_str(&printed).context("deploy-check printed no JSON")
}
