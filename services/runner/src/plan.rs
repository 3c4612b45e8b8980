//! What a request asks the sandbox for: to compile a program, to run it, to run it on a case.

use std::time::Duration;

use runmesh_events::from_duration;
use runmesh_proto::event::{CompileStep, ExecutionRequested, RunCase};

use crate::{Collect, Limits, RunSpec, SourceFile, receipt::positive};

/// The folder below the working folder where a compiler leaves the program.
const BUILD: &str = ".runmesh";

/// A file that makes the folder be there.
const KEEP: &str = ".runmesh/.keep";

/// The greatest number of files of a compiled program, and of their bytes together.
const PROGRAM: (usize, u64) = (1_000, 64 << 20);

/// What a file takes is a multiple of this.
const PAGE: u64 = 4_096;

/// The heap of a runtime that wants to know it, where memory has no limit.
const HEAP_MIB: u64 = 384;

/// The run of the program, or of the script itself.
pub(crate) fn run_spec(request: &ExecutionRequested, attempt: u32) -> RunSpec {
    let mut command = command(&request.runtime_command, request, memory_bytes(&request.memory_limit));
    command.extend(request.args.iter().cloned());
    RunSpec {
        command,
        stdin: request.stdin.clone(),
        environment: request.environment.clone(),
        limits: Limits {
            wall_time: wall_time(request.timeout.as_ref()),
            output_bytes: u64::try_from(request.output_limit_bytes).unwrap_or_default(),
            memory_bytes: memory_bytes(&request.memory_limit),
            cpu_millis: cpu_millis(&request.cpu_limit),
            cpu_time: request.cpu_time_limit.as_ref().and_then(from_duration),
            processes: positive(request.process_limit),
            disk_bytes: positive(request.disk_limit_bytes),
            file_bytes: positive(request.file_limit_bytes),
        },
        ..base(request, attempt)
    }
}

/// The step that compiles it.
pub(crate) fn compile_spec(request: &ExecutionRequested, step: &CompileStep, attempt: u32) -> RunSpec {
    let memory = memory_bytes(&step.memory_limit);
    let mut spec = RunSpec {
        part: "compile".to_owned(),
        command: command(&step.command, request, memory),
        limits: Limits {
            wall_time: wall_time(step.timeout.as_ref()),
            output_bytes: u64::try_from(step.output_limit_bytes).unwrap_or_default(),
            memory_bytes: memory,
            cpu_millis: cpu_millis(&step.cpu_limit),
            cpu_time: step.cpu_time_limit.as_ref().and_then(from_duration),
            processes: positive(step.process_limit),
            disk_bytes: positive(step.disk_limit_bytes),
            file_bytes: positive(step.file_limit_bytes),
        },
        collect: Some(Collect { folder: BUILD.to_owned(), files: PROGRAM.0, bytes: PROGRAM.1 }),
        ..base(request, attempt)
    };
    spec.files.push(SourceFile { path: KEEP.to_owned(), content: "".into() });
    spec
}

/// What a compiler made, without what only made its folder.
pub(crate) fn program(collected: Vec<SourceFile>) -> Vec<SourceFile> {
    collected.into_iter().filter(|file| file.path != KEEP).collect()
}

/// Whether these files leave a run with these limits no room, in words: they are in the working folder, which is memory.
pub(crate) fn too_large<'a>(limits: &Limits, files: impl Iterator<Item = &'a SourceFile>) -> Option<String> {
    let bytes: u64 = files.map(|file| (file.content.len() as u64).next_multiple_of(PAGE)).sum();
    let limits = [("disk_bytes", limits.disk_bytes), ("memory_bytes", limits.memory_bytes)];
    let (name, limit) =
        limits.into_iter().find_map(|(name, limit)| Some((name, limit.filter(|limit| bytes > *limit)?)))?;
    Some(format!("the program and its files take {bytes} bytes, more than {name} of its run, {limit}"))
}

