//! Cases that are not acceptable are refused with the names of their fields, and nothing of them is stored.

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Client, Mesh, Options, bad_fields, bash, reason};
use runmesh_proto::{
    event::{CaseOptions, RunCase},
    execution::{ExecutionSpec, GetLimitsRequest, Limits, RunCasesRequest},
};
use tonic::{Code, Status};

async fn call(client: &Client, request: RunCasesRequest) -> Result<(), Status> {
    client.run_cases(request).await.map(drop)
}

fn refused(answer: Result<(), Status>, code: Code, fields: &[&str]) -> anyhow::Result<()> {
    let status = answer.err().context("it was accepted")?;
    ensure!(status.code() == code, "{status:?}");
    ensure!(bad_fields(&status) == fields, "{:?}: {}", bad_fields(&status), status.message());
    ensure!(!reason(&status).is_empty(), "no reason: {status:?}");
    Ok(())
}

fn of(spec: ExecutionSpec) -> RunCasesRequest {
    RunCasesRequest { spec: Some(spec), ..RunCasesRequest::default() }
}

fn cases(cases: Vec<RunCase>) -> ExecutionSpec {
    ExecutionSpec { cases, ..bash("cat") }
}

fn with_options(options: CaseOptions) -> ExecutionSpec {
    ExecutionSpec { case_options: Some(options), ..cases(vec![RunCase::default()]) }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_cases_are_refused_by_the_names_of_their_fields() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let good = RunCase::default;
    let many_args = RunCase { args: vec![String::new(); 129], ..good() };
    let long_args = RunCase { args: vec!["x".repeat(65 << 10)], ..good() };
    for (spec, fields) in [
        (cases(Vec::new()), vec!["spec.cases"]),
        (ExecutionSpec { stdin: "x".into(), ..cases(vec![good()]) }, vec!["spec.stdin"]),
        (cases(vec![good(), RunCase { name: "n".repeat(65), ..good() }]), vec!["spec.cases[1].name"]),
        (cases(vec![RunCase { name: "a\nb".to_owned(), ..good() }]), vec!["spec.cases[0].name"]),
        (cases(vec![many_args]), vec!["spec.cases[0].args"]),
        (cases(vec![long_args]), vec!["spec.cases[0].args"]),
        (cases(vec![RunCase { args: vec!["a".to_owned(), "\0".to_owned()], ..good() }]), vec!["spec.cases[0].args[1]"]),
        (cases(vec![RunCase { wall_time: seconds(-1), ..good() }]), vec!["spec.cases[0].wall_time"]),
        (cases(vec![RunCase { wall_time: seconds(1_000_000), ..good() }]), vec!["spec.cases[0].wall_time"]),
        (cases(vec![RunCase { memory_bytes: -1, ..good() }]), vec!["spec.cases[0].memory_bytes"]),
        (cases(vec![RunCase { memory_bytes: i64::MAX, ..good() }]), vec!["spec.cases[0].memory_bytes"]),
        (with_options(CaseOptions { comparison: 99, ..CaseOptions::default() }), vec!["spec.case_options.comparison"]),
        (
            with_options(CaseOptions { total_wall_time: seconds(-1), ..CaseOptions::default() }),
            vec!["spec.case_options.total_wall_time"],
        ),
        (
            with_options(CaseOptions { total_wall_time: seconds(1_000_000), ..CaseOptions::default() }),
            vec!["spec.case_options.total_wall_time"],
        ),
        // Several faults are all named, but no more of them than a person reads.
        (
            ExecutionSpec {
                language: "klingon".to_owned(),
                ..cases(vec![RunCase { memory_bytes: -1, wall_time: seconds(-1), ..good() }])
            },
            vec!["spec.language", "spec.cases[0].wall_time", "spec.cases[0].memory_bytes"],
        ),
    ] {
        refused(call(&client, of(spec.clone())).await, Code::InvalidArgument, &fields)
            .context(format!("{fields:?}"))?;
    }
    let all_bad = cases(vec![RunCase { memory_bytes: -1, ..good() }; 900]);
    let status = call(&client, of(all_bad)).await.err().context("it was accepted")?;
    assert_eq!(bad_fields(&status).len(), 10);

    // Of a language that is not compiled, and without cases.
    let compiled = ExecutionSpec { compile_limits: Some(Limits::default()), ..bash("true") };
    refused(client.create(compiled).await.map(drop), Code::InvalidArgument, &["spec.compile_limits"])?;
    let options = ExecutionSpec { case_options: Some(CaseOptions::default()), ..bash("true") };
    refused(client.create(options).await.map(drop), Code::InvalidArgument, &["spec.case_options"])?;
    let reserved = ExecutionSpec { entrypoint: ".runmesh/main.sh".to_owned(), ..bash("true") };
    refused(client.create(reserved).await.map(drop), Code::InvalidArgument, &["spec.entrypoint"])?;
    let compile_limits = Some(Limits { wall_time: seconds(-1), memory_bytes: -1, ..Limits::default() });
    let compiled = ExecutionSpec {
        language: "c".to_owned(),
        script: "int main;".to_owned(),
        compile_limits,
        ..Default::default()
    };
    let fields = ["spec.compile_limits.memory_bytes", "spec.compile_limits.wall_time"];
    refused(client.create(compiled).await.map(drop), Code::InvalidArgument, &fields)?;
    ensure!(client.list().await?.is_empty(), "something was stored");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_cases_and_too_large_ones_are_refused() -> anyhow::Result<()> {
    let mesh = Mesh::start_with(Options::set(["execution.maximum_cases=3"])).await?;
    let client = mesh.client().await?;
    let limits = client.executions.clone().get_limits(GetLimitsRequest {}).await?.into_inner();
    assert_eq!(limits.maximum_cases, 3);
    ensure!(limits.default_compile_limits.is_some() && limits.maximum_cases_wall_time.is_some(), "{limits:?}");
    let most = usize::try_from(limits.maximum_source_bytes)?;
    let large = |stdin: usize, expected: usize| RunCase {
        stdin: vec![b'x'; stdin].into(),
        expected_stdout: Some(vec![b'x'; expected].into()),
        ..RunCase::default()
    };
    refused(call(&client, of(cases(vec![RunCase::default(); 4]))).await, Code::InvalidArgument, &["spec.cases"])?;
    for too_large in [large(most, 0), large(0, most), large(most / 2, most / 2)] {
        refused(call(&client, of(cases(vec![too_large]))).await, Code::InvalidArgument, &["spec.cases"])?;
    }
    ensure!(client.list().await?.is_empty(), "something was stored");

    // The limits themselves are not over it.
    call(&client, of(cases(vec![RunCase::default(); 3]))).await?;
    let rest = most - bash("cat").script.len();
    call(&client, of(cases(vec![large(rest / 2, rest - rest / 2)]))).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_what_to_run_in_one_way() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let good = || of(cases(vec![RunCase::default()]));
    let id = "0190b1f2-7d1e-7000-8000-000000000000";
    let by_id = |execution_id: &str| RunCasesRequest { execution_id: execution_id.to_owned(), ..Default::default() };
    let invalid = Code::InvalidArgument;
    refused(call(&client, RunCasesRequest::default()).await, invalid, &["spec"])?;
    refused(call(&client, RunCasesRequest { execution_id: id.to_owned(), ..good() }).await, invalid, &["spec"])?;
    refused(
        call(&client, RunCasesRequest { request_id: "r".to_owned(), ..by_id(id) }).await,
        invalid,
        &["request_id"],
    )?;
    refused(call(&client, RunCasesRequest { request_id: "r".repeat(129), ..good() }).await, invalid, &["request_id"])?;
    refused(call(&client, by_id("nonsense")).await, invalid, &["execution_id"])?;
    refused(call(&client, RunCasesRequest { cursor: "x".to_owned(), ..good() }).await, invalid, &["cursor"])?;
    refused(call(&client, RunCasesRequest { cursor: "1".to_owned(), ..good() }).await, invalid, &["request_id"])?;
    let unknown = RunCasesRequest { request_id: "r".to_owned(), cursor: "1".to_owned(), ..good() };
    for request in [by_id(id), unknown] {
        let status = call(&client, request).await.err().context("it was found")?;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "EXECUTION_NOT_FOUND"));
    }
    ensure!(client.list().await?.is_empty(), "something was stored");

    let plain = client.run(bash("true")).await?.complete()?.execution_id.clone();
    let status = call(&client, by_id(&plain)).await.err().context("it has no cases")?;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "EXECUTION_WITHOUT_CASES"));

    let mut stream = client.run_cases(good()).await?;
    let all = stream.rest().await?;
    let Some(runmesh_proto::execution::run_cases_response::Item::Execution(created)) = &all[0].item else {
        anyhow::bail!("{:?}", all[0])
    };
    let beyond = RunCasesRequest { cursor: "9999".to_owned(), ..by_id(&created.execution_id) };
    refused(call(&client, beyond).await, Code::OutOfRange, &["cursor"])
}
