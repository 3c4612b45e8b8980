//! A stream that is followed to its end, also across a node that goes away and comes back.

use bytes::Bytes;
use futures::TryStreamExt as _;
use runmesh_proto::execution::{CancelExecutionRequest, Execution, execution_service_client::ExecutionServiceClient};
use tonic::{Status, Streaming, body::Body, client::GrpcService, codegen::StdError};

use super::{Stop, print};
use crate::command::reconnect::Patience;

/// What a client of the node speaks over.
pub(super) trait Channel:
    GrpcService<
        Body,
        Error: Into<StdError>,
        ResponseBody: http_body::Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
    > + Clone
{
}

impl<T> Channel for T where
    T: GrpcService<
            Body,
            Error: Into<StdError>,
            ResponseBody: http_body::Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
        > + Clone
{
}

/// What is followed.
pub(super) trait Followed {
    /// What it is, for people.
    const NAME: &str;
    /// What the stream has.
    type Message;

    /// Asks for the stream, from where it was.
    async fn ask<T: Channel>(&self, client: &mut ExecutionServiceClient<T>)
    -> Result<Streaming<Self::Message>, Status>;

    /// The execution. Empty: it is not known yet.
    fn execution_id(&self) -> &str;

    /// Shows what has come. Returns the execution once it has ended. An error: nobody reads what is shown any more.
    fn take(&mut self, message: Self::Message) -> anyhow::Result<Option<Execution>>;
}

/// Follows it, and has it cancelled when the user asks for its end or does not read on.
pub(super) async fn follow<T: Channel, F: Followed>(
    mut client: ExecutionServiceClient<T>,
    mut followed: F,
    stop: &mut Stop,
) -> anyhow::Result<Execution> {
    let mut asked_to_stop = false;
    let mut patience = Patience::default();
    loop {
        if !patience.pause(stop).await {
            anyhow::bail!("stopped while the node was away; the script may go on there");
        }
        let mut messages = match followed.ask(&mut client).await {
            Ok(messages) => messages,
            Err(status) if patience.may_return(&status) => continue,
            Err(status) => return Err(print::error(&status)),
        };
        patience.answers();
        loop {
            let next = tokio::select! {
                next = messages.try_next() => next,
                () = stop.asked() => {
                    if asked_to_stop || followed.execution_id().is_empty() {
                        anyhow::bail!("stopped before the {} had ended", F::NAME);
                    }
                    asked_to_stop = true;
                    cancel(&mut client, followed.execution_id(), "interrupted at the terminal").await;
                    continue;
                }
            };
            match next {
                Ok(Some(message)) => {
                    patience.is_there();
                    match followed.take(message) {
                        Ok(Some(execution)) => return Ok(execution),
                        Ok(None) => {}
                        Err(error) => {
                            cancel(&mut client, followed.execution_id(), "the output is not read").await;
                            return Err(error);
                        }
                    }
                }
                Ok(None) => anyhow::bail!("the stream ended without the end of the {}", F::NAME),
                // The node went away or was cut off: from where the stream was.
                Err(status) if patience.may_return(&status) => break,
                Err(status) => return Err(print::error(&status)),
            }
        }
    }
}

/// Asks for the end of the script. It may have ended in this moment; the stream tells.
async fn cancel<T: Channel>(client: &mut ExecutionServiceClient<T>, execution_id: &str, reason: &str) {
    let request = CancelExecutionRequest { execution_id: execution_id.to_owned(), reason: reason.to_owned() };
    if let Err(status) = client.cancel_execution(request).await {
        tracing::debug!(execution_id, %status, "not cancelled");
    }
}
