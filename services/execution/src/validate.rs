//! What a spec has to be like. Every violation is collected, so that a client sees all of them at once.

mod cases;
mod limits;

use std::collections::BTreeSet;

use runmesh_proto::{
    event::{QueuePriority, RunnerLoss},
    execution::{ExecutionSpec, Runtime},
};
use runmesh_rpc::Violation;

use crate::{ExecutionConfig, error::ExecutionError, service::Runtimes};

/// How often an execution is run again after the loss of a runner, if nothing else is asked for, and at most.
const DEFAULT_RETRIES: i32 = 3;
const MOST_RETRIES: i32 = 10;

/// The greatest number of arguments, environment variables or labels.
const MAX_ENTRIES: usize = 128;
/// The greatest number of bytes of all arguments and environment variables together.
const MAX_ENTRIES_BYTES: usize = 64 << 10;
/// The greatest number of labels, and of characters in a label's key or value.
const MAX_LABELS: (usize, usize) = (32, 63);
/// The greatest number of bytes in a path.
const MAX_PATH_BYTES: usize = 255;
/// The greatest number of parts of a path.
const MAX_PATH_PARTS: usize = 32;
/// The folder where compilers leave programs.
const RESERVED: &str = ".runmesh";

/// Checks a spec, fills in every default, and finds its runtime.
pub(crate) fn spec(
    mut spec: ExecutionSpec,
    config: &ExecutionConfig,
    runtimes: &dyn Runtimes,
) -> Result<(ExecutionSpec, Runtime), ExecutionError> {
    let mut violations = Vec::new();
    let runtime = runtime(&spec, runtimes, &mut violations);
    sources(&spec, runtime.as_ref(), config, &mut violations);
    arguments(&spec, &mut violations);
    labels(&spec, &mut violations);
    cases::check(&mut spec, config, &mut violations);
    limits::fill(&mut spec, runtime.as_ref(), config, &mut violations);
    match QueuePriority::try_from(spec.priority) {
        Ok(QueuePriority::Unspecified) => spec.set_priority(QueuePriority::Normal),
        Ok(_) => {}
        Err(_) => violations.push(Violation::new("spec.priority", "is not a priority that is known here")),
    }
    runner_loss(&mut spec, &mut violations);
    match runtime {
        Some(runtime) if violations.is_empty() => {
            // A language may have been named by an alias.
            spec.language.clone_from(&runtime.language);
            Ok((spec, runtime))
        }
        _ => Err(ExecutionError::Invalid(violations)),
    }
}

fn runtime(spec: &ExecutionSpec, runtimes: &dyn Runtimes, violations: &mut Vec<Violation>) -> Option<Runtime> {
    if let Some(found) = runtimes.resolve(&spec.language, &spec.language_version) {
        return Some(found);
    }
    let known = runtimes.list();
    let name = runtimes.name_of(&spec.language).unwrap_or_else(|| spec.language.clone());
    let of_language: Vec<&Runtime> = known.iter().filter(|runtime| runtime.language == name).collect();
    if of_language.is_empty() {
        let languages: BTreeSet<&str> = known.iter().map(|runtime| runtime.language.as_str()).collect();
        let languages: Vec<&str> = languages.into_iter().collect();
        let missing = runtimes.unavailable().into_iter().find(|missing| missing.language == name);
        let what = match missing {
            _ if spec.language.is_empty() => "is missing".to_owned(),
            None => format!("{:?} is not known", spec.language),
            Some(missing) if missing.package.is_empty() => format!("{:?} is not installed here", spec.language),
            Some(missing) => {
                let (language, package) = (&spec.language, missing.package);
                format!("{language:?} is not installed here; on Debian the package {package} brings it")
            }
        };
        violations.push(Violation::new("spec.language", format!("{what}; one of: {}", languages.join(", "))));
    } else {
        let versions: Vec<&str> = of_language.iter().map(|runtime| runtime.version.as_str()).collect();
        violations.push(Violation::new(
            "spec.language_version",
            format!("{:?} of {} is not known; one of: {}", spec.language_version, spec.language, versions.join(", ")),
        ));
    }
    None
}

