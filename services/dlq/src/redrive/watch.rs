//! WatchRedrive.

use std::time::Duration;

use async_stream::try_stream;
use futures::Stream;
use runmesh_proto::dlq::{
    Redrive, RedriveEnd, RedriveState, WatchRedriveRequest, WatchRedriveResponse, watch_redrive_response::Item,
};
use runmesh_rpc::status;
use tokio::time::sleep;
use tonic::Status;

use super::control::get;
use crate::{error::DlqError, service::DeadLetterService};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What stands in the cursor of the end.
const END: &str = "end";

/// What a client has seen: the time of the change, and how many were handled.
fn cursor(redrive: &Redrive) -> String {
    let at = redrive.updated_at.as_ref().map_or((0, 0), |at| (at.seconds, at.nanos));
    format!("{}.{:09}-{}-{}", at.0, at.1, redrive.resolved, redrive.failed)
}

/// Whether it comes to nothing more unless an operator resumes it.
fn is_over(redrive: &Redrive) -> bool {
    [RedriveState::Completed, RedriveState::Cancelled, RedriveState::Stopped].contains(&redrive.state())
}

pub(crate) async fn watch(
    service: &DeadLetterService,
    request: WatchRedriveRequest,
) -> Result<impl Stream<Item = Result<WatchRedriveResponse, Status>> + Send + use<>, DlqError> {
    let inner = service.shared();
    let first = get(&inner, &request.redrive_id).await?;
    let (id, mut seen) = (request.redrive_id, request.cursor);
    let ended = seen == END && is_over(&first);
    Ok(try_stream! {
        if ended {
            return;
        }
        let mut redrive = first;
        loop {
            let now = cursor(&redrive);
            if now != seen {
                yield WatchRedriveResponse { cursor: now.clone(), item: Some(Item::Redrive(redrive.clone())) };
                seen = now;
            }
            if is_over(&redrive) {
                let end = RedriveEnd { redrive: Some(redrive) };
                yield WatchRedriveResponse { cursor: END.to_owned(), item: Some(Item::End(end)) };
                return;
            }
            if inner.shutdown.run_until_cancelled(sleep(LOOK)).await.is_none() {
                Err(status::shutting_down())?;
            }
            redrive = get(&inner, &id).await?;
        }
    })
}
