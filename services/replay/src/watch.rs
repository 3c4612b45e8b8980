//! WatchReplay.

use std::sync::Arc;

use futures::Stream;
use runmesh_proto::replay::{
    Replay, ReplayEnd, ReplayState, WatchReplayRequest, WatchReplayResponse, watch_replay_response::Item,
};
use runmesh_rpc::Watch;
use tonic::Status;

use crate::{control::get, error::ReplayError, service::ReplayService};

/// What a client has seen: the time of the change.
fn cursor(replay: &Replay) -> String {
    let at = replay.updated_at.as_ref().map_or((0, 0), |at| (at.seconds, at.nanos));
    format!("{}.{:09}", at.0, at.1)
}

/// Whether it comes to nothing more unless an operator resumes it.
fn is_over(replay: &Replay) -> bool {
    [ReplayState::Completed, ReplayState::Failed, ReplayState::Cancelled].contains(&replay.state())
}

fn shown(replay: Replay, cursor: String) -> WatchReplayResponse {
    WatchReplayResponse { cursor, item: Some(Item::Replay(replay)) }
}

fn ended(replay: Replay, cursor: String) -> WatchReplayResponse {
    WatchReplayResponse { cursor, item: Some(Item::End(ReplayEnd { replay: Some(replay) })) }
}

pub(crate) async fn watch(
    service: &ReplayService,
    request: WatchReplayRequest,
) -> Result<impl Stream<Item = Result<WatchReplayResponse, Status>> + Send + use<>, ReplayError> {
    let inner = service.shared();
    let first = get(&inner, &request.replay_id).await?;
    let (id, seen, shutdown) = (request.replay_id, request.cursor, inner.shutdown.clone());
    let watch = Watch { cursor, is_over, shown, ended };
    let get = move || {
        let (inner, id) = (Arc::clone(&inner), id.clone());
        async move { get(&inner, &id).await }
    };
    Ok(watch.stream(first, seen, get, shutdown))
}
