//! Verdicts, and that nothing makes a run hang.

use std::time::{Duration, Instant};

use runmesh_runner::{Ending, Limits, OutputStream, RunSpec, SourceFile};

use crate::harness::{
    Harness, assert_exited, bash, finish, group_is_alive, is_alive, mark, marked, next_text, spec, until,
};

fn within(wall_time: Duration, script: &str) -> RunSpec {
    let spec = bash(script);
    RunSpec { limits: Limits { wall_time, ..spec.limits.clone() }, ..spec }
}

#[tokio::test]
async fn exit_codes_are_kept() {
    let harness = Harness::new();
    for code in [0, 1, 42, 255] {
        assert_exited(&harness.run(bash(&format!("exit {code}"))).await, code);
    }
}

#[tokio::test]
async fn a_signal_is_no_exit_code() {
    let harness = Harness::new();
    for signal in [libc::SIGSEGV, libc::SIGKILL, libc::SIGTERM] {
        let finished = harness.run(bash(&format!("kill -{signal} $$"))).await;
        assert_eq!(finished.outcome.ending, Ending::Signaled(signal));
    }
}

#[tokio::test]
async fn the_deadline_ends_a_script_that_sleeps() {
    let limit = Duration::from_millis(100);
    let finished = Harness::new().run(within(limit, "echo before; sleep 1000")).await;
    assert_eq!((finished.outcome.ending, &finished.stdout[..]), (Ending::TimedOut, &b"before\n"[..]));
    assert!(finished.outcome.usage.wall >= limit);
}

#[tokio::test]
async fn the_deadline_ends_busy_grandchildren_and_scripts_that_ignore_signals() {
    let harness = Harness::new();
    let script = "trap '' TERM HUP INT; (while :; do :; done) & (sleep 1000 | sleep 1000) & while :; do :; done";
    let run = harness.start(within(Duration::from_millis(200), script)).await;
    let group = run.started().pid.unwrap();
    assert_eq!(finish(run).await.outcome.ending, Ending::TimedOut);
    until("the whole group should be gone", || !group_is_alive(group)).await;
}

#[tokio::test]
async fn the_deadline_ends_a_stopped_script_and_one_that_nobody_reads_from() {
    let harness = Harness::new();
    let limit = Duration::from_millis(100);
    let stopped = harness.run(within(limit, "kill -STOP $$")).await;
    assert_eq!(stopped.outcome.ending, Ending::TimedOut);

    let run = harness.start(within(limit, "yes")).await;
    let pid = run.started().pid.unwrap();
    until("the script should end though its output is not taken", || !is_alive(pid)).await;
    assert_eq!(finish(run).await.outcome.ending, Ending::TimedOut);
}

#[tokio::test]
async fn a_cancelled_script_that_obeys_is_not_forced() {
    let harness = Harness::new();
    let mut run = harness.start(bash("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done")).await;
    assert_eq!(next_text(&mut run).await, "ready\n");
    run.canceller().cancel();
    let finished = finish_rest(run).await;
    assert_eq!(finished, ("bye\n".to_owned(), Ending::Cancelled { forced: false }));
}

#[tokio::test]
async fn a_cancelled_script_that_ignores_the_signal_is_killed_after_the_grace() {
    let harness = Harness::with(|config| config.cancel_grace = Duration::from_millis(100));
    let mut run = harness.start(bash("trap '' TERM; echo ready; sleep 1000 & while :; do :; done")).await;
    let group = run.started().pid.unwrap();
    assert_eq!(next_text(&mut run).await, "ready\n");
    let (canceller, since) = (run.canceller(), Instant::now());
    canceller.cancel();
    canceller.cancel();
    assert_eq!(finish_rest(run).await.1, Ending::Cancelled { forced: true });
    assert!(since.elapsed() >= Duration::from_millis(100));
    until("the whole group should be gone", || !group_is_alive(group)).await;
    canceller.cancel();
}

#[tokio::test]
async fn a_stopped_script_can_be_cancelled() {
    let harness = Harness::with(|config| config.cancel_grace = Duration::from_secs(20));
    let mut run = harness.start(bash("echo ready; kill -STOP $$")).await;
    assert_eq!(next_text(&mut run).await, "ready\n");
    run.canceller().cancel();
    assert_eq!(finish_rest(run).await.1, Ending::Cancelled { forced: false });
}

#[tokio::test]
async fn a_script_that_ended_before_it_was_cancelled_was_not_cancelled() {
    let harness = Harness::new();
    let run = harness.start(bash("exit 5")).await;
    let pid = run.started().pid.unwrap();
    until("the script should end", || !is_alive(pid)).await;
    run.canceller().cancel();
    assert_exited(&finish(run).await, 5);
}

#[tokio::test]
async fn a_child_that_holds_the_pipe_does_not_hold_the_run() {
    let harness = Harness::new();
    let run = harness.start(bash("sleep 1000 & echo out; exit 3")).await;
    let group = run.started().pid.unwrap();
    let finished = finish(run).await;
    assert_exited(&finished, 3);
    assert_eq!(finished.stdout, b"out\n");
    assert!(finished.outcome.usage.wall < Duration::from_secs(10));
    until("the child should be gone", || !group_is_alive(group)).await;
}

