//! Verdicts, and that nothing makes a run hang.

use std::time::{Duration, Instant};

use runmesh_runner::{Ending, Limits, RunSpec, SourceFile};

use crate::harness::{
    Harness, assert_exited, bash, finish, finish_rest, group_is_alive, is_alive, limited, mark, marked, next_text,
    spec, until,
};

fn within(wall_time: Duration, script: &str) -> RunSpec {
    let spec = bash(script);
    RunSpec { limits: Limits { wall_time, ..spec.limits.clone() }, ..spec }
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
    let spec = limited(bash(script), |limits| limits.output_bytes = 1 << 40);
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
async fn a_small_script_is_not_charged_for_the_memory_of_the_node() {
    let ballast = vec![1_u8; 256 * 1024 * 1024];
    let finished = Harness::new().run(bash("echo here; sleep 0.05")).await;
    assert!(finished.outcome.usage.peak_memory_bytes.unwrap() < 64 * 1024 * 1024, "{:?}", finished.outcome.usage);
    std::hint::black_box(ballast);
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
