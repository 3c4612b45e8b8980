//! WatchReplay.

use std::time::Duration;

use async_stream::try_stream;
use futures::Stream;
use runmesh_proto::replay::{
    Replay, ReplayEnd, ReplayState, WatchReplayRequest, WatchReplayResponse, watch_replay_response::Item,
};
use runmesh_rpc::status;
use tokio::time::sleep;
use tonic::Status;

use crate::{control::get, error::ReplayError, service::ReplayService};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What stands in the cursor of the end.
const END: &str = "end";

/// What a client has seen: the time of the change.
fn cursor(replay: &Replay) -> String {
    let at = replay.updated_at.as_ref().map_or((0, 0), |at| (at.seconds, at.nanos));
    format!("{}.{:09}", at.0, at.1)
}

/// Whether it comes to nothing more unless an operator resumes it.
fn is_over(replay: &Replay) -> bool {
    [ReplayState::Completed, ReplayState::Failed, ReplayState::Cancelled].contains(&replay.state())
}

pub(crate) async fn watch(
    service: &ReplayService,
    request: WatchReplayRequest,
) -> Result<impl Stream<Item = Result<WatchReplayResponse, Status>> + Send + use<>, ReplayError> {
    let inner = service.shared();
    let first = get(&inner, &request.replay_id).await?;
    let (id, mut seen) = (request.replay_id, request.cursor);
    let ended = seen == END && is_over(&first);
    Ok(try_stream! {
        if ended {
            return;
        }
        let mut replay = first;
        loop {
            let now = cursor(&replay);
            if now != seen {
                yield WatchReplayResponse { cursor: now.clone(), item: Some(Item::Replay(replay.clone())) };
                seen = now;
            }
            if is_over(&replay) {
                let end = ReplayEnd { replay: Some(replay) };
                yield WatchReplayResponse { cursor: END.to_owned(), item: Some(Item::End(end)) };
                return;
            }
            if inner.shutdown.run_until_cancelled(sleep(LOOK)).await.is_none() {
                Err(status::shutting_down())?;
            }
            replay = get(&inner, &id).await?;
        }
    })
}
