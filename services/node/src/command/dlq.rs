//! `runmesh dlq`: what groups could not handle, and why, and how it is delivered to them again.

mod act;
mod edit;
mod export;
mod filter;
mod list;
mod policy;
mod redrive;
mod refused;
mod show;
mod watch;
mod words;

use std::process::ExitCode;

use anyhow::Context as _;
use runmesh_proto::dlq::dead_letter_service_client::DeadLetterServiceClient;
use runmesh_rpc::{Credentials, client::Upstream};
use tonic::service::interceptor::InterceptedService;

use self::refused::refused;
use super::{connect, download, follow, pages, print, serve::Stop, table};
use crate::{
    Environment,
    cli::{ServerArgs, dlq::DlqAction},
};

/// The greatest size of an answer: a page of letters, or a letter with its record.
const MAX_ANSWER_BYTES: usize = 64 << 20;

type Client = DeadLetterServiceClient<InterceptedService<Upstream, Credentials>>;

pub(super) async fn dlq(action: DlqAction, environment: &Environment) -> anyhow::Result<ExitCode> {
    match action {
        DlqAction::Ls(args) => list::letters(args).await,
        DlqAction::Show(args) => show::show(args).await,
        DlqAction::Groups(args) => list::groups(args).await,
        DlqAction::Stats(args) => list::stats(args).await,
        DlqAction::Retry(args) => act::retry(args, environment).await,
        DlqAction::Discard(args) => act::discard(args, environment).await,
        DlqAction::Edit(args) => edit::edit(args, environment).await,
        DlqAction::Redrive(args) => redrive::redrive(*args, environment).await,
        DlqAction::Policy(args) => policy::policy(args.action, environment).await,
        DlqAction::Watch(args) => watch::watch(args).await,
        DlqAction::Export(args) => export::export(args).await,
    }
}

async fn open(server: &ServerArgs) -> anyhow::Result<Client> {
    let (channel, credentials) = connect(server).await?;
    let client = DeadLetterServiceClient::new(InterceptedService::new(channel, credentials));
    Ok(client.max_decoding_message_size(MAX_ANSWER_BYTES))
}

/// Who does something.
fn actor(given: Option<String>, environment: &Environment) -> anyhow::Result<String> {
    let name = given.or_else(|| environment.user.clone()).filter(|name| !name.trim().is_empty());
    name.context("--actor is needed, since $USER does not say who does this")
}
