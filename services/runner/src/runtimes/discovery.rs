//! Finds executables by their names, and asks them for their versions.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::StreamExt;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::cache::Cache;
use super::registry::{Language, Registry};
use super::version::Version;
use super::{Runtime, Search};

/// How long an interpreter may take to say its version: long enough for a JVM on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause before one that is just being written is asked again.
const BUSY: Duration = Duration::from_millis(10);
/// How many are asked at once.
const AT_ONCE: usize = 8;

struct Candidate<'a> {
    language: &'a Language,
    program: String,
    metadata: Metadata,
}

impl Candidate<'_> {
    /// A command with the executable's path and folder filled in.
    fn fill(&self, command: &[String]) -> Vec<String> {
        let bin = self.program.rsplit_once('/').map_or("", |(folder, _)| folder);
        command.iter().map(|part| part.replace("{program}", &self.program).replace("{bin}", bin)).collect()
    }
}

pub(super) async fn discover(registry: &Registry, search: &Search) -> Vec<Runtime> {
    let mut cache = Cache::load(search.cache.as_ref());
    let candidates: Vec<Candidate<'_>> =
        registry.languages.iter().flat_map(|language| candidates(language, search)).collect();
    let known: Vec<Option<Version>> =
        candidates.iter().map(|candidate| cache.get(&candidate.program, &candidate.metadata)).collect();
    let asked = candidates.into_iter().zip(known).map(|(candidate, known)| async move {
        match known {
            Some(version) => (candidate, Some(version), false),
            None => {
                let version = ask(&candidate).await;
                (candidate, version, true)
            }
        }
    });
    let answers: Vec<_> = futures::stream::iter(asked).buffered(AT_ONCE).collect().await;
    let mut found = Vec::new();
    for (candidate, version, fresh) in answers {
        let Some(version) = version else { continue };
        if fresh {
            cache.put(&candidate.program, &candidate.metadata, &version);
        }
        found.push((candidate, version));
    }
    cache.store(search.cache.as_ref());
    registry.languages.iter().flat_map(|language| runtimes_of(language, &found, search)).collect()
}

/// Newest first; of several with one version, the first that was found.
fn runtimes_of(language: &Language, found: &[(Candidate<'_>, Version)], search: &Search) -> Vec<Runtime> {
    let mut seen = HashSet::new();
    let mut runtimes: Vec<Runtime> = found
        .iter()
        .filter(|(candidate, version)| candidate.language.name == language.name && seen.insert(version.clone()))
        .map(|(candidate, version)| Runtime {
            language: language.name.clone(),
            display: language.display.clone(),
            version: version.clone(),
            default: false,
            file_name: language.file_name.clone(),
            program: PathBuf::from(&candidate.program),
            home: search.home.clone(),
            command: candidate.fill(&language.command),
            compile: candidate.fill(&language.compile),
            compile_environment: language.compile_environment.clone(),
            fill_cache: candidate.fill(&language.fill_cache),
            prepared: language.is_prepared(version),
        })
        .collect();
    runtimes.sort_by(|one, other| other.version.cmp(&one.version));
    if let Some(newest) = runtimes.first_mut() {
        newest.default = true;
    }
    runtimes
}

/// The executables that may be interpreters of a language, each once and by its real path.
fn candidates<'a>(language: &'a Language, search: &Search) -> Vec<Candidate<'a>> {
    let in_path = std::env::split_paths(&search.path).filter(|folder| folder.is_absolute());
    let others = language.folders.iter().flat_map(|pattern| expand(pattern, search.home.as_deref()));
    let mut seen = HashSet::new();
    in_path
        .chain(others)
        .filter(|folder| seen.insert(folder.clone()))
        .flat_map(|folder| executables(language, &folder))
        .collect::<Vec<_>>()
        .into_iter()
        .filter_map(|path| candidate(language, &path))
        .filter(|candidate| seen.insert(PathBuf::from(&candidate.program)))
        .collect()
}

