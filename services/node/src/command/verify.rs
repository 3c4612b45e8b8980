//! `runmesh verify`: the ledger of what is stored, what is on the topics, and what the groups have done.

mod table;

use std::{
    io::{IsTerminal as _, Write as _},
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use runmesh_event_log::{Dependencies, Verifier, VerifyOptions};
use runmesh_events::{to_duration, to_timestamp};
use runmesh_proto::event_log::{
    Ledger, VerifyRequest, VerifyResponse, event_log_service_client::EventLogServiceClient, verify_response::Item,
};
use runmesh_rpc::{Credentials, client::Upstream};
use tokio::time::sleep;
use tonic::service::interceptor::InterceptedService;

use super::{connect, print, serve::settings};
use crate::{Environment, bus, cli::VerifyArgs, groups::Groups, store};

/// The exit codes beside 0: nothing is lost and every invariant holds.
mod exit {
    /// Something is lost, or an invariant does not hold.
    pub(super) const NOT_SOUND: u8 = 1;
    /// There is no verdict.
    pub(super) const NO_VERDICT: u8 = 2;
}

/// The pause between two verifications while something is on its way. It is as long as a verification takes, but not
/// shorter than this.
const PAUSE: Duration = Duration::from_millis(300);

/// Verifies. Also what goes wrong has its own exit code: it must not be taken for a verdict.
pub(super) async fn verify(args: VerifyArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    match verdict(&args, environment).await {
        Ok(code) => Ok(code),
        Err(error) if error.chain().any(super::is_broken_pipe) => Err(error),
        Err(error) => {
            eprintln!("runmesh: {}", print::chain(&error));
            Ok(ExitCode::from(exit::NO_VERDICT))
        }
    }
}

async fn verdict(args: &VerifyArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let source = Source::open(args, environment).await?;
    let since = args.since.map(|since| SystemTime::now().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH));
    let deadline = Instant::now() + args.wait.unwrap_or_default();
    let mut output = Output { as_json: args.json, progress: !args.json && std::io::stderr().is_terminal() };
    loop {
        let messages = source.verify(args, since).await?;
        // While there is time to wait, only the last verification is of interest.
        let mut kept = args.wait.map(|_| Vec::new());
        let ledger = output.follow(messages, kept.as_mut()).await?;
        let took = ledger.took.as_ref().and_then(runmesh_events::from_duration).unwrap_or_default();
        let pause = took.max(PAUSE);
        if args.wait.is_some() && !ledger.settled && Instant::now() + pause < deadline {
            sleep(pause).await;
            continue;
        }
        for message in kept.unwrap_or_default() {
            output.show(&message)?;
        }
        output.close(&ledger)?;
        if !ledger.sound {
            return Ok(ExitCode::from(exit::NOT_SOUND));
        }
        if let Some(wait) = args.wait.filter(|_| !ledger.settled) {
            anyhow::bail!("something is still on its way after {}", humantime::format_duration(wait));
        }
        return Ok(ExitCode::SUCCESS);
    }
}

/// Who verifies.
enum Source {
    /// A node.
    Server(Box<EventLogServiceClient<InterceptedService<Upstream, Credentials>>>),
    /// This process, on the store and the bus of the settings.
    Own(Box<Verifier>),
}

impl Source {
    async fn open(args: &VerifyArgs, environment: &Environment) -> anyhow::Result<Self> {
        if args.server.server.is_some() {
            let (channel, credentials) = connect(&args.server).await?;
            let client = EventLogServiceClient::new(InterceptedService::new(channel, credentials));
            return Ok(Self::Server(Box::new(client)));
        }
        let config = settings(&args.config, environment, None, &[("log.filter", "warn")])?;
        let data = if config.data.as_os_str().is_empty() { environment.data_folder() } else { config.data.clone() };
        let file = store::file(&config, &data);
        // To open it would make it.
        if !store::is_shared(&config.store.uri) && !file.is_file() {
            anyhow::bail!(
                "there is no store at {}; name one by --data or --set, or a node by --server",
                file.display()
            );
        }
        let store = store::open(&config, &data)
            .await
            .context("can't open the store; a node that runs on it can be asked by --server")?;
        let bus = bus::open(&config.bus, &config.node, store.sqlite.as_ref())?.bus;
        let dependencies = Dependencies {
            store: Arc::clone(&store.events),
            documents: Arc::clone(&store.documents),
            bus,
            groups: Arc::new(Groups::open(Arc::clone(&store.documents)).await?),
        };
        Ok(Self::Own(Box::new(Verifier::build(dependencies).await?)))
    }

    /// Begins a verification.
    async fn verify(
        &self,
        args: &VerifyArgs,
        since: Option<SystemTime>,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<VerifyResponse>> + use<>> {
        let defaults = VerifyOptions::default();
        let patience = args.patience.unwrap_or(defaults.patience);
        let max_findings = args.findings.map_or(defaults.max_findings, usize::from);
        Ok(match self {
            Self::Server(client) => {
                let request = VerifyRequest {
                    since: since.map(to_timestamp),
                    patience: Some(to_duration(patience)),
                    max_findings: i32::try_from(max_findings).unwrap_or(i32::MAX),
                    cursor: String::new(),
                };
                let answer = client.as_ref().clone().verify(request).await.map_err(|status| print::error(&status))?;
                answer.into_inner().map_err(|status| print::error(&status)).left_stream()
            }
            Self::Own(verifier) => {
                let options = VerifyOptions { since, patience, max_findings };
                verifier.verify(options).map_err(anyhow::Error::from).right_stream()
            }
        })
    }
}

/// Where the outcome goes.
struct Output {
    as_json: bool,
    /// Whether progress is shown on standard error, on one line.
    progress: bool,
}

impl Output {
    /// Reads a verification to its end. What comes before is shown, or kept for later.
    async fn follow(
        &mut self,
        messages: impl Stream<Item = anyhow::Result<VerifyResponse>>,
        mut kept: Option<&mut Vec<VerifyResponse>>,
    ) -> anyhow::Result<Ledger> {
        let mut messages = pin!(messages);
        while let Some(message) = messages.next().await {
            let message = message?;
            if let (true, Some(Item::Progress(progress))) = (self.progress, &message.item) {
                let _ = write!(
                    std::io::stderr(),
                    "\r\x1b[K{}: {} events, {} records",
                    progress.stage,
                    progress.events,
                    progress.records
                );
            }
            let end = match &message.item {
                Some(Item::End(ledger)) => Some(ledger.clone()),
                _ => None,
            };
            match &mut kept {
                Some(kept) => kept.push(message),
                None => self.show(&message)?,
            }
            if let Some(ledger) = end {
                return Ok(ledger);
            }
        }
        anyhow::bail!("the verification was cut off")
    }

    fn show(&self, message: &VerifyResponse) -> anyhow::Result<()> {
        if self.as_json {
            let descriptor = runmesh_proto::descriptors()
                .get_message_by_name("runmesh.event_log.v1.VerifyResponse")
                .context("the contract has no VerifyResponse")?;
            print::line(print::json(&print::dynamic(message, descriptor)?)?)?;
        } else if let Some(Item::Finding(finding)) = &message.item {
            self.clear();
            print::line(table::finding(finding))?;
        }
        Ok(())
    }

    fn close(&self, ledger: &Ledger) -> std::io::Result<()> {
        if self.as_json {
            return Ok(());
        }
        self.clear();
        for line in table::ledger(ledger) {
            print::line(line)?;
        }
        Ok(())
    }

    fn clear(&self) {
        if self.progress {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
