//! What belongs to no run is found and removed; what a run or a waiting sandbox has is not.

use std::process::{Child, Command, Stdio};

use runmesh_runner::{Sandbox, Stray};

use crate::harness::{Harness, bash, finish, is_alive, next_text, until};

/// A process as a script of a run with a folder of this name would have started it.
fn marked(harness: &Harness, name: &str) -> Child {
    let folder = harness.sandbox.root().canonicalize().unwrap().join(name);
    let mut command = Command::new("/bin/sleep");
    command.arg("1000").env("RUNMESH_EXECUTION_ID", "stray").env("RUNMESH_RUN_FOLDER", folder);
    command.stdin(Stdio::null()).spawn().unwrap()
}

/// What was planted is found, once the process shows its environment.
async fn found(harness: &Harness, count: usize) -> Vec<Stray> {
    let mut strays = Vec::new();
    while strays.len() < count {
        strays = harness.sandbox.strays().await.unwrap();
        tokio::task::yield_now().await;
    }
    strays
}

#[tokio::test]
async fn in_ordinary_operation_there_are_none() {
    let harness = Harness::new();
    for script in ["true", "exit 3", "(sleep 1000 >&- 2>&- &) ; echo out", "mkdir -p a/b"] {
        let wait = "mkdir wait; echo ready; while [ -d wait ]; do :; done";
        let mut run = harness.start(bash(&format!("{wait}; {script}"))).await;
        assert_eq!(next_text(&mut run).await, "ready\n");
        assert_eq!(harness.sandbox.strays().await.unwrap(), [], "before {script:?}");
        std::fs::remove_dir(format!("/proc/{}/cwd/wait", run.started().pid.unwrap())).unwrap();
        assert_eq!(harness.sandbox.strays().await.unwrap(), [], "while {script:?} ran");
        finish(run).await;
    }
    until("a sandbox should wait", || harness.sandbox.ready() > 0).await;
    assert_eq!(harness.sandbox.strays().await.unwrap(), []);
}

#[tokio::test]
async fn what_belongs_to_no_run_is_removed_and_a_run_goes_on() {
    let harness = Harness::new();
    let mut run = harness.start(bash("echo ready; sleep 1000")).await;
    assert_eq!(next_text(&mut run).await, "ready\n");
    let main = run.started().pid.unwrap();
    let folder = harness.sandbox.root().join("stray-1");
    std::fs::create_dir_all(folder.join("work/deep")).unwrap();
    let mut process = marked(&harness, "stray-2");
    let cgroups: Vec<_> = harness.sandbox.cgroup_folders().iter().map(|parent| parent.join("run-stray")).collect();
    let mut in_cgroup = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    for cgroup in &cgroups {
        std::fs::create_dir(cgroup).unwrap();
        std::fs::write(cgroup.join("cgroup.procs"), in_cgroup.id().to_string()).unwrap();
    }
    let strays = found(&harness, 2 + cgroups.len()).await;
    let kinds = |kind| strays.iter().filter(|stray| stray.kind() == kind).count();
    assert_eq!((kinds("folder"), kinds("sandbox"), kinds("cgroup")), (1, 1, cgroups.len()), "{strays:?}");

    // What was not seen before is left alone.
    assert_eq!(harness.sandbox.remove_strays(Vec::new()).await.unwrap(), []);
    assert!(folder.exists());
    let removed = harness.sandbox.remove_strays(strays.clone()).await.unwrap();
    assert_eq!(removed, strays);
    assert!(!folder.exists() && cgroups.iter().all(|cgroup| !cgroup.exists()));
    process.wait().unwrap();
    if cgroups.is_empty() {
        in_cgroup.kill().unwrap();
    }
    in_cgroup.wait().unwrap();
    assert_eq!(harness.sandbox.strays().await.unwrap(), []);
    assert!(is_alive(main), "the run was ended too");
    run.canceller().cancel();
    finish(run).await;
}

#[tokio::test]
async fn a_sandbox_that_nobody_has_is_ended() {
    let harness = Harness::new();
    let mut run = harness.start(bash("echo ready; sleep 1000")).await;
    assert_eq!(next_text(&mut run).await, "ready\n");
    let main = run.started().pid.unwrap();
    until("a sandbox should wait", || harness.sandbox.ready() > 0).await;
    let lost = harness.sandbox.lose_one().unwrap();
    let strays = harness.sandbox.strays().await.unwrap();
    let is_lost = |stray: &Stray| matches!(stray, Stray::Process { pid, .. } if *pid == lost);
    assert!(strays.iter().any(is_lost), "{strays:?}");
    assert_eq!(harness.sandbox.remove_strays(strays.clone()).await.unwrap(), strays);
    until("it should be gone", || !is_alive(lost)).await;
    assert_eq!(harness.sandbox.strays().await.unwrap(), []);
    assert!(is_alive(main), "the run was ended too");
    run.canceller().cancel();
    finish(run).await;
}