/// A run on one of its cases, numbered from 1, in at most this time.
pub(crate) fn case_spec(run: &RunSpec, case: &RunCase, number: usize, wall_time: Duration) -> RunSpec {
    let mut spec = RunSpec { part: format!("case-{number}"), stdin: case.stdin.clone(), ..run.clone() };
    spec.command.extend(case.args.iter().cloned());
    spec.limits.wall_time = wall_time;
    if case.memory_bytes > 0 {
        spec.limits.memory_bytes = u64::try_from(case.memory_bytes).ok();
    }
    spec
}

/// Whether a case has limits of its own.
pub(crate) fn has_limits(case: &RunCase) -> bool {
    case.memory_bytes > 0 || own_wall_time(case).is_some()
}

/// The wall-clock limit that a case has of its own.
pub(crate) fn own_wall_time(case: &RunCase) -> Option<Duration> {
    case.wall_time.as_ref().and_then(from_duration).filter(|time| !time.is_zero())
}

/// The files of the script, and nothing to do with them.
fn base(request: &ExecutionRequested, attempt: u32) -> RunSpec {
    let mut files: Vec<SourceFile> = request
        .files
        .iter()
        .map(|file| SourceFile { path: file.path.clone(), content: file.content.clone() })
        .collect();
    if !request.script.is_empty() {
        let content = request.script.clone().into_bytes().into();
        files.push(SourceFile { path: request.runtime_filename.clone(), content });
    }
    RunSpec {
        execution_id: request.execution_id.clone(),
        attempt,
        part: String::new(),
        command: Vec::new(),
        files,
        stdin: "".into(),
        environment: Default::default(),
        limits: Limits::default(),
        strict: request.strict,
        collect: None,
    }
}

/// A runtime's command with the places of `runtimes.toml` filled in.
fn command(template: &[String], request: &ExecutionRequested, memory_bytes: Option<u64>) -> Vec<String> {
    let main = request.runtime_filename.as_str();
    let (folder, name) = main.rsplit_once('/').map_or((".", main), |(folder, name)| (folder, name));
    let stem = main.strip_suffix(extension(name).unwrap_or_default()).unwrap_or(main);
    let heap = memory_bytes.map_or(HEAP_MIB, |bytes| ((bytes / 4 * 3) >> 20).max(16));
    let fill = |part: &String| {
        part.replace("{build}", &format!("./{BUILD}"))
            .replace("{heap}", &format!("{heap}m"))
            .replace("{folder}", &if folder == "." { folder.to_owned() } else { format!("./{folder}") })
            .replace("{class}", &stem.replace('/', "."))
            .replace("{file}", &plain(main))
    };
    let mut command = Vec::new();
    for part in template {
        if part == "{sources}" {
            command.push(plain(main));
            command.extend(others_like(main, request).map(plain));
        } else {
            command.push(fill(part));
        }
    }
    command
}

/// The other files with the extension of the main one.
fn others_like<'a>(main: &'a str, request: &'a ExecutionRequested) -> impl Iterator<Item = &'a str> {
    let paths = request.files.iter().map(|file| file.path.as_str());
    paths.filter(move |path| *path != main && extension(main).is_some_and(|wanted| path.ends_with(wanted)))
}

/// The extension of a file's name, with its dot.
fn extension(name: &str) -> Option<&str> {
    let name = name.rsplit('/').next().unwrap_or(name);
    name.rfind('.').filter(|dot| *dot > 0).map(|dot| &name[dot..])
}

/// A name that begins with `-` would be taken for an option, one with `@` for a list of further arguments.
fn plain(path: &str) -> String {
    if path.starts_with(['-', '@']) { format!("./{path}") } else { path.to_owned() }
}

fn wall_time(timeout: Option<&prost_types::Duration>) -> Duration {
    timeout.and_then(from_duration).unwrap_or(Duration::from_secs(60))
}

fn memory_bytes(quantity: &str) -> Option<u64> {
    quantity.parse().ok().filter(|bytes| *bytes > 0)
}

