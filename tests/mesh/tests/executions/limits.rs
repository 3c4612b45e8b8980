//! Limits: what went over one is told by its name, what holds is told by the receipt, and strict requests are refused where
//! something does not hold.

use anyhow::{Context as _, bail, ensure};
use runmesh_mesh_tests::{Mesh, Options, Transcript, bash, python, reason};
use runmesh_proto::{
    event::{Enforcement, EnforcementLevel, ExecutionErrorType, LimitKind, event::Payload},
    execution::{ExecutionSpec, ExecutionState, Limits},
};
use tonic::Code;
use tonic_types::StatusExt as _;

const MIB: i64 = 1 << 20;

/// No means that a script as root, or a user with namespaces, would be held by.
const NOTHING: [&str; 5] = [
    "runner.avoid.namespaces=true",
    "runner.avoid.cgroups=true",
    "runner.avoid.landlock=true",
    "runner.avoid.seccomp=true",
    "runner.avoid.privileges=true",
];

fn line(receipt: &[Enforcement], kind: LimitKind) -> anyhow::Result<&Enforcement> {
    receipt.iter().find(|line| line.limit() == kind).with_context(|| format!("no {kind:?} in {receipt:?}"))
}

fn of_start(transcript: &Transcript) -> anyhow::Result<Vec<Enforcement>> {
    let mut payloads = transcript.events().filter_map(|event| event.payload.as_ref());
    payloads
        .find_map(|payload| match payload {
            Payload::ExecutionStarted(started) => Some(started.receipt.clone()),
            _ => None,
        })
        .context("it did not start")
}

/// Runs it with these limits, to a failure of this type.
async fn over(mesh: &Mesh, spec: ExecutionSpec, limits: Limits, kind: ExecutionErrorType) -> anyhow::Result<()> {
    let script = spec.script.clone();
    let transcript = mesh.client().await?.run(ExecutionSpec { limits: Some(limits), ..spec }).await?;
    let end = transcript.complete()?;
    let told = (end.state(), end.error_type());
    ensure!(told == (ExecutionState::Failed, kind), "{script}: {told:?}, {:?}", end.error_message);
    ensure!(!end.error_message.is_empty(), "{script}: no words");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_over_a_limit_is_told_by_the_name_of_the_limit() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let memory = Limits { memory_bytes: 48 * MIB, ..Limits::default() };
    over(&mesh, python("held = bytearray(400 << 20)"), memory, ExecutionErrorType::OutOfMemory).await?;
    let cpu_time = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let time = Limits { cpu_time, ..Limits::default() };
    over(&mesh, python("while True: pass"), time, ExecutionErrorType::CpuTimeLimit).await?;
    let file = Limits { file_bytes: MIB, ..Limits::default() };
    over(&mesh, bash("exec head -c 4M /dev/zero > large"), file, ExecutionErrorType::FileSizeLimit).await?;
    // What follows sees nothing of it.
    let after = mesh.client().await?.run(python("print('fine')")).await?;
    assert_eq!(after.complete()?.state(), ExecutionState::Completed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_and_record_has_the_same_receipt() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let limits = Limits { memory_bytes: 100 * MIB, processes: 40, ..Limits::default() };
    let transcript = client.run(ExecutionSpec { limits: Some(limits), ..bash("true") }).await?;
    let receipt = of_start(&transcript)?;
    assert_eq!(line(&receipt, LimitKind::Memory)?.asked, (100 * MIB).to_string());
    assert_eq!(line(&receipt, LimitKind::Processes)?.asked, "40");
    let kinds: Vec<LimitKind> = receipt.iter().map(Enforcement::limit).collect();
    assert_eq!(kinds.len(), 11, "{kinds:?}");
    for line in &receipt {
        let holds = line.level() == EnforcementLevel::Full;
        ensure!(line.level() == EnforcementLevel::None || !line.mechanism.is_empty(), "{line:?}");
        ensure!(holds == line.reason.is_empty(), "it does not say why: {line:?}");
    }
    let Payload::ExecutionCompleted(completed) = transcript.terminal()? else { bail!("{:?}", transcript.types()) };
    assert_eq!(completed.receipt, receipt);
    let execution = transcript.complete()?;
    assert_eq!(execution.receipt, receipt);
    assert_eq!(client.get(&execution.execution_id).await?.receipt, receipt);
    assert_eq!(client.result(&execution.execution_id).await?.receipt, receipt);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_request_is_refused_with_the_list_of_what_does_not_hold() -> anyhow::Result<()> {
    let mesh = Mesh::start_with(Options::set(NOTHING)).await?;
    let client = mesh.client().await?;
    let strict = ExecutionSpec { strict: true, ..bash("echo never") };
    let refusal = client.create(strict).await.err().context("it was taken")?;
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "LIMITS_NOT_ENFORCED"));
    let missing: Vec<String> = refusal
        .get_details_precondition_failure()
        .map(|details| details.violations.into_iter().map(|one| one.subject).collect())
        .unwrap_or_default();
    for name in ["memory_bytes", "network", "filesystem", "syscalls"] {
        ensure!(missing.iter().any(|one| one.contains(name)), "{name} is not in {missing:?}");
        ensure!(refusal.message().contains(name), "{name} is not in {:?}", refusal.message());
    }
    ensure!(!missing.iter().any(|one| one.contains("output_bytes")), "the output limit holds: {missing:?}");
    ensure!(client.list().await?.is_empty(), "something was stored");

    // The same without strict runs, and says what did not hold.
    let transcript = client.run(bash("echo still")).await?;
    assert_eq!(transcript.stdout()?, b"still\n");
    let receipt = &transcript.complete()?.receipt;
    for kind in [LimitKind::Network, LimitKind::Filesystem, LimitKind::Syscalls] {
        let line = line(receipt, kind)?;
        assert_eq!((line.level(), line.enforced.as_str()), (EnforcementLevel::None, ""), "{line:?}");
    }
    assert_ne!(line(receipt, LimitKind::Memory)?.level(), EnforcementLevel::Full);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_node_refuses_every_request_that_it_can_not_hold() -> anyhow::Result<()> {
    let mesh = Mesh::start_with(Options::set(NOTHING.into_iter().chain(["runner.strict=true"]))).await?;
    let client = mesh.client().await?;
    let refusal = client.create(bash("echo never")).await.err().context("it was taken")?;
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "LIMITS_NOT_ENFORCED"));
    ensure!(client.list().await?.is_empty(), "something was stored");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_request_runs_where_everything_holds() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let receipt = client.run(bash("true")).await?.complete()?.receipt.clone();
    let all_hold = receipt.iter().all(|line| line.level() == EnforcementLevel::Full || line.asked.is_empty());
    // Which of the two it is depends on the machine; the receipt and the answer have to agree.
    match client.create(ExecutionSpec { strict: true, ..bash("echo held") }).await {
        Ok(execution) => {
            ensure!(all_hold, "it was taken, and {receipt:?}");
            let transcript = client.follow(&execution.execution_id).await?;
            assert_eq!(transcript.stdout()?, b"held\n");
        }
        Err(refusal) => ensure!(!all_hold, "{refusal:?} in spite of {receipt:?}"),
    }
    Ok(())
}
