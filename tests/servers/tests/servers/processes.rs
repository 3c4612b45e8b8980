//! What is left of a server.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::ensure;

const PATIENCE: Duration = Duration::from_secs(60);

/// The processes whose command line names this folder, dead ones that nobody has waited for not among them.
pub(crate) fn of(folder: &Path) -> Vec<u32> {
    let name = folder.as_os_str().as_encoded_bytes();
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            line.windows(name.len()).any(|part| part == name)
        })
        .collect()
}

/// Neither process nor folder is there.
pub(crate) fn nothing_is_left(folder: &Path) -> anyhow::Result<()> {
    ensure!(of(folder).is_empty(), "processes {:?} are left of {}", of(folder), folder.display());
    ensure!(!folder.exists(), "{} is left", folder.display());
    Ok(())
}

/// Waits for a condition.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    let since = Instant::now();
    while !condition() {
        ensure!(since.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