fn runner_loss(spec: &mut ExecutionSpec, violations: &mut Vec<Violation>) {
    let Ok(choice) = RunnerLoss::try_from(spec.on_runner_loss) else {
        return violations.push(Violation::new("spec.on_runner_loss", "is not a choice that is known here"));
    };
    let retries = spec.maximum_retries;
    match choice {
        RunnerLoss::Unspecified | RunnerLoss::Fail => {
            spec.set_on_runner_loss(RunnerLoss::Fail);
            if retries != 0 {
                let words = format!("is {retries}, but spec.on_runner_loss is not RUNNER_LOSS_RETRY");
                violations.push(Violation::new("spec.maximum_retries", words));
            }
        }
        RunnerLoss::Retry if !spec.cases.is_empty() => {
            let words = "is RUNNER_LOSS_RETRY, which spec.cases can't be combined with";
            violations.push(Violation::new("spec.on_runner_loss", words));
        }
        RunnerLoss::Retry if retries == 0 => spec.maximum_retries = DEFAULT_RETRIES,
        RunnerLoss::Retry if (1..=MOST_RETRIES).contains(&retries) => {}
        RunnerLoss::Retry => {
            let words = format!("is {retries}; it has to be 1 to {MOST_RETRIES}");
            violations.push(Violation::new("spec.maximum_retries", words));
        }
    }
}

fn sources(spec: &ExecutionSpec, runtime: Option<&Runtime>, config: &ExecutionConfig, violations: &mut Vec<Violation>) {
    if spec.script.is_empty() && spec.files.is_empty() {
        violations.push(Violation::new("spec.script", "is empty and there are no files: there is nothing to run"));
    }
    let stdin = spec.stdin.len() as u64;
    let files: u64 = spec.files.iter().map(|file| file.content.len() as u64).sum();
    let cases: u64 = spec.cases.iter().map(cases::size).sum();
    let total = spec.script.len() as u64 + files + stdin + cases;
    if total > config.maximum_source_bytes {
        let script = spec.script.len() as u64;
        let largest = [("spec.script", script), ("spec.files", files), ("spec.stdin", stdin), ("spec.cases", cases)];
        let field = largest.iter().max_by_key(|(_, size)| *size).map_or("spec.script", |(field, _)| field);
        violations.push(Violation::new(
            field,
            format!(
                "script, files, stdin and cases have {total} bytes together; the most is {}",
                config.maximum_source_bytes
            ),
        ));
    }
    if spec.files.len() > config.maximum_files {
        violations.push(Violation::new(
            "spec.files",
            format!("there are {}; the most is {}", spec.files.len(), config.maximum_files),
        ));
    }
    let mut seen = BTreeSet::new();
    for (index, file) in spec.files.iter().enumerate() {
        let field = format!("spec.files[{index}].path");
        match path(&file.path) {
            Err(reason) => violations.push(Violation::new(field, reason)),
            Ok(()) if !seen.insert(file.path.as_str()) => {
                violations.push(Violation::new(field, format!("{:?} is there twice", file.path)));
            }
            Ok(()) => {}
        }
    }
    if !spec.entrypoint.is_empty() {
        entrypoint(spec, &seen, violations);
    } else if let Some(runtime) = runtime.filter(|_| !spec.script.is_empty()) {
        // The script is a file too, under the language's own name.
        if !seen.insert(&runtime.file_name) {
            violations.push(Violation::new(
                "spec.files",
                format!("{:?} is the file of the script; name another in entrypoint", runtime.file_name),
            ));
        }
    }
    if !spec.script.is_empty() && !spec.entrypoint.is_empty() {
        seen.insert(&spec.entrypoint);
    }
    if let Some((inner, outer)) = seen.iter().find_map(|path| {
        let outer = path.match_indices('/').map(|(end, _)| &path[..end]).find(|folder| seen.contains(folder))?;
        Some((path, outer))
    }) {
        violations.push(Violation::new("spec.files", format!("{outer:?} is a file and the folder of {inner:?}")));
    }
}

