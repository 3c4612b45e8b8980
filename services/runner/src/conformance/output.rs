//! Output: byte exact, live, bounded.

use super::{Harness, assert_exited, bash, limited, next_text, run, spec, start};
use crate::{Ending, RunSpec};

/// Nothing is lost of a flood.
pub async fn a_hundred_thousand_lines_arrive_whole<H: Harness>() {
    let finished = run(&H::new().await, spec(&["/usr/bin/seq", "100000"])).await;
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(finished.stdout == expected.as_bytes());
    assert_exited(&finished, 0);
}

/// A line may be longer than any buffer.
pub async fn a_line_of_a_mebibyte_arrives_whole<H: Harness>() {
    let finished = run(&H::new().await, bash("head -c 1048576 /dev/zero | tr '\\0' x; echo")).await;
    assert_eq!(finished.stdout.len(), 1_048_577);
    assert!(finished.stdout[..1_048_576].iter().all(|byte| *byte == b'x'));
}

/// Bytes are passed on as they are.
pub async fn binary_output_survives<H: Harness>() {
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let finished = run(&H::new().await, RunSpec { stdin: bytes.clone().into(), ..spec(&["/bin/cat"]) }).await;
    assert!(finished.stdout == bytes);
}

/// A silent script has no output, not empty output.
pub async fn no_output_is_no_chunk<H: Harness>() {
    let finished = run(&H::new().await, spec(&["/bin/true"])).await;
    assert!(finished.chunks.is_empty());
    assert_exited(&finished, 0);
}

/// Output is passed on before the script ends.
pub async fn a_line_arrives_while_the_script_runs<H: Harness>() {
    let harness = H::new().await;
    let script = "trap 'echo last; exit 0' TERM; echo first; while :; do :; done";
    let mut run = start(&harness, bash(script)).await;
    assert_eq!(next_text(&mut run).await, "first\n");
    run.canceller().cancel();
    assert_eq!(next_text(&mut run).await, "last\n");
    assert_eq!(run.next_chunk().await, None);
}

/// Output that nobody takes does not stand between an owner and the verdict.
pub async fn an_owner_who_only_waits_gets_the_verdict<H: Harness>() {
    let harness = H::new().await;
    let run = start(&harness, bash("head -c 10000000 /dev/zero; exit 3")).await;
    assert_eq!(run.wait().await.ending, Ending::Exited(3));
}

fn within(bytes: u64, script: &str) -> RunSpec {
    limited(bash(script), |limits| limits.output_bytes = bytes)
}

/// The limit is exact, over both streams.
pub async fn output_beyond_the_limit_ends_the_script_and_what_is_within_is_delivered<H: Harness>() {
    let finished = run(&H::new().await, within(100_000, "yes & yes >&2")).await;
    assert_eq!(finished.outcome.ending, Ending::OutputLimit);
    assert_eq!(finished.stdout.len() + finished.stderr.len(), 100_000);
}

/// As much as the limit is not more than the limit.
pub async fn output_of_exactly_the_limit_is_fine<H: Harness>() {
    let finished = run(&H::new().await, within(6, "echo 12345")).await;
    assert_exited(&finished, 0);
    assert_eq!(finished.stdout, b"12345\n");
}

/// Too much is too much, also if the script had ended before that was seen.
pub async fn a_script_that_ended_by_itself_with_too_much_output_is_no_success<H: Harness>() {
    let finished = run(&H::new().await, within(5, "echo 12345")).await;
    assert_eq!((finished.outcome.ending, &finished.stdout[..]), (Ending::OutputLimit, &b"12345"[..]));
}
