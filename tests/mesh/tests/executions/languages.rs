//! Every language: its example runs, in a sandbox of its own, and what a compiler says is told from what the program says.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Client, Mark, Mesh, PATIENCE, Transcript, repository};
use runmesh_proto::{
    event::{
        CompileResult, Enforcement, ExecutionErrorType, ExecutionStep, LimitKind, OutputStream, SourceFile,
        event::Payload,
    },
    execution::{ExecutionSpec, ExecutionState, Limits, ListRuntimesRequest, watch_execution_response::Item},
};

/// What `.ci/run` prepares on every machine: their examples must run.
const REQUIRED: [&str; 12] = ["python", "bash", "node", "perl", "ruby", "php", "lua", "c", "cpp", "rust", "go", "java"];

/// The example of a language.
fn example(language: &str) -> &'static str {
    match language {
        "python" => "sum.py",
        "bash" => "sum.sh",
        "node" => "sum.mjs",
        "perl" => "sum.pl",
        "ruby" => "sum.rb",
        "php" => "sum.php",
        "lua" => "sum.lua",
        "c" => "sum.c",
        "cpp" => "sum.cpp",
        "rust" => "sum.rs",
        "go" => "sum.go",
        "java" => "Sum.java",
        _ => "",
    }
}

fn of_example(language: &str) -> anyhow::Result<ExecutionSpec> {
    let file = example(language);
    ensure!(!file.is_empty(), "{language} has no example");
    let path = repository().join("examples").join(file);
    let script = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(ExecutionSpec { language: language.to_owned(), script, entrypoint: file.to_owned(), ..Default::default() })
}

fn program(language: &str, script: &str) -> ExecutionSpec {
    ExecutionSpec { language: language.to_owned(), script: script.to_owned(), ..Default::default() }
}

fn seconds(seconds: i64) -> Limits {
    Limits { wall_time: Some(prost_types::Duration { seconds, nanos: 0 }), ..Limits::default() }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_every_language_runs() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let listed = client.executions.clone().list_runtimes(ListRuntimesRequest {}).await?.into_inner();
    let (mut ran, mut failed) = (Vec::new(), Vec::new());
    for runtime in &listed.runtimes {
        let name = format!("{} {}", runtime.language, runtime.version);
        match run_example(&client, &runtime.language, &runtime.version).await {
            Ok(()) => ran.push(name),
            Err(error) => failed.push(format!("{name}: {error:#}")),
        }
    }
    let unavailable: Vec<String> =
        listed.unavailable.iter().map(|one| format!("{} ({})", one.language, one.package)).collect();
    println!("ran: {}\nnot here: {}", ran.join(", "), unavailable.join(", "));
    ensure!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
    for one in &listed.unavailable {
        ensure!(!one.package.is_empty() && !one.display_name.is_empty(), "{one:?}");
    }
    let missing: Vec<&str> = REQUIRED
        .into_iter()
        .filter(|language| !ran.iter().any(|name| name.split(' ').next() == Some(language)))
        .collect();
    ensure!(missing.is_empty(), "not here, though `.ci/run` prepares them: {missing:?}");
    Ok(())
}

async fn run_example(client: &Client, language: &str, version: &str) -> anyhow::Result<()> {
    let spec = ExecutionSpec {
        stdin: "1 2 3\n-4 50\n".into(),
        language_version: version.to_owned(),
        limits: Some(seconds(60)),
        ..of_example(language)?
    };
    let is_compiled = ["c", "cpp", "rust", "go", "java"].contains(&language);
    let execution_id = client.launch(spec).await?;
    // The first program in Go has to wait for the compiler's cache.
    let transcript = tokio::time::timeout(PATIENCE * 5, client.follow(&execution_id)).await??;
    let end = transcript.complete()?;
    ensure!(end.state() == ExecutionState::Completed, "{end:?}");
    let stdout = text(&transcript.stdout()?);
    ensure!(stdout == "5 numbers, sum 52\n", "{stdout:?}");
    ensure!(end.compile.is_some() == is_compiled, "{:?}", end.compile);
    if let Some(compile) = &end.compile {
        ensure!(compile.exit_code == Some(0) && compile.program_bytes > 0, "{compile:?}");
        ensure!(compile.resource_usage.is_some_and(|usage| usage.wall_time.is_some()), "{compile:?}");
    }
    Ok(())
}

