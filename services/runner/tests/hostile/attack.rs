//! What is the same about all attacks.

use std::collections::BTreeSet;
use std::path::PathBuf;

use runmesh_runner::{Ending, Level, Limit, Limits, Run, RunSpec, Sandbox, SourceFile};

pub(crate) use crate::harness::limited;
use crate::harness::{Finished, Harness, assert_exited, bash, finish, mark, marked, spec, until};

/// An attack by a Perl script, since Perl can make any system call and is part of every Debian.
pub(crate) fn perl(script: &str) -> RunSpec {
    RunSpec {
        files: vec![SourceFile { path: "main.pl".to_owned(), content: script.to_owned().into() }],
        ..spec(&["/usr/bin/perl", "main.pl"])
    }
}

/// Whether this limit is held to in full here, with evidence from a cgroup.
pub(crate) fn counted(harness: &Harness, limit: Limit) -> bool {
    let receipt = harness.sandbox.receipt(&Limits::default());
    let line = receipt.iter().find(|line| line.limit == limit).unwrap();
    line.level == Level::Full && line.mechanism.contains("cgroup")
}

/// Runs an attack and returns what came of it, after it was checked that nothing is left and the next run is unaffected.
pub(crate) async fn attack(harness: &Harness, spec: RunSpec) -> Finished {
    attack_with(harness, spec, async |_| {}).await
}

/// The same, with something to do while it runs.
pub(crate) async fn attack_with(harness: &Harness, spec: RunSpec, meanwhile: impl AsyncFnOnce(&mut Run)) -> Finished {
    let before = mounts();
    let mark = mark(&spec);
    let mut run = harness.start(spec).await;
    meanwhile(&mut run).await;
    let finished = finish(run).await;
    until("no process of the attack should be left", || marked(&mark).is_empty()).await;
    until("no folder of the attack should be left", || harness.folders().is_empty()).await;
    // Those of sandboxes that wait for the next runs are there.
    until("no cgroup of the attack should be left", || cgroups(harness).len() <= 2).await;
    assert_eq!(mounts(), before);
    let next = harness.run(bash("echo fine; ls -A /tmp /dev/shm; ls -A | grep -v main.sh; exit 0")).await;
    assert_exited(&next, 0);
    assert_eq!(String::from_utf8_lossy(&next.stdout).lines().next(), Some("fine"));
    assert!(!String::from_utf8_lossy(&next.stdout).contains("left-by-attack"), "the next run should see nothing of it");
    finished
}

pub(crate) fn text(finished: &Finished) -> String {
    String::from_utf8_lossy(&finished.stdout).into_owned()
}

#[track_caller]
pub(crate) fn assert_ending(finished: &Finished, ending: Ending) {
    let stderr = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(finished.outcome.ending, ending, "stdout: {}, stderr: {stderr}", text(finished));
}

fn mounts() -> String {
    // Those of other tests' files come and go.
    let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lines: Vec<&str> = all.lines().filter(|line| line.contains("runmesh") || line.contains("/runs")).collect();
    lines.join("\n")
}

/// The names of the cgroups of this harness's sandbox.
fn cgroups(harness: &Harness) -> BTreeSet<PathBuf> {
    let names = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into()).collect::<Vec<PathBuf>>()
    };
    harness.sandbox.cgroup_folders().into_iter().flat_map(names).collect()
}
