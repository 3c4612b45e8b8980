//! CreateExecution and RetryExecution.

use runmesh_events::{ExecutionId, NewEvent, Payload, TraceParent};
use runmesh_proto::{
    event::ExecutionRequested,
    execution::{CreateExecutionRequest, Execution, ExecutionSpec, Limits, RetryExecutionRequest, RetryOverrides},
};
use runmesh_rpc::{Caller, Violation};
use runmesh_store::{Expected, StoreError};

use crate::{
    error::ExecutionError,
    projection,
    service::{ExecutionService, PRODUCER, Runtimes, api_name, execution_id, is_missing},
    spec,
    state::ExecutionLog,
    validate,
};

/// The greatest number of characters of a request id.
const MAX_REQUEST_ID: usize = 128;

pub(crate) async fn create(
    service: &ExecutionService,
    caller: &Caller,
    trace: &TraceParent,
    request: CreateExecutionRequest,
) -> Result<Execution, ExecutionError> {
    let spec = request.spec.ok_or_else(|| ExecutionError::field("spec", "is missing"))?;
    record(service, caller, trace, Asked { spec, request_id: request.request_id, retry_of: String::new() }).await
}

pub(crate) async fn retry(
    service: &ExecutionService,
    caller: &Caller,
    trace: &TraceParent,
    request: RetryExecutionRequest,
) -> Result<Execution, ExecutionError> {
    let id = execution_id(&request.execution_id)?;
    let loaded = service.load(&id).await?;
    if !loaded.log.terminal() {
        return Err(ExecutionError::NotEnded(id.to_string()));
    }
    let mut spec = loaded.log.execution().spec.clone().unwrap_or_default();
    if spec.files.iter().all(|file| file.path != spec.entrypoint) && spec.script.is_empty() {
        spec.entrypoint.clear();
    }
    override_with(&mut spec, request.overrides.unwrap_or_default());
    record(service, caller, trace, Asked { spec, request_id: request.request_id, retry_of: id.to_string() }).await
}

/// What is set replaces what was.
fn override_with(spec: &mut ExecutionSpec, overrides: RetryOverrides) {
    let RetryOverrides { language_version, limits, priority, labels } = overrides;
    if !language_version.is_empty() {
        spec.language_version = language_version;
    }
    if priority != 0 {
        spec.priority = priority;
    }
    spec.labels.extend(labels);
    let Some(new) = limits else { return };
    let known = spec.limits.unwrap_or_default();
    let or = |new: i64, known| if new == 0 { known } else { new };
    let or_small = |new: i32, known| if new == 0 { known } else { new };
    spec.limits = Some(Limits {
        wall_time: new.wall_time.or(known.wall_time),
        output_bytes: or(new.output_bytes, known.output_bytes),
        memory_bytes: or(new.memory_bytes, known.memory_bytes),
        cpu_millis: or_small(new.cpu_millis, known.cpu_millis),
        cpu_time: new.cpu_time.or(known.cpu_time),
        processes: or_small(new.processes, known.processes),
        disk_bytes: or(new.disk_bytes, known.disk_bytes),
        file_bytes: or(new.file_bytes, known.file_bytes),
    });
}

struct Asked {
    spec: ExecutionSpec,
    request_id: String,
    retry_of: String,
}

async fn record(
    service: &ExecutionService,
    caller: &Caller,
    trace: &TraceParent,
    asked: Asked,
) -> Result<Execution, ExecutionError> {
    if asked.request_id.chars().count() > MAX_REQUEST_ID {
        return Err(ExecutionError::field("request_id", format!("has more than {MAX_REQUEST_ID} characters")));
    }
    let version = asked.spec.language_version.clone();
    let (mut spec, runtime) = validate::spec(asked.spec, service.config(), service.runtimes())?;
    spec.strict |= service.runtimes().strict();
    enforceable(&spec, service.runtimes())?;
    // A request id leads to one execution id, so the second of two calls finds the log that the first began.
    let id = match asked.request_id.as_str() {
        "" => ExecutionId::new(),
        request_id => ExecutionId::for_request(&caller.user_id, request_id),
    };
    let payload = ExecutionRequested {
        retry_of: asked.retry_of,
        request_id: asked.request_id,
        ..spec::to_request(&id.to_string(), &caller.user_id, spec, &runtime)
    };
    let event = NewEvent::root(PRODUCER, &caller.user_id, trace, payload.clone());
    let appended = service.store().append(&id.aggregate(), Expected::Sequence(0), vec![event]).await;
    match appended {
        Ok(appended) => {
            // The group does it too; done here, a list right after the call has it.
            if let Err(error) = projection::project(service, &id.to_string()).await {
                tracing::warn!(execution_id = %id, %error, "a list may miss a new execution for a moment");
            }
            // It is a fact by now, so nothing that fails from here on may look like a refusal.
            return Ok(ExecutionLog::of(appended.events.iter().map(AsRef::as_ref)).execution().clone());
        }
        Err(StoreError::Conflict { .. }) => same_request(service, &id, payload, &version).await?,
        Err(error) => return Err(error.into()),
    }
    Ok(service.load(&id).await?.execution())
}

/// Refuses a strict request of which not everything can be held to.
fn enforceable(spec: &ExecutionSpec, runtimes: &dyn Runtimes) -> Result<(), ExecutionError> {
    if !spec.strict {
        return Ok(());
    }
    let receipt = runtimes.receipt(&spec.limits.unwrap_or_default());
    let missing: Vec<Violation> = receipt
        .into_iter()
        .filter(is_missing)
        .map(|line| Violation::new(api_name(line.limit()), line.reason))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(ExecutionError::NotEnforced(missing)) }
}

/// Checks that the log begins with the same request.
async fn same_request(
    service: &ExecutionService,
    id: &ExecutionId,
    mut payload: ExecutionRequested,
    asked_version: &str,
) -> Result<(), ExecutionError> {
    let loaded = service.load(id).await?;
    let request_id = payload.request_id.clone();
    let Some(Payload::ExecutionRequested(known)) = &loaded.first.payload else {
        return Err(ExecutionError::RequestIdReused(request_id));
    };
    // "The newest" may be another one by now; it is the same request all the same.
    if known.language_version.starts_with(asked_version) {
        payload.language_version.clone_from(&known.language_version);
        payload.runtime_command.clone_from(&known.runtime_command);
        if let (Some(compile), Some(known)) = (&mut payload.compile, &known.compile) {
            compile.command.clone_from(&known.command);
        }
    }
    if *known == payload { Ok(()) } else { Err(ExecutionError::RequestIdReused(request_id)) }
}