/// The last event, which must blame the compiler, and its report.
fn compile_error(transcript: &Transcript) -> anyhow::Result<CompileResult> {
    let end = transcript.complete()?;
    ensure!(end.state() == ExecutionState::Failed, "{end:?}");
    ensure!(end.error_type() == ExecutionErrorType::CompileError, "{end:?}");
    ensure!(end.started_at.is_none(), "the program ran: {end:?}");
    ensure!(!transcript.types().iter().any(|name| name == "execution_started"), "{:?}", transcript.types());
    ensure!(transcript.stdout()?.is_empty(), "the program wrote something");
    let Payload::ExecutionFailed(failed) = transcript.terminal()? else { anyhow::bail!("{:?}", transcript.types()) };
    ensure!(failed.resource_usage.is_none(), "{failed:?}");
    let compile = failed.compile.clone().context("no report of the compiler")?;
    ensure!(end.compile.as_ref() == Some(&compile), "{end:?}");
    ensure!(compile.error_message == end.error_message && compile.error_message.contains("compiler"), "{compile:?}");
    Ok(compile)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_compiler_refuses_is_its_own_verdict_with_what_it_said() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    for (language, script) in [
        ("c", "int main(void) { return nothing_of_that_name; }"),
        ("cpp", "int main() { return nothing_of_that_name; }"),
        ("rust", "fn main() { nothing_of_that_name() }"),
        ("java", "class Main { int x = nothing_of_that_name; }"),
        ("go", "package main\nfunc main() { nothing_of_that_name() }"),
    ] {
        let execution_id = client.launch(program(language, script)).await?;
        let transcript = tokio::time::timeout(PATIENCE * 5, client.follow(&execution_id)).await??;
        let compile = compile_error(&transcript).context(language)?;
        ensure!(compile.exit_code.is_some_and(|code| code > 0), "{language}: {compile:?}");
        let streams = [OutputStream::Stdout, OutputStream::Stderr];
        let said: Vec<u8> = streams
            .into_iter()
            .map(|stream| transcript.output_of(ExecutionStep::Compile, stream))
            .collect::<anyhow::Result<Vec<_>>>()?
            .concat();
        ensure!(text(&said).contains("nothing_of_that_name"), "{language} said {:?}", text(&said));
        let result = client.result(&transcript.complete()?.execution_id).await?;
        let kept = [&result.compile_stdout[..], &result.compile_stderr[..]].concat();
        ensure!(kept == said, "{language}: the result has {:?}", text(&kept));
        ensure!(result.compile.as_ref() == Some(&compile), "{language}: {result:?}");
        ensure!(result.stdout.is_empty() && result.stderr.is_empty(), "{language}: {result:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_of_a_compiler_are_not_output_of_the_program() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let script = "#include <stdio.h>\n#warning mind the gap\nint main(void) { fprintf(stderr, \"ran\\n\"); return 3; }";
    let transcript = client.run(program("c", script)).await?;
    let end = transcript.complete()?;
    assert_eq!((end.state(), end.exit_code), (ExecutionState::Failed, Some(3)));
    assert_eq!(end.error_type(), ExecutionErrorType::ScriptError);
    let said = transcript.output_of(ExecutionStep::Compile, OutputStream::Stderr)?;
    ensure!(text(&said).contains("mind the gap"), "{:?}", text(&said));
    assert_eq!(transcript.output(OutputStream::Stderr)?, b"ran\n");
    let result = client.result(&end.execution_id).await?;
    assert_eq!((&result.stderr[..], result.stderr_size_bytes), (&b"ran\n"[..], 4));
    assert_eq!(result.compile_stderr, said);
    Ok(())
}

/// A program that makes the compiler busy for long: it includes itself, in two places, up to the compiler's depth limit.
fn slow() -> ExecutionSpec {
    let script = "#if __INCLUDE_LEVEL__ < 150\n#include \"main.c\"\n#include \"main.c\"\n#endif\n";
    program("c", script)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_is_held_to_limits_of_its_own() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let spec = ExecutionSpec { compile_limits: Some(seconds(1)), ..slow() };
    let transcript = client.run(spec).await?;
    let compile = compile_error(&transcript)?;
    ensure!(compile.exit_code.is_none() && compile.error_message.contains("within 1 s"), "{compile:?}");
    let used = compile.resource_usage.and_then(|usage| usage.wall_time).context("no wall time")?;
    ensure!(Duration::try_from(used)? >= Duration::from_secs(1), "{used:?}");

    let warnings = "#warning once more, with feeling\n".repeat(2_000);
    let limits = Limits { output_bytes: 10_000, ..Limits::default() };
    let spec = ExecutionSpec { compile_limits: Some(limits), ..program("c", &format!("{warnings}int main;")) };
    let transcript = client.run(spec).await?;
    let compile = compile_error(&transcript)?;
    ensure!(compile.error_message.contains("10000 bytes"), "{compile:?}");
    let said = transcript.output_of(ExecutionStep::Compile, OutputStream::Stderr)?;
    ensure!(said.len() == 10_000, "{} bytes of output", said.len());

    // The limits of the run are not those of the compiler: this takes longer to compile than it may take to run.
    let script = "#include <iostream>\n#include <regex>\nint main() { std::cout << std::regex_match(\"ab\", std::regex(\"a.\")); }";
    let limits =
        Limits { wall_time: Some(prost_types::Duration { seconds: 0, nanos: 900_000_000 }), ..Limits::default() };
    let transcript = client.run(ExecutionSpec { limits: Some(limits), ..program("cpp", script) }).await?;
    let end = transcript.complete()?;
    ensure!(end.state() == ExecutionState::Completed, "{end:?}");
    assert_eq!(transcript.stdout()?, b"1");
    let compiled = end.compile.as_ref().and_then(|compile| compile.resource_usage).and_then(|usage| usage.wall_time);
    ensure!(Duration::try_from(compiled.context("no wall time")?)? > Duration::from_millis(900), "{compiled:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_too_large_is_told_of_the_program_and_not_of_the_sandbox() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let classes: String = (0..1_200).map(|number| format!("class C{number} {{}}\n")).collect();
    let disk = Limits { disk_bytes: 64 << 10, ..Limits::default() };
    let array = |bytes: usize| program("c", &format!("char x[{bytes}] = {{1}};\nint main(void) {{ return x[1]; }}"));
    for (spec, words) in [
        (array(80 << 20), "bytes"),
        (
            program("java", &format!("class Main {{ {classes} public static void main(String[] a) {{}} }}")),
            "1000 files",
        ),
        (ExecutionSpec { limits: Some(disk), ..array(1 << 20) }, "disk_bytes"),
    ] {
        let transcript = client.run(spec).await?;
        let compile = compile_error(&transcript).context(words)?;
        ensure!(compile.exit_code == Some(0) && compile.error_message.contains(words), "{words}: {compile:?}");
    }
    // Less of the same runs.
    let transcript = client.run(array(1 << 20)).await?;
    assert_eq!(transcript.complete()?.state(), ExecutionState::Completed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_has_a_receipt_of_its_own() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let asked = |receipt: &[Enforcement]| {
        receipt.iter().find(|line| line.limit() == LimitKind::Memory).map(|line| line.asked.clone()).unwrap_or_default()
    };
    let (run, compile) = (100 << 20, 300 << 20);
    let limits = |memory_bytes: i64, wall_time: i64| Some(Limits { memory_bytes, ..seconds(wall_time) });
    for (spec, wall_time, state) in [
        (program("c", "int main(void) { return 0; }"), 30, ExecutionState::Completed),
        (program("c", "int main(void) {"), 30, ExecutionState::Failed),
        (slow(), 1, ExecutionState::Failed),
    ] {
        let spec = ExecutionSpec { limits: limits(run, 30), compile_limits: limits(compile, wall_time), ..spec };
        let transcript = client.run(spec).await?;
        let end = transcript.complete()?;
        ensure!(end.state() == state, "{end:?}");
        let result = client.result(&end.execution_id).await?;
        for (receipt, compiler) in [(&end.receipt, &end.compile), (&result.receipt, &result.compile)] {
            assert_eq!(asked(receipt), run.to_string(), "{end:?}");
            let compiler = compiler.as_ref().context("no report of the compiler")?;
            assert_eq!(asked(&compiler.receipt), compile.to_string(), "{end:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_a_compiler() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let execution_id = client.launch(slow()).await?;
    let mark = Mark::of_execution(&execution_id);
    let made = |payload: &Option<Payload>| matches!(payload, Some(Payload::PodRunning(_)));
    let mut watch = client.watch(&execution_id, "").await?;
    watch.until(|message| matches!(&message.item, Some(Item::Event(event)) if made(&event.payload))).await?;
    ensure!(!mark.processes().is_empty(), "no compiler runs");
    client.cancel(&execution_id, "too slow").await?;
    let transcript = client.follow(&execution_id).await?;
    assert_eq!(transcript.complete()?.state(), ExecutionState::Cancelled);
    assert!(!transcript.types().iter().any(|name| name == "execution_started"), "{:?}", transcript.types());
    mark.gone().await
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_of_several_files_are_compiled_together() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let file = |path: &str, content: &str| SourceFile { path: path.to_owned(), content: content.to_owned().into() };
    for (language, entrypoint, files) in [
        (
            "c",
            "main.c",
            vec![
                file("main.c", "#include <stdio.h>\n#include \"lib/word.h\"\nint main(void) { puts(word()); }"),
                file("lib/word.h", "const char *word(void);"),
                file("lib/word.c", "#include \"word.h\"\nconst char *word(void) { return \"together\"; }"),
            ],
        ),
        (
            "java",
            "app/Main.java",
            vec![
                file(
                    "app/Main.java",
                    "package app; class Main { public static void main(String[] a) { System.out.println(Word.get()); } }",
                ),
                file("app/Word.java", "package app; class Word { static String get() { return \"together\"; } }"),
            ],
        ),
        (
            "rust",
            "main.rs",
            vec![
                file("main.rs", "mod word;\nfn main() { println!(\"{}\", word::get()) }"),
                file("word.rs", "pub fn get() -> &'static str { \"together\" }"),
            ],
        ),
        (
            "go",
            "main.go",
            vec![
                file("go.mod", "module example.org/words\n\ngo 1.21\n"),
                file(
                    "main.go",
                    "package main\nimport (\"fmt\"; \"example.org/words/word\")\nfunc main() { fmt.Println(word.Get(), also()) }",
                ),
                file("also.go", "package main\nfunc also() string { return \"too\" }"),
                file("word/word.go", "package word\nfunc Get() string { return \"together\" }"),
            ],
        ),
    ] {
        let spec = ExecutionSpec { files, entrypoint: entrypoint.to_owned(), ..program(language, "") };
        let execution_id = client.launch(spec).await?;
        let transcript = tokio::time::timeout(PATIENCE * 5, client.follow(&execution_id)).await??;
        let end = transcript.complete()?;
        let said = transcript.output_of(ExecutionStep::Compile, OutputStream::Stderr)?;
        ensure!(end.state() == ExecutionState::Completed, "{language}: {end:?}\n{}", text(&said));
        ensure!(text(&transcript.stdout()?).starts_with("together"), "{language}: {:?}", text(&transcript.stdout()?));
    }
    Ok(())
}
