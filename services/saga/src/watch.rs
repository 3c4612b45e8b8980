//! WatchSaga: the saga after each of its changes from a cursor on, then live, then the end.

use std::pin::pin;

use async_stream::try_stream;
use futures::{Stream, TryStreamExt as _};
use runmesh_proto::saga::{SagaEnd, WatchSagaRequest, WatchSagaResponse, watch_saga_response::Item};
use runmesh_rpc::status;
use runmesh_store::{Cursor, follow};
use tonic::Status;

use crate::{error::SagaError, service::SagaService, view::SagaView};

pub(crate) async fn watch(
    service: &SagaService,
    request: WatchSagaRequest,
) -> Result<impl Stream<Item = Result<WatchSagaResponse, Status>> + Send + use<>, SagaError> {
    let cursor: Cursor = request.cursor.parse().map_err(|error| SagaError::field("cursor", format!("{error}")))?;
    let aggregate = service.execution_of(&request.saga_id).await?;
    // Before the log is read: if it is deleted from here on, the follower is told.
    let followed = follow(service.shared_store(), aggregate.clone(), cursor.sequence);
    let loaded = service.load(&aggregate).await?;
    let whole = loaded.view();
    if !whole.exists() {
        return Err(SagaError::NotFound(request.saga_id));
    }
    let is_end = whole.ended() && whole.saga().last_sequence == cursor.sequence;
    if cursor.sequence > loaded.head || (cursor.ended && !is_end) {
        return Err(SagaError::BeyondEnd(format!("{cursor} lies beyond the log, which is at {}", loaded.head)));
    }
    // What the client has seen already.
    let seen = loaded.events.iter().map(AsRef::as_ref).filter(|event| event.sequence <= cursor.sequence);
    let mut view = SagaView::of(seen);
    let shutdown = service.shutdown().clone();
    Ok(try_stream! {
        if cursor.ended {
            return;
        }
        let mut events = pin!(followed);
        while !view.ended() {
            let Some(next) = shutdown.run_until_cancelled(events.try_next()).await else {
                Err(status::shutting_down())?;
                return;
            };
            let Some(event) = next.map_err(SagaError::from)? else { return };
            if view.apply(&event) {
                let cursor = Cursor { sequence: event.sequence, ended: false }.to_string();
                yield WatchSagaResponse { cursor, item: Some(Item::Saga(view.saga().clone())) };
            }
        }
        let cursor = Cursor { sequence: view.saga().last_sequence, ended: true }.to_string();
        let end = SagaEnd { saga: Some(view.saga().clone()) };
        yield WatchSagaResponse { cursor, item: Some(Item::End(end)) };
    })
}
