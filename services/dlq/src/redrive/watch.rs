//! WatchRedrive.

use std::sync::Arc;

use futures::Stream;
use runmesh_proto::dlq::{
    Redrive, RedriveEnd, RedriveState, WatchRedriveRequest, WatchRedriveResponse, watch_redrive_response::Item,
};
use runmesh_rpc::Watch;
use tonic::Status;

use super::control::get;
use crate::{error::DlqError, service::DeadLetterService};

/// What a client has seen: the time of the change, and how many were handled.
fn cursor(redrive: &Redrive) -> String {
    let at = redrive.updated_at.as_ref().map_or((0, 0), |at| (at.seconds, at.nanos));
    format!("{}.{:09}-{}-{}", at.0, at.1, redrive.resolved, redrive.failed)
}

/// Whether it comes to nothing more unless an operator resumes it.
fn is_over(redrive: &Redrive) -> bool {
    [RedriveState::Completed, RedriveState::Cancelled, RedriveState::Stopped].contains(&redrive.state())
}

fn shown(redrive: Redrive, cursor: String) -> WatchRedriveResponse {
    WatchRedriveResponse { cursor, item: Some(Item::Redrive(redrive)) }
}

fn ended(redrive: Redrive, cursor: String) -> WatchRedriveResponse {
    WatchRedriveResponse { cursor, item: Some(Item::End(RedriveEnd { redrive: Some(redrive) })) }
}

pub(crate) async fn watch(
    service: &DeadLetterService,
    request: WatchRedriveRequest,
) -> Result<impl Stream<Item = Result<WatchRedriveResponse, Status>> + Send + use<>, DlqError> {
    let inner = service.shared();
    let first = get(&inner, &request.redrive_id).await?;
    let (id, seen, shutdown) = (request.redrive_id, request.cursor, inner.shutdown.clone());
    let watch = Watch { cursor, is_over, shown, ended };
    let get = move || {
        let (inner, id) = (Arc::clone(&inner), id.clone());
        async move { get(&inner, &id).await }
    };
    Ok(watch.stream(first, seen, get, shutdown))
}
