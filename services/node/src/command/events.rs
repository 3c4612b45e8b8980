//! `runmesh events`: what was recorded, and what is being recorded.

mod export;
pub(super) mod filter;
mod list;
mod refused;
mod show;
mod stats;
mod tail;

use std::process::ExitCode;

use runmesh_proto::event_log::event_log_service_client::EventLogServiceClient;
use runmesh_rpc::{Credentials, client::Upstream};
use tonic::service::interceptor::InterceptedService;

use self::refused::refused;
use super::{connect, download, follow, pages, print, serve::Stop, table, words};
use crate::cli::{ServerArgs, events::EventsAction};

/// The greatest size of an answer: an event with those that are related to it, each of which may be large.
const MAX_ANSWER_BYTES: usize = 256 << 20;

type Client = EventLogServiceClient<InterceptedService<Upstream, Credentials>>;

pub(super) async fn events(action: EventsAction) -> anyhow::Result<ExitCode> {
    match action {
        EventsAction::Ls(args) => list::events(args).await,
        EventsAction::Show(args) => show::show(args).await,
        EventsAction::Tail(args) => tail::tail(args).await,
        EventsAction::Export(args) => export::export(args).await,
        EventsAction::Stats(args) => stats::stats(args).await,
    }
}

async fn open(server: &ServerArgs) -> anyhow::Result<Client> {
    let (channel, credentials) = connect(server).await?;
    let client = EventLogServiceClient::new(InterceptedService::new(channel, credentials));
    Ok(client.max_decoding_message_size(MAX_ANSWER_BYTES))
}
