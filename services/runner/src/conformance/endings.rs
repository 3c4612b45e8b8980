//! Verdicts, and that nothing makes a run hang or leaves anything behind.

use std::time::{Duration, Instant};

use super::{Harness, assert_exited, bash, finish, finish_rest, limited, next_text, nothing_is_left, run, start};
use crate::{Ending, RunSpec};

/// SIGKILL, SIGSEGV and SIGTERM, by their numbers on Linux.
const SIGNALS: [i32; 3] = [9, 11, 15];

fn within(wall_time: Duration, script: &str) -> RunSpec {
    limited(bash(script), |limits| limits.wall_time = wall_time)
}

/// A script's own exit code is the verdict.
pub async fn exit_codes_are_kept<H: Harness>() {
    let harness = H::new().await;
    for code in [0, 1, 42, 255] {
        assert_exited(&run(&harness, bash(&format!("exit {code}"))).await, code);
    }
}

/// A script that a signal ended is told from one that exited with 128 and its number.
pub async fn a_signal_is_no_exit_code<H: Harness>() {
    let harness = H::new().await;
    for signal in SIGNALS {
        let finished = run(&harness, bash(&format!("kill -{signal} $$"))).await;
        assert_eq!(finished.outcome.ending, Ending::Signaled(signal));
        assert_exited(&run(&harness, bash(&format!("exit {}", 128 + signal))).await, 128 + signal);
    }
}

/// The wall-clock limit ends it, and what it wrote before is there.
pub async fn the_deadline_ends_a_script_that_sleeps<H: Harness>() {
    let limit = Duration::from_secs(3);
    let finished = run(&H::new().await, within(limit, "echo before; sleep 1000")).await;
    assert_eq!((finished.outcome.ending, &finished.stdout[..]), (Ending::TimedOut, &b"before\n"[..]));
    assert!(finished.outcome.usage.wall >= limit);
}

/// Nothing that a script does about signals keeps it alive, nor its children.
pub async fn the_deadline_ends_scripts_that_ignore_signals<H: Harness>() {
    let harness = H::new().await;
    let script = "trap '' TERM HUP INT; (while :; do :; done) & (sleep 1000 | sleep 1000) & while :; do :; done";
    let spec = within(Duration::from_millis(200), script);
    let execution_id = spec.execution_id.clone();
    assert_eq!(run(&harness, spec).await.outcome.ending, Ending::TimedOut);
    nothing_is_left(&harness, &execution_id).await;
}

/// A cancelled script gets SIGTERM, and its last words are delivered.
pub async fn a_cancelled_script_that_obeys_is_not_forced<H: Harness>() {
    let harness = H::new().await;
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let mut run = start(&harness, bash(script)).await;
    assert_eq!(next_text(&mut run).await, "ready\n");
    run.canceller().cancel();
    assert_eq!(finish_rest(run).await, ("bye\n".to_owned(), Ending::Cancelled { forced: false }));
}

/// One that does not obey is killed after a while, with its children.
pub async fn a_cancelled_script_that_ignores_the_signal_is_killed<H: Harness>() {
    let harness = H::new().await;
    let spec = bash("trap '' TERM; echo ready; sleep 1000 & while :; do :; done");
    let execution_id = spec.execution_id.clone();
    let mut run = start(&harness, spec).await;
    assert_eq!(next_text(&mut run).await, "ready\n");
    let canceller = run.canceller();
    canceller.cancel();
    canceller.cancel();
    assert_eq!(finish_rest(run).await.1, Ending::Cancelled { forced: true });
    nothing_is_left(&harness, &execution_id).await;
    canceller.cancel();
}

/// What has ended by itself was not cancelled.
pub async fn a_cancel_after_the_verdict_changes_nothing<H: Harness>() {
    let harness = H::new().await;
    let mut run = start(&harness, bash("exit 5")).await;
    // Its output ends with it.
    assert_eq!(run.next_chunk().await, None);
    run.canceller().cancel();
    assert_exited(&finish(run).await, 5);
}

/// The run ends with its main process, and takes its children with it.
pub async fn a_child_that_holds_the_pipe_does_not_hold_the_run<H: Harness>() {
    let harness = H::new().await;
    let spec = bash("sleep 1000 & echo out; exit 3");
    let (execution_id, since) = (spec.execution_id.clone(), Instant::now());
    let finished = run(&harness, spec).await;
    assert_exited(&finished, 3);
    assert_eq!(finished.stdout, b"out\n");
    assert!(since.elapsed() < Duration::from_secs(20));
    nothing_is_left(&harness, &execution_id).await;
}

/// The end of the output is not the end of the script.
pub async fn a_script_that_closes_its_output_is_still_awaited<H: Harness>() {
    let finished = run(&H::new().await, bash("echo out; exec >&- 2>&-; sleep 0.05; exit 4")).await;
    assert_exited(&finished, 4);
    assert_eq!(finished.stdout, b"out\n");
}

/// Times and memory are those of the script.
pub async fn usage_is_measured<H: Harness>() {
    // 32 MiB in one variable, and some work.
    let script = "x=$(head -c 33554432 /dev/zero | tr '\\0' x); for ((i = 0; i < 200000; i++)); do :; done; echo ${#x}";
    let finished = run(&H::new().await, bash(script)).await;
    assert_eq!(finished.stdout, b"33554432\n");
    let usage = finished.outcome.usage;
    assert!(usage.cpu_user > Duration::ZERO && usage.cpu_user < Duration::from_secs(30), "{usage:?}");
    assert!(usage.peak_memory_bytes.unwrap() > 33_554_432, "{usage:?}");
    assert!(usage.wall > Duration::from_millis(10), "{usage:?}");
}

/// Runs at the same time see nothing of each other.
pub async fn fifty_runs_at_once_keep_apart<H: Harness>() {
    let harness = H::new().await;
    let (mut runs, mut ids) = (Vec::new(), Vec::new());
    for number in 0..50 {
        let spec = bash(&format!("echo {number} > file; cat file; exit {number}"));
        ids.push(spec.execution_id.clone());
        runs.push(start(&harness, spec).await);
    }
    for (number, run) in (0..).zip(runs) {
        let finished = finish(run).await;
        assert_exited(&finished, number);
        assert_eq!(finished.stdout, format!("{number}\n").into_bytes());
    }
    for execution_id in ids {
        nothing_is_left(&harness, &execution_id).await;
    }
}

/// Nobody has to wait for a run that is not wanted any more.
pub async fn dropping_a_run_ends_it<H: Harness>() {
    let harness = H::new().await;
    let spec = bash("trap '' TERM; sleep 1000 & echo ready; while :; do :; done");
    let execution_id = spec.execution_id.clone();
    let mut run = start(&harness, spec).await;
    assert_eq!(next_text(&mut run).await, "ready\n");
    drop(run);
    nothing_is_left(&harness, &execution_id).await;
}

/// A start that is not awaited to its end leaves nothing.
pub async fn dropping_a_start_leaves_nothing<H: Harness>() {
    let harness = H::new().await;
    for _ in 0..20 {
        let spec = bash("sleep 1000");
        let execution_id = spec.execution_id.clone();
        let starting = harness.sandbox().start(spec);
        // Polled once, then dropped.
        tokio::select! { biased; _ = starting => {}, () = std::future::ready(()) => {} }
        nothing_is_left(&harness, &execution_id).await;
    }
}
