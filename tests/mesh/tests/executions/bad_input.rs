//! Bad input is refused with the right code and the field's name, and nothing of it is stored.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Client, Mesh, Options, bad_fields, bash, python, reason, repository};
use runmesh_proto::{
    event::{RunCase, SourceFile},
    execution::{
        CreateExecutionRequest, ExecutionSpec, ExecutionState, GetLimitsRequest, Limits, ListExecutionsRequest,
        WaitExecutionRequest,
    },
};
use tonic::{Code, Status};

const NOBODY: &str = "0190b1f2-7d1e-7000-8000-000000000000";

fn refused<T>(answer: Result<T, Status>, code: Code, field: &str) -> anyhow::Result<()> {
    let status = answer.err().context("it was accepted")?;
    ensure!(status.code() == code, "{status:?}");
    ensure!(bad_fields(&status) == [field], "{:?}: {}", bad_fields(&status), status.message());
    ensure!(!reason(&status).is_empty(), "no reason: {status:?}");
    ensure!(status.message().contains(field), "the message does not name the field: {}", status.message());
    Ok(())
}

/// Creates with each spec, in a mesh without executions: each is INVALID_ARGUMENT for its field, and none is stored.
async fn all_refused(bad: impl IntoIterator<Item = (ExecutionSpec, &str)>) -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    for (spec, field) in bad {
        refused(client.create(spec).await, Code::InvalidArgument, field).context(field.to_owned())?;
    }
    nothing_stored(&client).await
}

async fn nothing_stored(client: &Client) -> anyhow::Result<()> {
    let stored = client.list().await?;
    ensure!(stored.is_empty(), "stored: {stored:?}");
    Ok(())
}

fn with_file(path: &str) -> ExecutionSpec {
    let file = SourceFile { path: path.to_owned(), content: "x".into() };
    ExecutionSpec { files: vec![file], ..python("pass") }
}

fn with_limits(limits: Limits) -> ExecutionSpec {
    ExecutionSpec { limits: Some(limits), ..python("pass") }
}

