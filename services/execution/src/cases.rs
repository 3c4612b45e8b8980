//! RunCases: one program on many inputs, and the stream of their results.

use futures::{Stream, TryStreamExt as _};
use runmesh_events::{Event, ExecutionId, Payload, TraceParent};
use runmesh_proto::{
    event::ExecutionStep,
    execution::{CreateExecutionRequest, ExecutionEnd, RunCasesRequest, RunCasesResponse, run_cases_response::Item},
};
use runmesh_rpc::Caller;
use runmesh_store::Cursor;
use tonic::Status;

use crate::{
    create,
    error::ExecutionError,
    service::{ExecutionService, execution_id},
    state::ExecutionLog,
    watch::{self, Step},
};

pub(crate) async fn run(
    service: &ExecutionService,
    caller: &Caller,
    trace: &TraceParent,
    request: RunCasesRequest,
) -> Result<impl Stream<Item = Result<RunCasesResponse, Status>> + Send + use<>, ExecutionError> {
    let cursor = watch::parse(&request.cursor)?;
    let id = if request.execution_id.is_empty() {
        create(service, caller, trace, request, cursor).await?
    } else {
        existing(service, &request).await?
    };
    let steps = watch::steps(service, &id, cursor).await?;
    Ok(steps.try_filter_map(async |(cursor, step)| {
        let item = match step {
            Step::Event(event) => item(&event),
            Step::End(execution) => Some(Item::End(ExecutionEnd { execution: Some(*execution) })),
        };
        Ok(item.map(|item| RunCasesResponse { cursor, item: Some(item) }))
    }))
}

/// The execution that the request asks for, which the first call of this kind creates.
async fn create(
    service: &ExecutionService,
    caller: &Caller,
    trace: &TraceParent,
    request: RunCasesRequest,
    cursor: Cursor,
) -> Result<ExecutionId, ExecutionError> {
    let Some(spec) = request.spec else {
        return Err(ExecutionError::field("spec", "is missing, and so is execution_id"));
    };
    if spec.cases.is_empty() {
        return Err(ExecutionError::field("spec.cases", "is empty: there is nothing to run it on"));
    }
    if !cursor.is_start() {
        // Whoever has a cursor has an execution; none is made for a cursor that can't be of it.
        if request.request_id.is_empty() {
            let words = "is empty; a stream is resumed by the request_id it was begun with, or by execution_id";
            return Err(ExecutionError::field("request_id", words));
        }
        service.load(&ExecutionId::for_request(&caller.user_id, &request.request_id)).await?;
    }
    let request = CreateExecutionRequest { request_id: request.request_id, spec: Some(spec) };
    let created = create::create(service, caller, trace, request).await?;
    execution_id(&created.execution_id)
}

async fn existing(service: &ExecutionService, request: &RunCasesRequest) -> Result<ExecutionId, ExecutionError> {
    for (field, given) in [("spec", request.spec.is_some()), ("request_id", !request.request_id.is_empty())] {
        if given {
            return Err(ExecutionError::field(field, "is given, but so is execution_id"));
        }
    }
    let id = execution_id(&request.execution_id)?;
    let loaded = service.load(&id).await?;
    if loaded.log.execution().cases.is_none() {
        return Err(ExecutionError::WithoutCases(id.to_string()));
    }
    Ok(id)
}

/// What an event of the log is in the stream of results.
fn item(event: &Event) -> Option<Item> {
    match event.payload.as_ref()? {
        Payload::ExecutionRequested(_) => Some(Item::Execution(ExecutionLog::of([event]).summary())),
        Payload::ExecutionOutput(output) if output.step() == ExecutionStep::Compile => {
            Some(Item::CompileOutput(output.clone()))
        }
        Payload::ExecutionStarted(started) => started.compile.clone().map(Item::Compile),
        Payload::ExecutionFailed(failed) => failed.compile.clone().map(Item::Compile),
        Payload::ExecutionRunning(running) => running.case_result.clone().map(Item::Result),
        _ => None,
    }
}
