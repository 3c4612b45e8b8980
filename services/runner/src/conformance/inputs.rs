//! What a script is given, and what is refused before it starts.

use super::{Harness, assert_exited, bash, finish, nothing_is_left, run, spec, start};
use crate::{Collect, RunSpec, SandboxError, SourceFile};

async fn refusal(harness: &impl Harness, spec: RunSpec) -> SandboxError {
    let execution_id = spec.execution_id.clone();
    let error = harness.sandbox().start(spec).await.expect_err("it should not start");
    nothing_is_left(harness, &execution_id).await;
    error
}

/// A script sees what was asked for, what the sandbox says of itself, and nothing of the node.
pub async fn the_environment_is_what_was_given<H: Harness>() {
    let mut spec = spec(&["/usr/bin/env"]);
    spec.environment = [("GREETING", "hello"), ("LANG", "de_DE.UTF-8"), ("RUNMESH_EXECUTION_ID", "forged")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let id = spec.execution_id.clone();
    let finished = run(&H::new().await, spec).await;
    let text = String::from_utf8(finished.stdout).unwrap();
    let mut names: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.retain(|name| *name != "RUNMESH_RUN_FOLDER");
    names.sort_unstable();
    let expected = ["GREETING", "HOME", "LANG", "PATH", "PYTHONUNBUFFERED", "RUNMESH_EXECUTION_ID", "TMPDIR"];
    assert_eq!(names, expected);
    for line in ["GREETING=hello", "LANG=de_DE.UTF-8", &format!("RUNMESH_EXECUTION_ID={id}")] {
        assert!(text.lines().any(|one| one == line), "{line} is not in {text}");
    }
}

/// Files are where they were asked for, and nobody else's.
pub async fn files_in_folders_are_placed_and_private<H: Harness>() {
    let mut spec = bash("cat lib/a/b.txt; ./tool; stat -c %a . lib/a main.sh");
    spec.files.push(SourceFile { path: "lib/a/b.txt".to_owned(), content: "text\n".into() });
    spec.files.push(SourceFile { path: "tool".to_owned(), content: "#!/bin/sh\necho tool\n".into() });
    let finished = run(&H::new().await, spec).await;
    assert_eq!(String::from_utf8(finished.stdout).unwrap(), "text\ntool\n700\n700\n600\n");
}

/// No path leads out of the working folder, or to two files of one name.
pub async fn hostile_file_paths_are_refused<H: Harness>() {
    let harness = H::new().await;
    for path in ["", "/tmp/x", "../x", "a/../../x", "a//b", "a\0b", ".", "main.sh"] {
        let mut spec = bash("true");
        spec.files.push(SourceFile { path: path.to_owned(), content: "".into() });
        let error = refusal(&harness, spec).await;
        assert!(matches!(error, SandboxError::InvalidPath { .. }) && error.is_invalid_request(), "{path:?}: {error}");
    }
}

/// What can't be passed on is refused by the name of its field.
pub async fn hostile_ids_arguments_and_variables_are_refused<H: Harness>() {
    let harness = H::new().await;
    for id in ["", "..", "../x", "a/b", ".lock", "a b"] {
        let error = refusal(&harness, RunSpec { execution_id: id.to_owned(), ..bash("true") }).await;
        assert!(matches!(error, SandboxError::InvalidSpec { field: "execution_id", .. }), "{id:?}: {error}");
    }
    for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
        let environment = [(name.to_owned(), value.to_owned())].into();
        let error = refusal(&harness, RunSpec { environment, ..bash("true") }).await;
        assert!(matches!(error, SandboxError::InvalidSpec { field: "environment", .. }), "{name:?}: {error}");
    }
    for command in [&[][..], &["bash"], &["/bin/bash", "a\0b"]] {
        let error = refusal(&harness, spec(command)).await;
        assert!(matches!(error, SandboxError::InvalidSpec { .. }), "{command:?}: {error}");
    }
    let huge = "x".repeat(3_000_000);
    let error = refusal(&harness, spec(&["/bin/echo", &huge])).await;
    assert!(matches!(error, SandboxError::InvalidSpec { field: "args", .. }), "{error}");
}

/// What is missing is said by its name, and is not the script's fault.
pub async fn a_missing_interpreter_is_named<H: Harness>() {
    let error = refusal(&H::new().await, spec(&["/no/such/python", "main.py"])).await;
    assert_eq!(error.to_string(), "there is no program /no/such/python");
    assert!(!error.is_invalid_request());
}

/// One attempt at an execution is one run at a time.
pub async fn one_attempt_does_not_run_twice_at_once<H: Harness>() {
    let harness = H::new().await;
    let spec = bash("cat; echo done");
    let first = start(&harness, spec.clone()).await;
    let error = harness.sandbox().start(spec.clone()).await.unwrap_err();
    assert!(matches!(error, SandboxError::AlreadyRunning { attempt: 1, .. }), "{error}");
    assert_eq!(finish(first).await.stdout, b"done\n");
    // Another attempt is another run.
    assert_eq!(run(&harness, RunSpec { attempt: 2, ..spec }).await.stdout, b"done\n");
}

/// Files that a run made can be those of the next.
pub async fn what_a_compiler_made_is_given_back_and_can_be_run<H: Harness>() {
    let harness = H::new().await;
    let mut spec = bash("mkdir out; printf '#!/bin/sh\\necho made\\n' > out/program; echo x > other");
    spec.collect = Some(Collect { folder: "out".to_owned(), files: 4, bytes: 1 << 20 });
    let made = run(&harness, spec.clone()).await.outcome.collected;
    assert_eq!(made.iter().map(|file| &*file.path).collect::<Vec<_>>(), ["out/program"]);
    let next = RunSpec { command: vec!["./out/program".to_owned()], files: made, collect: None, ..spec };
    let finished = run(&harness, RunSpec { part: "run".to_owned(), ..next }).await;
    assert_eq!(finished.stdout, b"made\n");
}

/// Standard input of any size is given whole.
pub async fn stdin_larger_than_a_pipe_comes_back_whole<H: Harness>() {
    let bytes: Vec<u8> = (0..1_048_576_u32).map(|number| (number % 251) as u8).collect();
    let finished = run(&H::new().await, RunSpec { stdin: bytes.clone().into(), ..spec(&["/bin/cat"]) }).await;
    assert!(finished.stdout == bytes);
}

/// A script need not read what it is given.
pub async fn stdin_that_nobody_reads_is_no_error<H: Harness>() {
    let finished = run(&H::new().await, RunSpec { stdin: vec![b'x'; 1_048_576].into(), ..bash("echo done") }).await;
    assert_eq!(finished.stdout, b"done\n");
    assert_exited(&finished, 0);
}

/// A script that reads and was given nothing finds the end.
pub async fn stdin_ends_when_there_is_none<H: Harness>() {
    let finished = run(&H::new().await, bash("read line || echo end")).await;
    assert_eq!(finished.stdout, b"end\n");
}