fn seconds(seconds: i64) -> Limits {
    Limits { wall_time: Some(prost_types::Duration { seconds, nanos: 0 }), ..Limits::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_language_is_refused() -> anyhow::Result<()> {
    let bad = |language: &str| ExecutionSpec { language: language.to_owned(), ..python("pass") };
    all_refused([(bad("klingon"), "spec.language"), (bad(""), "spec.language")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_version_is_refused() -> anyhow::Result<()> {
    let bad = |version: &str| ExecutionSpec { language_version: version.to_owned(), ..python("pass") };
    all_refused([(bad("1.4"), "spec.language_version"), (bad("three"), "spec.language_version")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_script_is_refused() -> anyhow::Result<()> {
    all_refused([(python(""), "spec.script")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_over_the_size_limit_are_refused() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let limits = client.executions.clone().get_limits(GetLimitsRequest {}).await?.into_inner();
    let most = usize::try_from(limits.maximum_source_bytes)?;
    let comment = |bytes: usize| format!("#{}", "x".repeat(bytes - 1));

    refused(client.create(bash(&comment(most + 1))).await, Code::InvalidArgument, "spec.script")?;
    let stdin = ExecutionSpec { stdin: vec![0; most].into(), ..bash("true") };
    refused(client.create(stdin).await, Code::InvalidArgument, "spec.stdin")?;
    let file = SourceFile { path: "big".to_owned(), content: vec![0; most].into() };
    let files = ExecutionSpec { files: vec![file], ..bash("true") };
    refused(client.create(files).await, Code::InvalidArgument, "spec.files")?;
    let many = (0..=limits.maximum_files).map(|i| SourceFile { path: format!("f{i}"), content: "x".into() });
    let files = ExecutionSpec { files: many.collect(), ..bash("true") };
    refused(client.create(files).await, Code::InvalidArgument, "spec.files")?;
    nothing_stored(&client).await?;

    // The limit itself is not over it.
    client.run(bash(&comment(most))).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn negative_limits_are_refused() -> anyhow::Result<()> {
    all_refused([
        (with_limits(seconds(-1)), "spec.limits.wall_time"),
        (with_limits(Limits { output_bytes: -1, ..Limits::default() }), "spec.limits.output_bytes"),
        (with_limits(Limits { memory_bytes: -1, ..Limits::default() }), "spec.limits.memory_bytes"),
        (with_limits(Limits { cpu_millis: -1, ..Limits::default() }), "spec.limits.cpu_millis"),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_in_which_nothing_could_run_are_refused() -> anyhow::Result<()> {
    let compiled = |limits: Limits| ExecutionSpec {
        language: "c".to_owned(),
        script: "int main;".to_owned(),
        compile_limits: Some(limits),
        ..ExecutionSpec::default()
    };
    let in_case = RunCase { memory_bytes: 1, ..RunCase::default() };
    all_refused([
        (with_limits(Limits { memory_bytes: 1, ..Limits::default() }), "spec.limits.memory_bytes"),
        (with_limits(Limits { memory_bytes: (4 << 20) - 1, ..Limits::default() }), "spec.limits.memory_bytes"),
        (with_limits(Limits { disk_bytes: 4_095, ..Limits::default() }), "spec.limits.disk_bytes"),
        (with_limits(Limits { file_bytes: 4_095, ..Limits::default() }), "spec.limits.file_bytes"),
        (with_limits(Limits { cpu_millis: 9, ..Limits::default() }), "spec.limits.cpu_millis"),
        (compiled(Limits { memory_bytes: 1, ..Limits::default() }), "spec.compile_limits.memory_bytes"),
        (compiled(Limits { disk_bytes: 1, ..Limits::default() }), "spec.compile_limits.disk_bytes"),
        (ExecutionSpec { cases: vec![in_case], ..python("pass") }, "spec.cases[0].memory_bytes"),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_do_not_fit_into_the_limits_are_refused() -> anyhow::Result<()> {
    const SIZE: usize = 3 << 20;
    let large = || bash(&format!("true #{}", "x".repeat(SIZE - 6)));
    let file = |bytes: usize| SourceFile { path: format!("f{bytes}"), content: vec![b'x'; bytes].into() };
    let files = |sizes: &[usize]| ExecutionSpec { files: sizes.iter().copied().map(file).collect(), ..bash("true") };
    let limited = |spec: ExecutionSpec, limits: Limits| ExecutionSpec { limits: Some(limits), ..spec };
    let disk = |disk_bytes: i64| Limits { disk_bytes, ..Limits::default() };
    let memory = |memory_bytes: i64| Limits { memory_bytes, ..Limits::default() };
    let compiled = ExecutionSpec {
        language: "c".to_owned(),
        compile_limits: Some(disk(2 << 20)),
        script: format!("int main; //{}", "x".repeat(SIZE)),
        ..ExecutionSpec::default()
    };
    let in_case = RunCase { memory_bytes: 4 << 20, ..RunCase::default() };
    let mesh = Mesh::start_with(Options::set(["execution.maximum_source_bytes=16777216"])).await?;
    let client = mesh.client().await?;
    for (spec, field) in [
        (limited(large(), disk(4_096)), "spec.limits.disk_bytes"),
        (limited(large(), disk(2 << 20)), "spec.limits.disk_bytes"),
        // A file of one byte takes as much as one of 4,096.
        (limited(files(&[1, 2, 3]), disk(3 * 4_096)), "spec.limits.disk_bytes"),
        (limited(files(&[5 << 20]), memory(4 << 20)), "spec.limits.memory_bytes"),
        (compiled, "spec.compile_limits.disk_bytes"),
        (ExecutionSpec { cases: vec![RunCase::default(), in_case], ..files(&[5 << 20]) }, "spec.cases[1].memory_bytes"),
    ] {
        refused(client.create(spec).await, Code::InvalidArgument, field).context(field.to_owned())?;
    }
    nothing_stored(&client).await?;

    // What fits runs.
    let transcript = client.run(limited(files(&[1, 2, 3]), disk(4 * 4_096))).await?;
    assert_eq!(transcript.complete()?.state(), ExecutionState::Completed, "{:?}", transcript.complete()?);
    let transcript = client.run(limited(large(), disk(SIZE as i64))).await?;
    assert_eq!(transcript.complete()?.state(), ExecutionState::Completed, "{:?}", transcript.complete()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_language_that_is_not_installed_is_refused_with_the_package_that_brings_it() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let registry = folder.path().join("runtimes.toml");
    let built_in = std::fs::read_to_string(repository().join("services/runner/runtimes.toml"))?;
    let absent = "[[language]]\nname = \"absent\"\ndisplay = \"Absent\"\npackage = \"absent-lang\"\n\
                  file_name = \"main.absent\"\nexecutables = [\"no-such-program\"]\nversion = []\n\
                  command = [\"{program}\", \"{file}\"]\n";
    std::fs::write(&registry, format!("{built_in}\n{absent}"))?;
    let setting = format!("runner.runtimes={}", registry.display());
    let mesh = Mesh::start_with(Options::set([setting.as_str()])).await?;
    let client = mesh.client().await?;
    let spec = ExecutionSpec { language: "absent".to_owned(), ..python("pass") };
    let status = client.create(spec).await.err().context("it was accepted")?;
    ensure!(bad_fields(&status) == ["spec.language"], "{status:?}");
    ensure!(status.message().contains("the package absent-lang brings it"), "{}", status.message());
    nothing_stored(&client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_over_the_ceiling_are_refused() -> anyhow::Result<()> {
    all_refused([
        (with_limits(seconds(1_000_000)), "spec.limits.wall_time"),
        (with_limits(seconds(i64::MAX)), "spec.limits.wall_time"),
        (with_limits(Limits { output_bytes: i64::MAX, ..Limits::default() }), "spec.limits.output_bytes"),
        (with_limits(Limits { memory_bytes: i64::MAX, ..Limits::default() }), "spec.limits.memory_bytes"),
        (with_limits(Limits { cpu_millis: i32::MAX, ..Limits::default() }), "spec.limits.cpu_millis"),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_path_of_a_file_is_refused() -> anyhow::Result<()> {
    all_refused([(with_file("/etc/passwd"), "spec.files[0].path"), (with_file(""), "spec.files[0].path")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_climbs_out_is_refused() -> anyhow::Result<()> {
    let entrypoint = ExecutionSpec { entrypoint: "../main.py".to_owned(), ..python("pass") };
    all_refused([
        (with_file("../outside"), "spec.files[0].path"),
        (with_file("a/../../outside"), "spec.files[0].path"),
        (with_file(".."), "spec.files[0].path"),
        (entrypoint, "spec.entrypoint"),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_the_way_of_the_script_or_of_each_other_are_refused() -> anyhow::Result<()> {
    let behind_a_file = ExecutionSpec { entrypoint: "a/b.py".to_owned(), ..with_file("a") };
    let deep = vec!["a"; 40].join("/");
    all_refused([
        (with_file("main.py"), "spec.files"),
        (behind_a_file, "spec.files"),
        (with_file(&deep), "spec.files[0].path"),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn durations_at_the_ends_of_their_range_are_refused() -> anyhow::Result<()> {
    all_refused([i64::MIN, i64::MAX].map(|number| (with_limits(seconds(number)), "spec.limits.wall_time"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn several_bad_fields_are_all_named() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let labels = BTreeMap::from([("k".repeat(64), "v".to_owned())]);
    let spec = ExecutionSpec { language: "klingon".to_owned(), labels, ..with_limits(seconds(-1)) };
    let status = client.create(spec).await.err().context("it was accepted")?;
    let mut fields = bad_fields(&status);
    fields.sort();
    let label = format!("spec.labels[{:?}]", "k".repeat(64));
    assert_eq!(fields, [label.as_str(), "spec.language", "spec.limits.wall_time"]);
    nothing_stored(&client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_page_token_is_refused() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let list = async |page_token: &str, page_size: i32, language: &str| {
        let (page_token, language) = (page_token.to_owned(), language.to_owned());
        let request = ListExecutionsRequest { page_token, page_size, language, ..Default::default() };
        client.executions.clone().list_executions(request).await
    };
    for bad in ["nonsense", "!!!", "e30"] {
        refused(list(bad, 0, "").await, Code::InvalidArgument, "page_token")?;
    }
    refused(list("", -1, "").await, Code::InvalidArgument, "page_size")?;
    refused(list("", 1001, "").await, Code::InvalidArgument, "page_size")?;

    for _ in 0..2 {
        client.launch(bash("true")).await?;
    }
    let token = list("", 1, "").await?.into_inner().next_page_token;
    ensure!(!token.is_empty(), "the first of two pages has no token for the next");
    refused(list(&token, 1, "bash").await, Code::InvalidArgument, "page_token").context("a token of another list")?;
    assert_eq!(list(&token, 1, "").await?.into_inner().executions.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_id_is_not_found() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let wait = WaitExecutionRequest { execution_id: NOBODY.to_owned(), timeout: None };
    let answers = [
        client.get(NOBODY).await.err(),
        client.cancel(NOBODY, "").await.err(),
        client.result(NOBODY).await.err(),
        client.executions.clone().wait_execution(wait).await.err(),
        watch_error(&client, NOBODY, "").await?,
    ];
    for status in answers {
        let status = status.context("it was found")?;
        ensure!(status.code() == Code::NotFound, "{status:?}");
        ensure!(reason(&status) == "EXECUTION_NOT_FOUND", "{}", reason(&status));
        ensure!(status.message().contains(NOBODY), "the message does not name the id: {}", status.message());
    }
    nothing_stored(&client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_id_is_refused() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    for bad in ["", "nonsense", "../../etc/passwd"] {
        refused(client.get(bad).await, Code::InvalidArgument, "execution_id")?;
        refused(client.cancel(bad, "").await, Code::InvalidArgument, "execution_id")?;
        refused(client.result(bad).await, Code::InvalidArgument, "execution_id")?;
        let status = watch_error(&client, bad, "").await?.context("it was watched")?;
        refused::<()>(Err(status), Code::InvalidArgument, "execution_id")?;
    }
    Ok(())
}

/// The error of a watch: of the call, or of the stream's first message.
async fn watch_error(client: &Client, execution_id: &str, cursor: &str) -> anyhow::Result<Option<Status>> {
    match client.watch(execution_id, cursor).await {
        Err(status) => Ok(Some(status)),
        Ok(mut watch) => match watch.next().await {
            Ok(_) => Ok(None),
            Err(error) => Ok(Some(error.downcast::<Status>()?)),
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_cursor_is_refused() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let execution_id = client.run(bash("true")).await?.complete()?.execution_id.clone();
    for bad in ["nonsense", "-1", "1 ", "99999999999999999999999", "1.ended"] {
        let status = watch_error(&client, &execution_id, bad).await?.context("it was watched")?;
        refused::<()>(Err(status), Code::InvalidArgument, "cursor").context(bad)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_beyond_the_end_is_out_of_range() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let short = client.run(bash("true")).await?;
    // Cursors of a longer log lie beyond the end of this one.
    let long = client.run(bash("head -c 500000 /dev/zero")).await?;
    let end = short.complete()?;
    ensure!(long.complete()?.last_sequence > end.last_sequence + 1, "the log is not longer");
    for beyond in long.cursors().iter().rev().take(2) {
        let status = watch_error(&client, &end.execution_id, beyond).await?.context("it was watched")?;
        refused::<()>(Err(status), Code::OutOfRange, "cursor").context((*beyond).to_owned())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_request_is_refused() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let spec = ExecutionSpec { stdin: vec![0; 9 << 20].into(), ..bash("true") };
    let status = client.create(spec).await.err().context("it was accepted")?;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(reason(&status), "REQUEST_TOO_LARGE");
    nothing_stored(&client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_with_other_content_is_refused_and_with_the_same_is_the_same_execution() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let create = async |script: &str| {
        let request = CreateExecutionRequest { request_id: "one".to_owned(), spec: Some(bash(script)) };
        client.executions.clone().create_execution(request).await
    };
    let first = create("echo one").await?.into_inner().execution.context("no execution")?;
    refused(create("echo two").await, Code::AlreadyExists, "request_id")?;
    let again = create("echo one").await?.into_inner().execution.context("no execution")?;
    assert_eq!(again.execution_id, first.execution_id);
    assert_eq!(client.list().await?.len(), 1);
    assert_eq!(client.follow(&first.execution_id).await?.stdout()?, b"one\n");
    // Also after it has ended.
    let late = create("echo one").await?.into_inner().execution.context("no execution")?;
    assert_eq!(late.execution_id, first.execution_id);
    refused(create("echo two").await, Code::AlreadyExists, "request_id")?;

    let request = CreateExecutionRequest { request_id: "x".repeat(129), spec: Some(bash("true")) };
    refused(client.executions.clone().create_execution(request).await, Code::InvalidArgument, "request_id")?;
    assert_eq!(client.list().await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_spec_is_refused() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let request = CreateExecutionRequest::default();
    refused(client.executions.clone().create_execution(request).await, Code::InvalidArgument, "spec")?;
    nothing_stored(&client).await
}
