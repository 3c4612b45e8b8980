//! Receipts, and verdicts about limits: what a receipt says holds has to.

use std::time::Duration;

use super::{Harness, assert_exited, bash, finish, limited, run, spec};
use crate::{Ending, Level, Limit, Limits, RunSpec, SandboxError, SourceFile};

const MIB: u64 = 1 << 20;

/// How well this limit of a run would be held.
pub fn level(harness: &impl Harness, spec: &RunSpec, limit: Limit) -> Level {
    let receipt = harness.sandbox().receipt(&spec.limits);
    receipt.iter().find(|line| line.limit == limit).unwrap().level
}

/// Whatever holds says by what, and whatever does not says why. A run has the receipt that was promised.
pub async fn a_receipt_has_a_line_for_every_limit<H: Harness>() {
    let harness = H::new().await;
    let spec = bash("true");
    let told = harness.sandbox().receipt(&spec.limits);
    let finished = run(&harness, spec).await;
    let limits: Vec<Limit> = finished.outcome.receipt.iter().map(|line| line.limit).collect();
    assert_eq!(limits, Limit::ALL);
    assert_eq!(told, finished.outcome.receipt);
    for line in &finished.outcome.receipt {
        assert_eq!(line.level == Level::None, line.mechanism.is_empty(), "{line:?}");
        assert_eq!(line.level == Level::Full, line.reason.is_empty(), "{line:?}");
    }
}

/// A strict run starts where all that it asks for holds, and nowhere else.
pub async fn a_strict_run_is_refused_where_a_limit_does_not_hold_in_full<H: Harness>() {
    let harness = H::new().await;
    let mut spec = limited(bash("true"), |limits| limits.cpu_millis = Some(500));
    spec.strict = true;
    let receipt = harness.sandbox().receipt(&spec.limits);
    let missing: Vec<Limit> = receipt.iter().filter(|line| line.violates_strict()).map(|line| line.limit).collect();
    match harness.sandbox().start(spec).await {
        Ok(run) => {
            assert_eq!(missing, []);
            assert_exited(&finish(run).await, 0);
        }
        Err(SandboxError::NotEnforced { missing: told }) => {
            assert_eq!(told.iter().map(|line| line.limit).collect::<Vec<_>>(), missing);
            assert_ne!(missing, []);
        }
        Err(other) => panic!("{other}"),
    }
}

/// Whatever a receipt says holds in full ends a script that goes beyond it, with the verdict that names it.
pub async fn the_verdict_names_the_limit_that_was_reached<H: Harness>() {
    let harness = H::new().await;
    let perl = |script: &str| spec(&["/usr/bin/perl", "-e", script]);
    let file = limited(bash("exec head -c 4194304 /dev/zero > large"), |limits| limits.file_bytes = Some(MIB));
    if level(&harness, &file, Limit::FileSize) == Level::Full {
        assert_eq!(run(&harness, file).await.outcome.ending, Ending::FileSizeLimit);
    }
    let disk = limited(bash("for i in {1..9}; do head -c 1000000 /dev/zero > $i || exit 1; done"), |limits| {
        limits.disk_bytes = Some(4 * MIB);
    });
    if level(&harness, &disk, Limit::Disk) == Level::Full {
        assert_eq!(run(&harness, disk).await.outcome.ending, Ending::DiskLimit);
    }
    let memory = limited(perl("my @a; push @a, 'x' x 1048576 while 1"), |limits| limits.memory_bytes = Some(64 * MIB));
    if level(&harness, &memory, Limit::Memory) != Level::None {
        let ending = run(&harness, memory).await.outcome.ending;
        assert!(matches!(ending, Ending::OutOfMemory { .. }), "{ending:?}");
    }
    let time = limited(perl("1 while 1"), |limits| limits.cpu_time = Some(Duration::from_secs(1)));
    if level(&harness, &time, Limit::CpuTime) != Level::None {
        assert_eq!(run(&harness, time).await.outcome.ending, Ending::CpuTimedOut);
    }
    let processes = limited(perl("while (defined(my $pid = fork)) { sleep 100 unless $pid } exit 1"), |limits| {
        limits.processes = Some(20);
    });
    if level(&harness, &processes, Limit::Processes) == Level::Full {
        // Where nobody counts the refusals, the script alone knows of them.
        let ending = run(&harness, processes).await.outcome.ending;
        assert!(matches!(ending, Ending::ProcessLimit { .. } | Ending::Exited(1)), "{ending:?}");
    }
    assert_exited(&run(&harness, bash("exit 0")).await, 0);
}

/// Files that alone are more than a limit are that limit's fault, and not the sandbox's.
pub async fn files_without_room_are_told_by_the_limit<H: Harness>() {
    let harness = H::new().await;
    let large = |change: fn(&mut Limits)| {
        let mut spec = limited(bash("true"), change);
        spec.files.push(SourceFile { path: "large".to_owned(), content: vec![1; 24 << 20].into() });
        spec
    };
    let disk = large(|limits| limits.disk_bytes = Some(8 * MIB));
    if level(&harness, &disk, Limit::Disk) == Level::Full {
        let error = harness.sandbox().start(disk).await.unwrap_err();
        assert!(matches!(error, SandboxError::NoRoom { limit: Limit::Disk }), "{error}");
    }
    let memory = large(|limits| limits.memory_bytes = Some(16 * MIB));
    // Where memory counts the files too.
    if level(&harness, &memory, Limit::Disk) == Level::Full && level(&harness, &memory, Limit::Memory) == Level::Full {
        let error = harness.sandbox().start(memory).await.unwrap_err();
        assert!(matches!(error, SandboxError::NoRoom { limit: Limit::Memory }), "{error}");
    }
}
