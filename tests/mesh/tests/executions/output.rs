//! Whatever a script writes arrives byte by byte, and live.

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Mark, Mesh, bash, python};
use runmesh_proto::{
    event::{OutputStream, event::Payload},
    execution::{ExecutionSpec, ExecutionState, Limits, watch_execution_response::Item},
};

/// More than any of these scripts writes.
fn roomy(mut spec: ExecutionSpec) -> ExecutionSpec {
    spec.limits = Some(Limits { output_bytes: 8 << 20, ..Default::default() });
    spec
}

/// Runs to exit code 0 and returns what the script wrote to standard output, which the result has too.
async fn stdout_of(spec: ExecutionSpec) -> anyhow::Result<Vec<u8>> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let transcript = client.run(roomy(spec)).await?;
    let end = transcript.complete()?;
    ensure!(end.state() == ExecutionState::Completed, "it ended as {end:?}\n{}", mesh.log());
    ensure!(end.exit_code == Some(0), "exit code {:?}", end.exit_code);

    let stdout = transcript.stdout()?;
    let result = client.result(&end.execution_id).await?;
    ensure!(usize::try_from(result.stdout_size_bytes)? == stdout.len(), "size {}", result.stdout_size_bytes);
    ensure!(result.stdout == stdout[..stdout.len().min(1 << 20)], "the result has other bytes than the log");
    let usage = end.resource_usage.as_ref().context("no resource usage")?;
    ensure!(usize::try_from(usage.stdout_bytes)? == stdout.len(), "usage says {}", usage.stdout_bytes);
    Ok(stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_lines_arrive_complete() -> anyhow::Result<()> {
    let stdout = stdout_of(python("for i in range(100_000):\n    print('line', i)\n")).await?;
    let wanted: String = (0..100_000).map(|i| format!("line {i}\n")).collect();
    ensure!(stdout == wanted.as_bytes(), "{} bytes, not {}", stdout.len(), wanted.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_a_mebibyte_arrives_complete() -> anyhow::Result<()> {
    let stdout = stdout_of(python("print(''.join(chr(97 + i * i % 26) for i in range(1 << 20)))")).await?;
    let wanted: String =
        (0..1_u64 << 20).map(|i| char::from(97 + u8::try_from(i * i % 26).unwrap_or(0))).chain(['\n']).collect();
    ensure!(stdout == wanted.as_bytes(), "{} bytes, not {}", stdout.len(), wanted.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_output_survives() -> anyhow::Result<()> {
    let stdout = stdout_of(python("import os\nos.write(1, bytes(range(256)) * 16)")).await?;
    let wanted: Vec<u8> = (0..16).flat_map(|_| 0..=255).collect();
    assert_eq!(stdout, wanted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_character_that_is_split_between_two_writes_survives() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    // A busy machine may look at both writes at once: the longer the pause, the less likely.
    for pause in ["0.5", "4", "16"] {
        let script =
            format!("import os, time\nos.write(1, b'\\xf0\\x9f')\ntime.sleep({pause})\nos.write(1, b'\\x98\\x80\\n')");
        let transcript = client.run(python(&script)).await?;
        assert_eq!(transcript.stdout()?, "😀\n".as_bytes());
        let pieces: Vec<&[u8]> = transcript
            .events()
            .filter_map(|event| match &event.payload {
                Some(Payload::ExecutionOutput(piece)) => Some(&piece.data[..]),
                _ => None,
            })
            .collect();
        if pieces == [&b"\xf0\x9f"[..], b"\x98\x80\n"] {
            return Ok(());
        }
    }
    anyhow::bail!("it was never split, so nothing was tested")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_without_output_has_none() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let transcript = client.run(python("pass")).await?;
    let end = transcript.complete()?;
    assert_eq!(end.state(), ExecutionState::Completed);
    assert!(!transcript.events().any(|event| matches!(event.payload, Some(Payload::ExecutionOutput(_)))));
    let result = client.result(&end.execution_id).await?;
    assert!(result.stdout.is_empty() && result.stderr.is_empty());
    assert_eq!((result.stdout_size_bytes, result.stderr_size_bytes), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_streams_are_told_apart() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let transcript = mesh.client().await?.run(bash("echo out; echo err >&2; echo out again")).await?;
    assert_eq!(transcript.stdout()?, b"out\nout again\n");
    assert_eq!(transcript.output(OutputStream::Stderr)?, b"err\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_seen_while_the_script_runs() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let execution_id = client.launch(bash("echo first; sleep 600")).await?;
    let seen = client
        .watch(&execution_id, "")
        .await?
        .until(|message| matches!(&message.item, Some(Item::Event(event)) if matches!(event.payload, Some(Payload::ExecutionOutput(_)))))
        .await?;
    assert_eq!(seen.stdout()?, b"first\n");
    client.cancel(&execution_id, "seen").await?;
    client.follow(&execution_id).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_holds_the_pipe_does_not_hold_the_execution() -> anyhow::Result<()> {
    let mark = Mark::new("holds-the-pipe");
    let mesh = Mesh::start().await?;
    // Both keep standard output open: one in the script's process group, one that left it.
    let script = "sleep 600 & setsid sleep 600 & echo done";
    let spec = ExecutionSpec { environment: mark.environment(), ..bash(script) };
    let transcript = mesh.client().await?.run(spec).await?;
    let end = transcript.complete()?;
    assert_eq!((end.state(), end.exit_code), (ExecutionState::Completed, Some(0)));
    assert_eq!(transcript.stdout()?, b"done\n");
    mark.gone().await
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_larger_than_a_pipe_arrives_complete() -> anyhow::Result<()> {
    let stdin: Vec<u8> = (0..700_000_u32).map(|i| u8::try_from(i % 251).unwrap_or(0)).collect();
    let script = "import shutil, sys\nshutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)";
    let stdout = stdout_of(ExecutionSpec { stdin: stdin.clone().into(), ..python(script) }).await?;
    ensure!(stdout == stdin, "{} bytes came back of {}", stdout.len(), stdin.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_that_nobody_reads_is_no_trouble() -> anyhow::Result<()> {
    let stdin = vec![b'x'; 700_000];
    let stdout = stdout_of(ExecutionSpec { stdin: stdin.into(), ..python("print('did not read')") }).await?;
    assert_eq!(stdout, b"did not read\n");
    Ok(())
}