fn entrypoint(spec: &ExecutionSpec, files: &BTreeSet<&str>, violations: &mut Vec<Violation>) {
    if let Err(reason) = path(&spec.entrypoint) {
        violations.push(Violation::new("spec.entrypoint", reason));
    } else if spec.script.is_empty() && !files.contains(spec.entrypoint.as_str()) {
        violations.push(Violation::new("spec.entrypoint", format!("{:?} is not one of the files", spec.entrypoint)));
    } else if !spec.script.is_empty() && files.contains(spec.entrypoint.as_str()) {
        violations.push(Violation::new("spec.entrypoint", "names one of the files, but there is a script too"));
    }
}

/// Checks that a path stays inside the working folder.
fn path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("is empty".to_owned());
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("has {} bytes; the most is {MAX_PATH_BYTES}", path.len()));
    }
    if path.split('/').count() > MAX_PATH_PARTS {
        return Err(format!("{path:?} has more than {MAX_PATH_PARTS} parts"));
    }
    if path.starts_with('/') {
        return Err(format!("{path:?} is absolute"));
    }
    if path.chars().any(|c| c == '\\' || c.is_control()) {
        return Err(format!("{path:?} has a backslash or a control character"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("{path:?} climbs out of the working folder"));
    }
    if path.split('/').any(|part| part.is_empty() || part == ".") {
        return Err(format!("{path:?} has an empty part or a \".\""));
    }
    if path.split('/').next() == Some(RESERVED) {
        return Err(format!("{path:?} is in a folder that the runner keeps for itself"));
    }
    Ok(())
}

fn arguments(spec: &ExecutionSpec, violations: &mut Vec<Violation>) {
    for (field, count) in [("spec.args", spec.args.len()), ("spec.environment", spec.environment.len())] {
        if count > MAX_ENTRIES {
            violations.push(Violation::new(field, format!("has {count} entries; the most is {MAX_ENTRIES}")));
        }
    }
    let environment: usize = spec.environment.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    let total = environment + spec.args.iter().map(|arg| arg.len() + 1).sum::<usize>();
    if total > MAX_ENTRIES_BYTES {
        violations.push(Violation::new(
            "spec.args",
            format!("args and environment have {total} bytes together; the most is {MAX_ENTRIES_BYTES}"),
        ));
    }
    for (index, arg) in spec.args.iter().enumerate() {
        if arg.contains('\0') {
            violations.push(Violation::new(format!("spec.args[{index}]"), "has a NUL character"));
        }
    }
    for (name, value) in &spec.environment {
        let field = || format!("spec.environment[{name:?}]");
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_name) {
            violations.push(Violation::new(field(), "is not a name: letters, digits and \"_\", no digit first"));
        } else if name.starts_with("RUNMESH_") || name.starts_with("LD_") {
            violations.push(Violation::new(field(), "is a name that the runner keeps for itself"));
        }
        if value.contains('\0') {
            violations.push(Violation::new(field(), "has a NUL character"));
        }
    }
}

fn labels(spec: &ExecutionSpec, violations: &mut Vec<Violation>) {
    let (most, length) = MAX_LABELS;
    if spec.labels.len() > most {
        violations
            .push(Violation::new("spec.labels", format!("has {} entries; the most is {most}", spec.labels.len())));
    }
    for (key, value) in &spec.labels {
        if key.is_empty() || key.contains('=') {
            violations.push(Violation::new(format!("spec.labels[{key:?}]"), "has an empty key or one with \"=\""));
        }
        if key.chars().count() > length || value.chars().count() > length {
            violations.push(Violation::new(
                format!("spec.labels[{key:?}]"),
                format!("has a key or a value of more than {length} characters"),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn paths_stay_inside_the_working_folder() {
        for good in ["a", "a/b.txt", "..a/b..", "ä/ö"] {
            assert_eq!(path(good), Ok(()), "{good}");
        }
        for bad in ["", "/etc/passwd", "..", "a/../b", "a//b", "./a", "a/", "a\\b", "a\0b", "a\nb", ".runmesh/a"] {
            assert!(path(bad).is_err(), "{bad:?}");
        }
    }
}