/// The files of a folder that have one of the names. Listing the folder is only needed for names with digits.
fn executables(language: &Language, folder: &Path) -> Vec<PathBuf> {
    let (patterns, names): (Vec<&String>, Vec<&String>) =
        language.executables.iter().partition(|name| name.contains('#'));
    let mut found: Vec<PathBuf> = names.into_iter().map(|name| folder.join(name)).collect();
    if !patterns.is_empty()
        && let Ok(entries) = fs::read_dir(folder)
    {
        let matches = |name: &str| patterns.iter().any(|pattern| matches_digits(pattern, name));
        found.extend(
            entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(matches)).map(|entry| entry.path()),
        );
    }
    found
}

/// Whether a name is the pattern with each `#` replaced by digits.
fn matches_digits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('#') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            digits > 0 && matches_digits(after, &rest[digits..])
        }),
    }
}

fn candidate<'a>(language: &'a Language, path: &Path) -> Option<Candidate<'a>> {
    let program = path.canonicalize().ok()?;
    let metadata = fs::metadata(&program).ok()?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 || is_script(&program) {
        return None;
    }
    if program.file_name().is_some_and(|name| language.shims.iter().any(|shim| name == shim.as_str())) {
        return None;
    }
    let candidate = Candidate { language, program: program.into_os_string().into_string().ok()?, metadata };
    // A version is remembered, so what else has to be there is looked for each time.
    let complete = candidate.fill(&language.requires).iter().all(|path| Path::new(path).exists());
    complete.then_some(candidate)
}

fn is_script(program: &Path) -> bool {
    let mut start = [0; 2];
    File::open(program).and_then(|mut file| file.read_exact(&mut start)).is_ok() && &start == b"#!"
}

/// The folders that a pattern with `~` and `*` stands for.
fn expand(pattern: &str, home: Option<&Path>) -> Vec<PathBuf> {
    let (start, rest) = match (pattern.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => (home.to_owned(), rest),
        (Some(_), None) => return Vec::new(),
        (None, _) => (PathBuf::from("/"), pattern.trim_start_matches('/')),
    };
    rest.split('/').fold(vec![start], |folders, part| {
        if part != "*" {
            return folders.into_iter().map(|folder| folder.join(part)).collect();
        }
        let mut inside: Vec<PathBuf> = folders
            .iter()
            .filter_map(|folder| fs::read_dir(folder).ok())
            .flat_map(|entries| entries.flatten())
            .map(|entry| entry.path())
            .collect();
        inside.sort();
        inside
    })
}

async fn ask(candidate: &Candidate<'_>) -> Option<Version> {
    let mut command = Command::new(&candidate.program);
    command.args(&candidate.language.version).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let asked = async {
        loop {
            match command.output().await {
                // It was written a moment ago, and another process may hold the writer's descriptor until its own exec.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => sleep(BUSY).await,
                answer => return answer,
            }
        }
    };
    let output = match timeout(PATIENCE, asked).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            tracing::warn!(program = candidate.program, %error, "a runtime can't be started");
            return None;
        }
        Err(_) => {
            tracing::warn!(program = candidate.program, "a runtime does not say its version in time");
            return None;
        }
    };
    // Some say it on standard error.
    let words = [&output.stdout, &output.stderr].map(|output| String::from_utf8_lossy(output));
    if candidate.language.unwanted.iter().any(|unwanted| words.iter().any(|words| words.contains(unwanted))) {
        return None;
    }
    let version = words.iter().find_map(|words| Version::find_in(words)).filter(|_| output.status.success());
    if version.is_none() {
        tracing::warn!(program = candidate.program, status = %output.status, "a runtime does not say its version");
    }
    version
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_digits() {
        for name in ["python3.9", "python3.11"] {
            assert!(matches_digits("python3.#", name), "{name}");
        }
        for name in ["python3", "python3.", "python3.x", "python3.11-config", "xpython3.1"] {
            assert!(!matches_digits("python3.#", name), "{name}");
        }
        assert!(matches_digits("lua#.#", "lua5.4") && !matches_digits("lua#.#", "luac5.4"));
    }
}
