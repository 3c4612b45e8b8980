//! The binary as a person or a script calls it.

use std::{fs, path::Path, process::Output};

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Mark, Mesh, PATIENCE, binary};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Calls `runmesh` in a folder of its own, and waits for its end.
async fn runmesh(folder: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let output = tokio::process::Command::new(binary()?)
        .args(arguments)
        .current_dir(folder)
        .env("HOME", folder)
        .env("XDG_DATA_HOME", folder.join("xdg"))
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(PATIENCE, output)
        .await
        .with_context(|| format!("{arguments:?} did not end"))?
        .context("runmesh")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn run_passes_on_output_and_exit_code() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("seven.sh"), "echo out; echo err >&2; exit 7\n")?;
    let output = runmesh(folder.path(), &["run", "seven.sh"]).await?;
    ensure!(output.status.code() == Some(7), "{}: {}", output.status, text(&output.stderr));
    assert_eq!(text(&output.stdout), "out\n");
    ensure!(text(&output.stderr).contains("err\n"), "{}", text(&output.stderr));

    fs::write(folder.path().join("fine.py"), "print('fine')\n")?;
    let output = runmesh(folder.path(), &["run", "fine.py"]).await?;
    ensure!(output.status.code() == Some(0), "{}: {}", output.status, text(&output.stderr));
    assert_eq!(text(&output.stdout), "fine\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn run_by_a_server_does_the_same() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("seven.sh"), "echo out; exit 7\n")?;
    let output = runmesh(folder.path(), &["run", "seven.sh", "--server", mesh.grpc()?]).await?;
    ensure!(output.status.code() == Some(7), "{}: {}", output.status, text(&output.stderr));
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(mesh.client().await?.list().await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_run_json_is_json_and_the_last_has_the_verdict() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("three.sh"), "echo one; echo two; exit 3\n")?;
    let output = runmesh(folder.path(), &["run", "three.sh", "--json"]).await?;
    ensure!(output.status.code() == Some(3), "{}: {}", output.status, text(&output.stderr));
    let stdout = text(&output.stdout);
    let lines = stdout.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>();
    let lines = lines.with_context(|| format!("not JSON lines:\n{stdout}"))?;
    ensure!(lines.iter().all(Value::is_object), "not all are objects:\n{stdout}");
    let last = lines.last().context("no line")?;
    ensure!(last["end"]["execution"]["exitCode"] == 3, "the last line is {last}");
    Ok(())
}

/// No means to hold a script's memory, files and system calls.
const NOTHING: [&str; 10] = [
    "--set",
    "runner.avoid.namespaces=true",
    "--set",
    "runner.avoid.cgroups=true",
    "--set",
    "runner.avoid.landlock=true",
    "--set",
    "runner.avoid.seccomp=true",
    "--set",
    "runner.avoid.privileges=true",
];

