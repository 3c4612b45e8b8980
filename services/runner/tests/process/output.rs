//! Output: byte exact, in order, live, in few chunks, bounded.

use std::time::{Duration, Instant};

use runmesh_runner::OutputStream;

use crate::harness::{Harness, assert_exited, bash, finish, next_text, spec};

#[tokio::test]
async fn a_flood_of_single_lines_makes_few_chunks() {
    let finished = Harness::new().run(bash("for ((i = 0; i < 100000; i++)); do echo $i; done")).await;
    assert_eq!(finished.stdout.split(|byte| *byte == b'\n').count(), 100_001);
    let chunks = u128::try_from(finished.chunks.len()).unwrap();
    // One per window, and those that were full.
    let most = finished.outcome.usage.wall.as_millis() / 5 + 588_890 / 65_536 + 10;
    assert!(chunks <= most, "{chunks} chunks, at most {most} expected");
}

#[tokio::test]
async fn an_emoji_split_between_two_chunks_survives() {
    let harness = Harness::new();
    let mut run = harness
        .start(bash(r"mkdir half; printf '\xf0\x9f'; while [ -d half ]; do sleep 0.01; done; printf '\x98\x80\n'"))
        .await;
    let first = run.next_chunk().await.unwrap();
    std::fs::remove_dir(harness.work(&run).join("half")).unwrap();
    let second = run.next_chunk().await.unwrap();
    assert_eq!((&first.data[..], second.offset), (&b"\xf0\x9f"[..], 2));
    assert_eq!([first.data, second.data].concat(), "😀\n".as_bytes());
}

#[tokio::test]
async fn a_line_arrives_while_the_script_runs() {
    let harness = Harness::new();
    // It goes on only once its first line has been seen: by the folder that this test removes.
    let mut run =
        harness.start(bash("mkdir seen; echo first; while [ -d seen ]; do sleep 0.01; done; echo last")).await;
    assert_eq!(next_text(&mut run).await, "first\n");
    std::fs::remove_dir(harness.work(&run).join("seen")).unwrap();
    assert_eq!(next_text(&mut run).await, "last\n");
    assert_eq!(run.next_chunk().await, None);
}

#[tokio::test]
async fn a_line_and_its_end_written_separately_are_one_chunk() {
    let harness = Harness::new();
    // A script that was stopped between the two for longer than a chunk waits has two.
    for _ in 0..20 {
        let finished = harness.run(bash("printf hello; printf '\\n'")).await;
        let texts: Vec<_> = finished.chunks.iter().map(|chunk| chunk.data.as_ref()).collect();
        match texts.as_slice() {
            [b"hello\n"] => return,
            other => assert_eq!(other, [b"hello".as_slice(), b"\n"]),
        }
    }
    panic!("never one chunk");
}

#[tokio::test]
async fn the_two_streams_keep_their_bytes_and_their_order() {
    let harness = Harness::new();
    let mut run = harness
        .start(bash("mkdir a b; echo 1; while [ -d a ]; do :; done; echo 2 >&2; while [ -d b ]; do :; done; echo 3"))
        .await;
    let work = harness.work(&run);
    let mut got = Vec::new();
    for folder in [Some("a"), Some("b"), None] {
        let chunk = run.next_chunk().await.unwrap();
        got.push((chunk.stream, chunk.offset, String::from_utf8(chunk.data.to_vec()).unwrap()));
        if let Some(folder) = folder {
            std::fs::remove_dir(work.join(folder)).unwrap();
        }
    }
    assert_eq!(
        got,
        [
            (OutputStream::Stdout, 0, "1\n".to_owned()),
            (OutputStream::Stderr, 0, "2\n".to_owned()),
            (OutputStream::Stdout, 2, "3\n".to_owned())
        ]
    );
}

/// What a script wrote to its two streams, one piece after the other, in the order of its chunks.
fn in_order(finished: &crate::harness::Finished) -> String {
    let pieces = finished.chunks.iter().map(|chunk| String::from_utf8_lossy(&chunk.data).into_owned());
    pieces.collect()
}

