//! The suite that every sandbox passes.
//!
//! A backend implements [`Harness`] in an integration test and calls [`sandbox_suite!`](crate::sandbox_suite) with it. In its
//! sandboxes there have to be bash, perl and the usual small programs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "these are tests"
)]

pub mod endings;
pub mod inputs;
pub mod limits;
pub mod output;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::{Chunk, Ending, Limits, Outcome, OutputStream, Run, RunSpec, Sandbox, SourceFile};

/// Long enough for whatever a case waits for, on any machine, also on one whose processor is emulated.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A sandbox under test. Dropping it removes all that it made.
#[async_trait]
pub trait Harness: Send + Sync + Sized + 'static {
    /// One in which nothing has run yet.
    async fn new() -> Self;

    /// The sandbox.
    fn sandbox(&self) -> &dyn Sandbox;

    /// Whatever is there of the execution's runs: processes, folders, pods. Empty: nothing is left.
    async fn left(&self, execution_id: &str) -> Vec<String>;
}

/// A test for each case of the suite, over a [`Harness`].
#[macro_export]
macro_rules! sandbox_suite {
    ($harness:ty) => {
        $crate::sandbox_suite! { $harness =>
            endings::exit_codes_are_kept,
            endings::a_signal_is_no_exit_code,
            endings::the_deadline_ends_a_script_that_sleeps,
            endings::the_deadline_ends_scripts_that_ignore_signals,
            endings::a_cancelled_script_that_obeys_is_not_forced,
            endings::a_cancelled_script_that_ignores_the_signal_is_killed,
            endings::a_cancel_after_the_verdict_changes_nothing,
            endings::a_child_that_holds_the_pipe_does_not_hold_the_run,
            endings::a_script_that_closes_its_output_is_still_awaited,
            endings::usage_is_measured,
            endings::fifty_runs_at_once_keep_apart,
            endings::dropping_a_run_ends_it,
            endings::dropping_a_start_leaves_nothing,
            inputs::the_environment_is_what_was_given,
            inputs::files_in_folders_are_placed_and_private,
            inputs::hostile_file_paths_are_refused,
            inputs::hostile_ids_arguments_and_variables_are_refused,
            inputs::a_missing_interpreter_is_named,
            inputs::one_attempt_does_not_run_twice_at_once,
            inputs::what_a_compiler_made_is_given_back_and_can_be_run,
            inputs::stdin_larger_than_a_pipe_comes_back_whole,
            inputs::stdin_that_nobody_reads_is_no_error,
            inputs::stdin_ends_when_there_is_none,
            limits::a_receipt_has_a_line_for_every_limit,
            limits::a_strict_run_is_refused_where_a_limit_does_not_hold_in_full,
            limits::the_verdict_names_the_limit_that_was_reached,
            limits::files_without_room_are_told_by_the_limit,
            output::a_hundred_thousand_lines_arrive_whole,
            output::a_line_of_a_mebibyte_arrives_whole,
            output::binary_output_survives,
            output::no_output_is_no_chunk,
            output::a_line_arrives_while_the_script_runs,
            output::an_owner_who_only_waits_gets_the_verdict,
            output::output_beyond_the_limit_ends_the_script_and_what_is_within_is_delivered,
            output::output_of_exactly_the_limit_is_fine,
            output::a_script_that_ended_by_itself_with_too_much_output_is_no_success,
        }
    };
    ($harness:ty => $($module:ident::$case:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::conformance::$module::$case::<$harness>().await;
            }
        )+
    };
}

/// Everything that a run gave.
#[derive(Debug)]
pub struct Finished {
    /// The bytes of standard output.
    pub stdout: Vec<u8>,
    /// The bytes of standard error.
    pub stderr: Vec<u8>,
    /// The output as it came.
    pub chunks: Vec<Chunk>,
    /// The verdict.
    pub outcome: Outcome,
}

/// A run of this command, with an id that no other has.
pub fn spec(command: &[&str]) -> RunSpec {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    RunSpec {
        execution_id: format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
        attempt: 1,
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        files: Vec::new(),
        stdin: "".into(),
        environment: BTreeMap::new(),
        limits: Limits { wall_time: Duration::from_secs(60), output_bytes: 64 * 1024 * 1024, ..Limits::default() },
        part: String::new(),
        strict: false,
        collect: None,
    }
}

/// A run of a bash script.
pub fn bash(script: &str) -> RunSpec {
    RunSpec {
        files: vec![SourceFile { path: "main.sh".to_owned(), content: script.to_owned().into() }],
        ..spec(&["/bin/bash", "main.sh"])
    }
}

/// The run with other limits.
pub fn limited(mut spec: RunSpec, change: impl FnOnce(&mut Limits)) -> RunSpec {
    change(&mut spec.limits);
    spec
}

async fn start(harness: &impl Harness, spec: RunSpec) -> Run {
    harness.sandbox().start(spec).await.unwrap()
}

async fn run(harness: &impl Harness, spec: RunSpec) -> Finished {
    finish(start(harness, spec).await).await
}

async fn nothing_is_left(harness: &impl Harness, execution_id: &str) {
    let since = Instant::now();
    loop {
        let left = harness.left(execution_id).await;
        if left.is_empty() {
            return;
        }
        assert!(since.elapsed() < PATIENCE, "left behind: {left:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Takes all output, checks that the offsets have no hole, and waits for the end.
pub async fn finish(mut run: Run) -> Finished {
    let work = async {
        let (mut stdout, mut stderr, mut chunks) = (Vec::new(), Vec::new(), Vec::new());
        // Where the output begins that has not been taken yet.
        let mut starts = [None, None];
        while let Some(chunk) = run.next_chunk().await {
            let stream = match chunk.stream {
                OutputStream::Stdout => &mut stdout,
                OutputStream::Stderr => &mut stderr,
            };
            assert!(!chunk.data.is_empty() && chunk.data.len() <= 64 * 1024);
            let start = &mut starts[chunk.stream as usize];
            assert_eq!(chunk.offset, *start.get_or_insert(chunk.offset) + stream.len() as u64);
            stream.extend_from_slice(&chunk.data);
            chunks.push(chunk);
        }
        let outcome = run.wait().await;
        for (count, start, stream) in [
            (outcome.usage.stdout_bytes, starts[OutputStream::Stdout as usize], &stdout),
            (outcome.usage.stderr_bytes, starts[OutputStream::Stderr as usize], &stderr),
        ] {
            assert_eq!(count, start.unwrap_or(count) + stream.len() as u64);
        }
        Finished { stdout, stderr, chunks, outcome }
    };
    tokio::time::timeout(PATIENCE, work).await.expect("the run should end")
}

/// The next piece of output as text, which must come soon.
pub async fn next_text(run: &mut Run) -> String {
    let chunk = tokio::time::timeout(PATIENCE, run.next_chunk()).await.expect("output should come");
    String::from_utf8(chunk.expect("there should be output").data.to_vec()).unwrap()
}

/// The rest of the standard output as text, and the verdict.
pub async fn finish_rest(run: Run) -> (String, Ending) {
    let finished = finish(run).await;
    (String::from_utf8(finished.stdout).unwrap(), finished.outcome.ending)
}

/// That the script exited by itself with this code.
#[track_caller]
pub fn assert_exited(finished: &Finished, code: i32) {
    let stderr = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(finished.outcome.ending, Ending::Exited(code), "stderr: {stderr}");
}
