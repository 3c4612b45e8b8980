//! From the command to the first line of a script's output.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{binary, repository};

use crate::Times;

const RUNS: usize = 20;

/// Starts a command, and returns when its first line is there; then waits for its end.
fn first_line(command: &mut Command, times: &mut Times) -> anyhow::Result<()> {
    let since = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    output.read_line(&mut line)?;
    times.add(since.elapsed());
    std::io::copy(&mut output, &mut std::io::sink())?;
    let status = child.wait()?;
    ensure!(status.success() && !line.is_empty(), "{status}, first line {line:?}");
    Ok(())
}

/// `runmesh run examples/hello.py`, with the start of an embedded node, against the interpreter alone.
pub(crate) fn time() -> anyhow::Result<()> {
    let (mut alone, mut meshed) = (Times::new()?, Times::new()?);
    let script = repository().join("examples/hello.py");
    // The interpreter itself, since `python3` may be a wrapper that looks for it.
    let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output()?;
    let python = String::from_utf8(asked.stdout)?;
    for _ in 0..RUNS {
        first_line(Command::new(python.trim()).arg(&script), &mut alone)?;
        first_line(Command::new(binary()?).arg("run").arg(&script), &mut meshed)?;
    }
    alone.print("python3 examples/hello.py");
    meshed.print("runmesh run examples/hello.py");
    Ok(())
}
