//! What does not start, and why.

use runmesh_runner::{RunSpec, Sandbox, SandboxError, SourceFile};

use crate::harness::{Harness, bash, finish, spec};

async fn refusal(harness: &Harness, spec: RunSpec) -> SandboxError {
    let error = harness.sandbox.start(spec).await.expect_err("it should not start");
    assert!(harness.folders().is_empty(), "nothing should be left of {error}");
    error
}

#[tokio::test]
async fn a_missing_interpreter_is_named() {
    let error = refusal(&Harness::new(), spec(&["/no/such/python", "main.py"])).await;
    assert_eq!(error.to_string(), "there is no program /no/such/python");
    assert!(!error.is_invalid_request());
}

#[tokio::test]
async fn a_program_that_may_not_be_run_is_a_fault_of_the_sandbox() {
    let error = refusal(&Harness::new(), spec(&["/etc/passwd"])).await;
    assert!(matches!(error, SandboxError::Io { .. }), "{error}");
}

#[tokio::test]
async fn hostile_file_paths_are_refused() {
    let harness = Harness::new();
    for path in ["", "/tmp/x", "../x", "a/../../x", "a//b", "a\0b", ".", "main.sh"] {
        let mut spec = bash("true");
        spec.files.push(SourceFile { path: path.to_owned(), content: "".into() });
        let error = refusal(&harness, spec).await;
        assert!(matches!(error, SandboxError::InvalidPath { .. }) && error.is_invalid_request(), "{path:?}: {error}");
    }
}

#[tokio::test]
async fn hostile_ids_arguments_and_variables_are_refused() {
    let harness = Harness::new();
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

#[tokio::test]
async fn one_attempt_does_not_run_twice_at_once() {
    let harness = Harness::new();
    let spec = bash("cat; echo done");
    let run = harness.start(spec.clone()).await;
    let error = harness.sandbox.start(spec.clone()).await.unwrap_err();
    assert!(matches!(error, SandboxError::AlreadyRunning { attempt: 1, .. }), "{error}");
    assert_eq!(finish(run).await.stdout, b"done\n");
    // Another attempt is another run.
    assert_eq!(harness.run(RunSpec { attempt: 2, ..spec }).await.stdout, b"done\n");
}

#[tokio::test]
async fn a_root_belongs_to_one_node() {
    let harness = Harness::new();
    let config = runmesh_runner::ProcessConfig::new(harness.sandbox.root());
    let error = runmesh_runner::ProcessSandbox::open(config).unwrap_err();
    assert!(matches!(error, SandboxError::RootInUse { .. }), "{error}");
}

#[tokio::test]
async fn files_in_folders_are_placed_and_private() {
    let mut spec = bash("cat lib/a/b.txt; ./tool; stat -c %a . lib/a main.sh");
    spec.files.push(SourceFile { path: "lib/a/b.txt".to_owned(), content: "text\n".into() });
    spec.files.push(SourceFile { path: "tool".to_owned(), content: "#!/bin/sh\necho tool\n".into() });
    let finished = Harness::new().run(spec).await;
    assert_eq!(String::from_utf8(finished.stdout).unwrap(), "text\ntool\n700\n700\n600\n");
}