#[tokio::test]
async fn what_a_child_writes_just_after_the_end_is_delivered() {
    let harness = Harness::with(|config| config.drain_grace = Duration::from_secs(20));
    let finished = harness.run(bash("(while [ -e /proc/$$/exe ]; do :; done; echo late) & exit 0")).await;
    assert_exited(&finished, 0);
    assert_eq!(finished.stdout, b"late\n");
}

#[tokio::test]
async fn a_child_that_left_the_group_and_floods_the_pipe_does_not_hold_the_run() {
    let harness = Harness::new();
    let script = "setsid bash -c 'echo $$ > escaped; exec yes' & while [ ! -s escaped ]; do :; done; cat escaped >&2";
    let spec = bash(script);
    let mark = mark(&spec);
    let finished = harness.run(spec).await;
    assert_exited(&finished, 0);
    assert!(!finished.stderr.is_empty(), "it should have left the group");
    until("the escaped child should be gone", || marked(&mark).is_empty()).await;
    until("the folder should be gone", || harness.folders().is_empty()).await;
}

#[tokio::test]
async fn a_child_that_left_the_group_and_the_pipes_ends_with_the_run() {
    let harness = Harness::new();
    let script = "setsid bash -c 'echo $$ > escaped; exec sleep 1000' </dev/null >/dev/null 2>&1 &
        while [ ! -s escaped ]; do :; done; cat escaped";
    let spec = bash(script);
    let mark = mark(&spec);
    let finished = harness.run(spec).await;
    assert_exited(&finished, 0);
    assert!(!finished.stdout.is_empty(), "it should have left the group");
    until("the escaped child should be gone", || marked(&mark).is_empty()).await;
    until("the folder should be gone", || harness.folders().is_empty()).await;
}

#[tokio::test]
async fn a_script_that_closes_its_output_is_still_awaited() {
    let finished = Harness::new().run(bash("echo out; exec >&- 2>&-; sleep 0.05; exit 4")).await;
    assert_exited(&finished, 4);
    assert_eq!(finished.stdout, b"out\n");
}

#[tokio::test]
async fn usage_is_measured() {
    // 64 MiB in one variable, and some work.
    let script = "x=$(head -c 33554432 /dev/zero | tr '\\0' x); for ((i = 0; i < 200000; i++)); do :; done; echo ${#x}";
    let finished = Harness::new().run(bash(script)).await;
    assert_eq!(finished.stdout, b"33554432\n");
    let usage = finished.outcome.usage;
    assert!(usage.cpu_user > Duration::ZERO && usage.cpu_user < Duration::from_secs(30), "{usage:?}");
    assert!(usage.peak_memory_bytes.unwrap() > 33_554_432, "{usage:?}");
    assert!(usage.wall > Duration::from_millis(10), "{usage:?}");
}

#[tokio::test]
async fn a_small_script_is_not_charged_for_the_memory_of_the_node() {
    let ballast = vec![1_u8; 256 * 1024 * 1024];
    let finished = Harness::new().run(bash("echo here; sleep 0.05")).await;
    assert!(finished.outcome.usage.peak_memory_bytes.unwrap() < 64 * 1024 * 1024, "{:?}", finished.outcome.usage);
    std::hint::black_box(ballast);
}

#[tokio::test]
async fn fifty_runs_at_once_keep_apart() {
    let harness = Harness::new();
    let mut runs = Vec::new();
    for number in 0..50 {
        runs.push(harness.start(bash(&format!("echo {number} > file; cat file; exit {number}"))).await);
    }
    for (number, run) in (0..).zip(runs) {
        let finished = finish(run).await;
        assert_exited(&finished, number);
        assert_eq!(finished.stdout, format!("{number}\n").into_bytes());
    }
    until("the folder should be gone", || harness.folders().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn programs_written_and_started_at_once_are_never_busy() {
    let harness = std::sync::Arc::new(Harness::new());
    let program = std::fs::read("/bin/true").unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (harness, program) = (std::sync::Arc::clone(&harness), program.clone());
        tasks.spawn(async move {
            let mut spec = spec(&["./folder/program"]);
            spec.files.push(SourceFile { path: "folder/program".to_owned(), content: program.into() });
            assert_exited(&harness.run(spec).await, 0);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// The rest of the standard output as text, and the verdict.
async fn finish_rest(mut run: runmesh_runner::Run) -> (String, Ending) {
    let mut text = String::new();
    while let Some(chunk) = run.next_chunk().await {
        // On standard error the shell may tell which of its children the signal ended.
        if chunk.stream == OutputStream::Stderr {
            continue;
        }
        text.push_str(std::str::from_utf8(&chunk.data).unwrap());
    }
    (text, run.wait().await.ending)
}
