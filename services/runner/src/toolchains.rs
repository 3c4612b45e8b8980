//! What compilers need beside the program: environment variables, and caches that are filled once.
//!
//! A cache holds what a compiler makes of its own standard library. It is filled outside of any sandbox, from nothing but
//! the compiler's own files, and sandboxes see it read-only.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{process::Command, sync::Mutex, time::timeout};

use crate::{Runtime, Runtimes};

/// Stands for the folder of a cache.
const CACHE: &str = "{cache}";
/// How long it may take to fill one.
const PATIENCE: Duration = Duration::from_secs(600);
/// Begins the name of a cache that is being filled.
const PARTIAL: &str = ".partial-";
/// After which time nobody fills it any more.
const STALE: Duration = Duration::from_secs(3_600);

/// The compilers of this machine, and their caches.
#[derive(Debug)]
pub struct Toolchains {
    runtimes: Arc<Runtimes>,
    caches: PathBuf,
    /// Held while a cache is filled: others of this node wait for it.
    filling: Arc<Mutex<()>>,
}

/// A compiler can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ToolchainError {
    /// The runtime that compiles it is not here.
    #[error("{language} {version} is not on this machine")]
    Missing {
        /// The language.
        language: String,
        /// The version.
        version: String,
    },
    /// The folder of caches can't be used.
    #[error("the folder of compilers' caches {}: {source}", path.display())]
    Folder {
        /// The folder, or what is in it.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The command that fills a cache failed.
    #[error("the cache of {language} {version} could not be filled: {reason}")]
    Fill {
        /// The language.
        language: String,
        /// The version.
        version: String,
        /// What it said.
        reason: String,
    },
}

impl Toolchains {
    /// The compilers of these runtimes, with caches in this folder, which is made if it is missing. Nodes may share it.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn open(runtimes: Arc<Runtimes>, caches: impl Into<PathBuf>) -> Result<Self, ToolchainError> {
        let caches = caches.into();
        fs::create_dir_all(&caches).map_err(failed(&caches))?;
        // Real, as it is seen in a sandbox.
        let caches = caches.canonicalize().map_err(failed(&caches))?;
        Ok(Self { runtimes, caches, filling: Arc::default() })
    }

    /// What sandboxes have to show of this machine, beside the system's own folders.
    pub fn readable(&self) -> Vec<PathBuf> {
        let mut paths = self.runtimes.folders();
        paths.push(self.caches.clone());
        paths
    }

    /// The environment of a compiler. The first call for one with a cache fills it, which can take a minute.
    ///
    /// # Errors
    /// When it is not here, or its cache can't be filled.
    pub(crate) async fn environment(
        &self,
        language: &str,
        version: &str,
    ) -> Result<BTreeMap<String, String>, ToolchainError> {
        let runtime = self
            .runtimes
            .resolve(language, version)
            .map_err(|_| ToolchainError::Missing { language: language.to_owned(), version: version.to_owned() })?;
        if runtime.fill_cache.is_empty() {
            return Ok(runtime.compile_environment.clone());
        }
        let cache = self.caches.join(format!("{language}-{}", runtime.version));
        let filling = Arc::clone(&self.filling).lock_owned().await;
        if !cache.is_dir() {
            let (runtime, caches, cache) = (runtime.clone(), self.caches.clone(), cache.clone());
            // It goes on if nobody waits for it any more: whoever comes next finds it further on, or there.
            let filled = tokio::spawn(async move {
                let filled = fill(&runtime, &caches, &cache).await;
                drop(filling);
                filled
            });
            filled.await.map_err(|error| ToolchainError::Fill {
                language: language.to_owned(),
                version: version.to_owned(),
                reason: error.to_string(),
            })??;
        }
        Ok(environment(runtime, &cache))
    }
}

/// Fills a cache.
async fn fill(runtime: &Runtime, caches: &Path, cache: &Path) -> Result<(), ToolchainError> {
    remove_stale(caches);
    let partial = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(caches);
    let partial = partial.map_err(failed(caches))?;
    tracing::info!(language = runtime.language, version = %runtime.version, "filling a compiler's cache, once");
    let filled = partial.path().join("cache");
    let fill_error = |reason: String| ToolchainError::Fill {
        language: runtime.language.clone(),
        version: runtime.version.to_string(),
        reason,
    };
    let (program, arguments) =
        runtime.fill_cache.split_first().ok_or_else(|| fill_error("there is no command for it".to_owned()))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", partial.path())
        .env("TMPDIR", partial.path())
        .envs(environment(runtime, &filled))
        .current_dir(partial.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await;
    let output = output
        .map_err(|_| fill_error(format!("it took longer than {} s", PATIENCE.as_secs())))?
        .map_err(|error| fill_error(format!("{program}: {error}")))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(fill_error(format!("{}: {}", output.status, words.trim())));
    }
    // Scripts have other users than this node.
    fs::set_permissions(&filled, fs::Permissions::from_mode(0o755)).map_err(failed(&filled))?;
    match fs::rename(&filled, cache) {
        // Another node was faster.
        Err(_) if cache.is_dir() => Ok(()),
        other => other.map_err(failed(cache)),
    }
}

/// Removes what a node that was killed has begun.
fn remove_stale(caches: &Path) {
    let entries = fs::read_dir(caches).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PARTIAL)) {
        let age =
            entry.metadata().and_then(|metadata| metadata.modified()).map(|at| SystemTime::now().duration_since(at));
        if matches!(age, Ok(Ok(age)) if age > STALE) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn environment(runtime: &Runtime, cache: &Path) -> BTreeMap<String, String> {
    let cache = cache.to_string_lossy();
    let fill = |value: &String| value.replace(CACHE, &cache);
    runtime.compile_environment.iter().map(|(name, value)| (name.clone(), fill(value))).collect()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ToolchainError {
    let path = path.to_owned();
    move |source| ToolchainError::Folder { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Search;

    #[tokio::test]
    async fn a_cache_is_filled_once_though_those_who_wait_for_it_go_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let (log, go) = (path("log"), path("go"));
        // Notes that it was begun, and waits.
        let script = format!("echo begun >> {log}; until [ -e {go} ]; do sleep 0.02; done; mkdir \"$CACHE\"");
        let registry = format!(
            "[[language]]\nname = \"x\"\ndisplay = \"X\"\nfile_name = \"x\"\nexecutables = [\"bash\"]\n\
             version = [\"--version\"]\ncompile = [\"{{program}}\", \"{{file}}\", \"{{build}}\"]\n\
             command = [\"{{build}}/x\"]\ncompile_environment = {{ CACHE = \"{{cache}}\" }}\n\
             fill_cache = [\"/bin/sh\", \"-c\", '''{script}''']\n"
        );
        fs::write(folder.path().join("registry.toml"), registry).unwrap();
        let search = Search {
            registry: Some(folder.path().join("registry.toml")),
            path: "/usr/bin:/bin".into(),
            ..Search::default()
        };
        let runtimes = Arc::new(Runtimes::discover(&search).await.unwrap());
        let toolchains = Toolchains::open(runtimes, folder.path().join("caches")).unwrap();
        let begun = || fs::read_to_string(&log).unwrap_or_default().lines().count();
        // Given up as soon as it is being filled.
        let given_up = async {
            while begun() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = given_up => {}
            filled = toolchains.environment("x", "") => panic!("{filled:?}"),
        }
        fs::write(&go, "").unwrap();
        let environment = toolchains.environment("x", "").await.unwrap();
        assert!(Path::new(&environment["CACHE"]).is_dir(), "{environment:?}");
        assert_eq!(begun(), 1);
    }
}
