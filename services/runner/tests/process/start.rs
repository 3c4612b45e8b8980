//! What does not start, and why.

use runmesh_runner::{RunSpec, Sandbox, SandboxError};

use crate::harness::{Harness, spec};

async fn refusal(harness: &Harness, spec: RunSpec) -> SandboxError {
    let error = harness.sandbox.start(spec).await.expect_err("it should not start");
    assert!(harness.folders().is_empty(), "nothing should be left of {error}");
    error
}

#[tokio::test]
async fn a_program_that_may_not_be_run_is_a_fault_of_the_sandbox() {
    let error = refusal(&Harness::new(), spec(&["/etc/passwd"])).await;
    assert!(matches!(error, SandboxError::Io { .. }), "{error}");
}

#[tokio::test]
async fn a_root_belongs_to_one_node() {
    let harness = Harness::new();
    let config = runmesh_runner::ProcessConfig::new(harness.sandbox.root());
    let error = runmesh_runner::ProcessSandbox::open(config).unwrap_err();
    assert!(matches!(error, SandboxError::RootInUse { .. }), "{error}");
}