#[tokio::test]
async fn what_is_written_in_turns_is_told_in_turns() {
    let expected: String = (0..300).map(|number| format!("o{number}\ne{number}\n")).collect();
    let finished = Harness::new().run(bash("for ((i = 0; i < 300; i++)); do echo o$i; echo e$i >&2; done")).await;
    assert_eq!(in_order(&finished), expected);
    let script = "$| = 1; for (0 .. 299) { print \"o$_\\n\"; print STDERR \"e$_\\n\" }";
    let finished = Harness::new().run(spec(&["/usr/bin/perl", "-e", script])).await;
    assert_eq!(in_order(&finished), expected);
    // Also from several processes, one after the other.
    let script = "for i in {0..99}; do (echo o$i; exec 1>&2; echo e$i); /bin/echo o$i; /bin/echo e$i >&2; done";
    let finished = Harness::new().run(bash(script)).await;
    let expected: String = (0..100).map(|number| format!("o{number}\ne{number}\n").repeat(2)).collect();
    assert_eq!(in_order(&finished), expected);
}

#[tokio::test]
async fn output_of_uncertain_order_comes_while_the_script_waits() {
    // Two lines at once and one, or one line and one in turns: that can't be told apart until there is another note.
    let script = "for i in {1..50}; do mkdir $i; printf '1\\n2\\n'; echo 3 >&2; while [ -d $i ]; do :; done; done";
    let harness = Harness::new();
    let mut run = harness.start(bash(script)).await;
    let work = harness.work(&run);
    for number in 1..=50 {
        let mut got = String::new();
        while got.len() < 6 {
            got += &next_text(&mut run).await;
        }
        assert_eq!(got, "1\n2\n3\n", "round {number}");
        std::fs::remove_dir(work.join(number.to_string())).unwrap();
    }
    assert_exited(&finish(run).await, 0);
}

#[tokio::test]
async fn order_costs_a_flood_of_switches_no_flood_of_chunks() {
    let script = "$| = 1; for (1 .. 30_000) { syswrite STDOUT, 'o'; syswrite STDERR, 'e' }";
    let finished = Harness::new().run(spec(&["/usr/bin/perl", "-e", script])).await;
    assert_exited(&finished, 0);
    assert_eq!((finished.stdout.len(), finished.stderr.len()), (30_000, 30_000));
    let most = 2_300 + 600 * finished.outcome.usage.wall.as_millis() as usize / 1_000;
    assert!(finished.chunks.len() < most, "{} chunks", finished.chunks.len());
}

#[tokio::test]
async fn thousands_of_switches_between_the_streams_lose_nothing() {
    let finished = Harness::new().run(bash("for ((i = 0; i < 5000; i++)); do echo o$i; echo e$i >&2; done")).await;
    let lines = |letter: char| -> String { (0..5000).map(|number| format!("{letter}{number}\n")).collect() };
    assert!(finished.stdout == lines('o').as_bytes());
    assert!(finished.stderr == lines('e').as_bytes());
}

#[tokio::test]
async fn a_script_waits_for_an_owner_that_takes_nothing() {
    let harness = Harness::new();
    let run = harness.start(bash("for i in {1..64}; do head -c 65536 /dev/zero; echo $i > written; done")).await;
    let written = harness.work(&run).join("written");
    // It must come to a halt: in the pipe, the channel and one chunk there is room for about 5 x 64 KiB.
    let count = || std::fs::read_to_string(&written).ok().and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(0);
    let (mut last, mut since) = (0, Instant::now());
    while last == 0 || since.elapsed() < Duration::from_millis(300) {
        if count() != last {
            (last, since) = (count(), Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(last < 10, "{last} pieces were written though nobody took any");
    assert_eq!(finish(run).await.stdout.len(), 64 * 65_536);
}