#[tokio::test(flavor = "multi_thread")]
async fn run_takes_limits_and_tells_which_one_was_reached() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("flood.sh"), "yes\n")?;
    let output = runmesh(folder.path(), &["run", "--output-size", "4K", "flood.sh"]).await?;
    ensure!(output.status.code() == Some(1) && output.stdout.len() == 4_096, "{output:?}");
    ensure!(text(&output.stderr).contains("failed (output limit) after"), "{}", text(&output.stderr));
    ensure!(text(&output.stderr).contains("4096 bytes"), "{}", text(&output.stderr));

    // All of them reach the service, by the names of their fields.
    let small = ["--memory", "1M", "--disk", "1K", "--file-size", "2K", "--cpus", "0.001", "--processes", "1000000"];
    let output =
        runmesh(folder.path(), &[&["run"], &small[..], &["--cpu-time", "10000h", "flood.sh"]].concat()).await?;
    let said = text(&output.stderr);
    for (field, value) in [
        ("memory_bytes", "1048576"),
        ("disk_bytes", "1024"),
        ("file_bytes", "2048"),
        ("cpu_millis", "1;"),
        ("processes", "1000000"),
        ("cpu_time", "36000000 s"),
    ] {
        let line = format!("spec.limits.{field}: is {value}");
        ensure!(said.contains(&line), "{line:?} is not in {said}");
    }
    ensure!(!output.status.success(), "{output:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn run_tells_what_was_not_held_and_a_strict_run_is_refused_for_it() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("fine.sh"), "echo fine\n")?;
    let output = runmesh(folder.path(), &[&["run"], &NOTHING[..], &["fine.sh"]].concat()).await?;
    ensure!(output.status.success() && output.stdout == b"fine\n", "{output:?}");
    let said = text(&output.stderr);
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("not held to in full")).collect();
    ensure!(lines.len() == 1, "{said}");
    for words in ["memory_bytes", "network", "syscalls", "`runmesh doctor`"] {
        ensure!(lines[0].contains(words), "{words} is not in {said}");
    }
    ensure!(!lines[0].contains("output_bytes"), "{said}");

    let output = runmesh(folder.path(), &[&["run", "--strict"], &NOTHING[..], &["fine.sh"]].concat()).await?;
    ensure!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    let said = text(&output.stderr);
    for words in ["FAILED_PRECONDITION", "memory_bytes", "network", "syscalls"] {
        ensure!(said.contains(words), "{words} is not in {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn run_tells_that_the_compiler_refused_a_program_and_why_a_case_failed() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("bad.c"), "int main(void) {\n")?;
    fs::write(folder.path().join("cases.toml"), "[[cases]]\nname = 'good'\n[[cases]]\nname = 'bad'\nstdin = 'x'\n")?;
    for arguments in [&["run", "bad.c"][..], &["run", "--cases", "cases.toml", "bad.c"]] {
        let output = runmesh(folder.path(), arguments).await?;
        ensure!(output.status.code() == Some(1), "{output:?}");
        let last = text(&output.stderr).lines().last().unwrap_or_default().to_owned();
        ensure!(last.starts_with("refused by the compiler after ") && !last.contains("0.000 s"), "{last}");
    }
    let script = "import sys\nif sys.stdin.read():\n    raise ValueError('told by the program')\nprint('noise', file=sys.stderr)\n";
    fs::write(folder.path().join("sum.py"), script)?;
    let output = runmesh(folder.path(), &["run", "--cases", "cases.toml", "sum.py"]).await?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let table = text(&output.stdout);
    let told: Vec<&str> = table.lines().filter(|line| line.contains("ValueError: told by the program")).collect();
    ensure!(told.len() == 1 && table.trim_end().ends_with(told[0]), "{table}");
    ensure!(!table.contains("noise"), "what an accepted case said is shown: {table}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_of_the_configuration_is_an_error_that_names_it() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let dev = ["dev", "--data", "data", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let output = runmesh(folder.path(), &[&dev[..], &["--set", "scheduler.slotz=2"]].concat()).await?;
    ensure!(!output.status.success(), "it ended with {}", output.status);
    ensure!(text(&output.stderr).contains("slotz"), "{}", text(&output.stderr));

    fs::write(folder.path().join("runmesh.toml"), "[scheduler]\nslotz = 2\n")?;
    let output = runmesh(folder.path(), &[&dev[..], &["--config", "runmesh.toml"]].concat()).await?;
    ensure!(!output.status.success(), "it ended with {}", output.status);
    ensure!(text(&output.stderr).contains("slotz"), "{}", text(&output.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_can_not_be_run_is_an_error_that_names_it() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let output = runmesh(folder.path(), &["run", "missing.py"]).await?;
    ensure!(!output.status.success(), "it ended with {}", output.status);
    ensure!(text(&output.stderr).contains("missing.py"), "{}", text(&output.stderr));

    fs::write(folder.path().join("what.klingon"), "nuqneH")?;
    let output = runmesh(folder.path(), &["run", "what.klingon"]).await?;
    ensure!(!output.status.success(), "it ended with {}", output.status);
    ensure!(text(&output.stderr).contains("klingon"), "{}", text(&output.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_lists_every_event_type() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let output = runmesh(folder.path(), &["topics"]).await?;
    ensure!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    let stdout = text(&output.stdout);
    for topic in runmesh_events::Catalog::get().topics() {
        ensure!(stdout.lines().any(|line| line.contains(&topic.name)), "{} is missing:\n{stdout}", topic.name);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn call_reaches_every_method_and_names_the_bad_field() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let folder = tempfile::tempdir()?;
    let call = async |method: &str, request: &str| {
        runmesh(folder.path(), &["call", method, request, "--server", mesh.grpc()?]).await
    };
    let service = "runmesh.execution.v1.ExecutionService";
    let output = call(&format!("{service}/GetLimits"), "{}").await?;
    ensure!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    let limits: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(limits["maximumLimits"]["wallTime"].is_string(), "{limits}");

    let output = call(&format!("{service}/GetExecution"), r#"{"executionId": "nonsense"}"#).await?;
    ensure!(!output.status.success(), "it ended with {}", output.status);
    ensure!(text(&output.stderr).contains("execution_id"), "{}", text(&output.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_the_command_and_the_script_without_a_panic() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mark = Mark::new("reader");
    fs::write(
        folder.path().join("endless.py"),
        "import time\nwhile True:\n    print('on', flush=True)\n    time.sleep(0.02)\n",
    )?;
    let variables: Vec<String> =
        mark.environment().iter().map(|(name, value)| format!("--env={name}={value}")).collect();
    let run: Vec<&str> =
        ["run"].into_iter().chain(variables.iter().map(String::as_str)).chain(["endless.py"]).collect();
    for arguments in [["topics"].as_slice(), &run] {
        let mut child = tokio::process::Command::new(binary()?)
            .args(arguments)
            .current_dir(folder.path())
            .env("HOME", folder.path())
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        output.read_line(&mut String::new()).await?;
        drop(output);
        let ended = tokio::time::timeout(PATIENCE, child.wait_with_output());
        let ended = ended.await.with_context(|| format!("{arguments:?} did not end"))??;
        ensure!(!text(&ended.stderr).contains("panicked"), "{arguments:?}: {}", text(&ended.stderr));
    }
    mark.gone().await
}