fn cpu_millis(quantity: &str) -> Option<u32> {
    quantity.trim_end_matches('m').parse().ok().filter(|millis| *millis > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use runmesh_proto::event::SourceFile as File;

    fn request(main: &str, others: &[&str]) -> ExecutionRequested {
        let file = |path: &&str| File { path: (*path).to_owned(), content: "".into() };
        ExecutionRequested {
            script: "x".to_owned(),
            runtime_filename: main.to_owned(),
            files: others.iter().map(file).collect(),
            memory_limit: (512_u64 << 20).to_string(),
            ..ExecutionRequested::default()
        }
    }

    fn filled(template: &[&str], request: &ExecutionRequested) -> Vec<String> {
        let template: Vec<String> = template.iter().map(|part| (*part).to_owned()).collect();
        command(&template, request, memory_bytes(&request.memory_limit))
    }

    #[test]
    fn every_place_of_a_command_is_filled_in() {
        let request = request("app/Main.java", &["app/Other.java", "Third.java", "notes.txt", "app/x.javac"]);
        assert_eq!(
            filled(&["/bin/javac", "-d", "{build}", "{sources}"], &request),
            ["/bin/javac", "-d", "./.runmesh", "app/Main.java", "app/Other.java", "Third.java"]
        );
        assert_eq!(
            filled(&["/bin/java", "-Xmx{heap}", "-cp", "{build}", "{class}"], &request),
            ["/bin/java", "-Xmx384m", "-cp", "./.runmesh", "app.Main"]
        );
        assert_eq!(
            filled(&["{build}/program", "{folder}", "{file}"], &request),
            ["./.runmesh/program", "./app", "app/Main.java"]
        );
    }

    #[test]
    fn names_are_never_options() {
        let request = request("-c.c", &["@more.c", "plain.c"]);
        assert_eq!(filled(&["cc", "{sources}"], &request), ["cc", "./-c.c", "./@more.c", "plain.c"]);
        assert_eq!(filled(&["{folder}", "{class}"], &request), [".", "-c"]);
        assert_eq!(filled(&["{sources}"], &self::request("Makefile", &["other"])), ["Makefile"]);
    }

    #[test]
    fn what_a_compiler_made_has_to_fit_into_the_run() {
        let file = |bytes: usize| SourceFile { path: "x".to_owned(), content: vec![0; bytes].into() };
        let limits = |disk, memory| Limits { disk_bytes: disk, memory_bytes: memory, ..Limits::default() };
        let files = [file(1), file(4_096), file(4_097)];
        assert_eq!(too_large(&limits(Some(16_384), Some(16_384)), files.iter()), None);
        assert_eq!(too_large(&limits(None, None), files.iter()), None);
        for (limits, name) in [(limits(Some(16_383), None), "disk_bytes"), (limits(None, Some(16_383)), "memory_bytes")]
        {
            let words = too_large(&limits, files.iter()).unwrap();
            assert!(words.contains(name) && words.contains("16384 bytes"), "{words}");
        }
    }

    #[test]
    fn a_case_has_its_own_input_and_limits() {
        let base = run_spec(&ExecutionRequested { args: vec!["a".to_owned()], ..request("m.sh", &[]) }, 1);
        let case = RunCase { stdin: "in".into(), args: vec!["b".to_owned()], memory_bytes: 7, ..RunCase::default() };
        let spec = case_spec(&base, &case, 3, Duration::from_secs(1));
        assert_eq!(
            (spec.part.as_str(), &spec.command[..], &spec.stdin[..]),
            ("case-3", &["a".to_owned(), "b".to_owned()][..], &b"in"[..])
        );
        assert_eq!((spec.limits.wall_time, spec.limits.memory_bytes), (Duration::from_secs(1), Some(7)));
        let spec = case_spec(&base, &RunCase::default(), 1, Duration::from_secs(1));
        assert_eq!(spec.limits.memory_bytes, base.limits.memory_bytes);
    }
}
