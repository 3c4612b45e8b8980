//! `runmesh replay`: events sent again.

mod diff;
mod preview;
mod progress;
mod refused;
mod spec;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::SystemTime,
};

use runmesh_events::to_timestamp;
use runmesh_proto::replay::{
    CancelReplayRequest, CleanupReplaysRequest, CreateReplayRequest, DeleteReplayRequest, GetReplayRequest,
    ListReplaysRequest, PauseReplayRequest, PreviewReplayRequest, Replay, ReplayPreview, ReplaySpec,
    ResumeReplayRequest, StartReplayRequest, WatchReplayRequest, WatchReplayResponse,
    replay_service_client::ReplayServiceClient, watch_replay_response::Item,
};
use runmesh_rpc::{Credentials, client::Upstream};
use tonic::service::interceptor::InterceptedService;

use self::{progress::Progress, refused::refused, spec::spec};
use super::{
    connect,
    follow::{Next, follow},
    operator::actor,
    pages::{Pages, show},
    print,
    serve::Stop,
    table::{Table, left, right},
    words,
};
use crate::{
    Environment,
    cli::{
        ServerArgs,
        replay::{CleanupArgs, LsArgs, NewArgs, ReplayAction},
    },
};

/// The name of the message, for JSON.
const REPLAY: &str = "runmesh.replay.v1.Replay";

/// The exit code when the user does not wait for the end, as that of a shell.
const INTERRUPTED: u8 = 130;

type Client = ReplayServiceClient<InterceptedService<Upstream, Credentials>>;

async fn open(server: &ServerArgs) -> anyhow::Result<Client> {
    let (channel, credentials) = connect(server).await?;
    Ok(ReplayServiceClient::new(InterceptedService::new(channel, credentials)))
}

pub(super) async fn replay(action: ReplayAction, environment: &Environment) -> anyhow::Result<ExitCode> {
    // Who and why, and a client.
    macro_rules! give {
        ($args:ident, $request:ident, $method:ident) => {{
            let (actor, reason) = (actor($args.why.actor, environment)?, $args.why.reason);
            let request = $request { replay_id: $args.id, actor, reason };
            let answer = open(&$args.output.server).await?.$method(request).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            show_replay(&answer.replay.unwrap_or_default(), $args.output.json)
        }};
    }
    match action {
        ReplayAction::New(args) => new(*args, environment).await,
        ReplayAction::Preview(args) => {
            let mut client = open(&args.output.server).await?;
            let preview = preview(&mut client, &spec(args.spec, SystemTime::now())).await?;
            show_preview(&preview, args.output.json)?;
            Ok(ExitCode::SUCCESS)
        }
        ReplayAction::Start(args) => give!(args, StartReplayRequest, start_replay),
        ReplayAction::Pause(args) => give!(args, PauseReplayRequest, pause_replay),
        ReplayAction::Resume(args) => give!(args, ResumeReplayRequest, resume_replay),
        ReplayAction::Cancel(args) => give!(args, CancelReplayRequest, cancel_replay),
        ReplayAction::Ls(args) => list(args).await,
        ReplayAction::Show(args) => {
            let request = GetReplayRequest { replay_id: args.id };
            let answer = open(&args.output.server).await?.get_replay(request).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            show_replay(&answer.replay.unwrap_or_default(), args.output.json)
        }
        ReplayAction::Watch(args) => {
            let client = open(&args.output.server).await?;
            watch(client, args.id, args.output.json).await
        }
        ReplayAction::Delete(args) => {
            let (actor, reason) = (actor(args.why.actor, environment)?, args.why.reason);
            let request = DeleteReplayRequest { replay_id: args.id.clone(), actor, reason };
            let answer = open(&args.output.server).await?.delete_replay(request).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            match args.output.json {
                true => print::message(&answer, "runmesh.replay.v1.DeleteReplayResponse")?,
                false => print::line(format_args!("{} was deleted", args.id))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        ReplayAction::Diff(args) => diff::diff(args).await,
        ReplayAction::Cleanup(args) => cleanup(args, environment).await,
    }
}

/// Shows what it would do, asks, starts, and shows how it goes.
async fn new(args: NewArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let (actor, reason) = (actor(args.why.actor, environment)?, args.why.reason);
    let mut client = open(&args.output.server).await?;
    let spec = spec(args.spec, SystemTime::now());
    if !args.hold && !args.yes {
        let preview = preview(&mut client, &spec).await?;
        // JSON is for programs, and they are told of the replay.
        if !args.output.json {
            show_preview(&preview, false)?;
        }
        if preview.count == 0 && preview.complete && preview.unreadable == 0 {
            eprintln!("no events match: nothing was started");
            return Ok(ExitCode::SUCCESS);
        }
        let dry = spec.options.is_some_and(|options| options.dry_run);
        if !dry && !confirm(&preview)? {
            eprintln!("nothing was started");
            return Ok(ExitCode::FAILURE);
        }
    }
    let (who, why) = (actor.clone(), reason.clone());
    let request = CreateReplayRequest { spec: Some(spec), request_id: args.request_id, actor: who, reason: why };
    let created = client.create_replay(request).await.map_err(|status| refused(&status))?.into_inner();
    let replay = created.replay.unwrap_or_default();
    if args.hold {
        return show_replay(&replay, args.output.json);
    }
    let request = StartReplayRequest { replay_id: replay.replay_id.clone(), actor, reason };
    let started = client.start_replay(request).await.map_err(|status| refused(&status))?.into_inner();
    if args.detach {
        return show_replay(&started.replay.unwrap_or_default(), args.output.json);
    }
    watch(client, replay.replay_id, args.output.json).await
}

async fn preview(client: &mut Client, spec: &ReplaySpec) -> anyhow::Result<ReplayPreview> {
    let request = PreviewReplayRequest { spec: Some(spec.clone()) };
    let answer = client.preview_replay(request).await.map_err(|status| refused(&status))?.into_inner();
    Ok(answer.preview.unwrap_or_default())
}

fn show_preview(preview: &ReplayPreview, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return print::message(preview, "runmesh.replay.v1.ReplayPreview");
    }
    for line in preview::lines(preview) {
        print::line(line)?;
    }
    Ok(())
}

fn show_replay(replay: &Replay, as_json: bool) -> anyhow::Result<ExitCode> {
    if as_json {
        print::message(replay, REPLAY)?;
    } else {
        for line in progress::facts(replay) {
            print::line(line)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks a person.
fn confirm(preview: &ReplayPreview) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("--yes is needed to start it, since nobody can be asked here");
    }
    let more = if preview.complete { "" } else { " or more" };
    let mut errors = std::io::stderr();
    write!(errors, "Send {} events{more} again? [y/N] ", preview.to_send)?;
    errors.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

async fn list(args: LsArgs) -> anyhow::Result<ExitCode> {
    let mut client = open(&args.output.server).await?;
    let now = SystemTime::now();
    let numbers = ["DONE", "SENT", "FAILED", "CREATED"].map(right);
    let columns = [left("ID"), left("STATE"), left("TO")].into_iter().chain(numbers);
    let mut table = Table::new(columns.chain([left("BY"), left("REASON")]));
    let mut pages = Pages::new(&args.page);
    while let Some((page_size, page_token)) = pages.next() {
        let request = ListReplaysRequest { page_size, page_token };
        let page = client.list_replays(request).await.map_err(|status| refused(&status))?.into_inner();
        show(args.output.json, REPLAY, &page.replays, &mut table, |replay| row(replay, now))?;
        pages.took(page.replays.len(), page.next_page_token);
    }
    if !args.output.json {
        pages.hint();
    }
    Ok(ExitCode::SUCCESS)
}

fn row(replay: &Replay, now: SystemTime) -> Vec<String> {
    let progress = replay.progress.unwrap_or_default();
    vec![
        replay.replay_id.clone(),
        progress::state(replay.state()),
        spec::target(replay.spec.as_ref()),
        format!("{:.0} %", progress.fraction * 100.0),
        progress.sent.to_string(),
        progress.failed.to_string(),
        words::ago(replay.created_at.as_ref(), now),
        replay.actor.clone(),
        words::error(&replay.reason),
    ]
}

async fn cleanup(args: CleanupArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let (actor, reason) = (actor(args.why.actor, environment)?, args.why.reason);
    let ended_before = Some(to_timestamp(args.ended_before.before(SystemTime::now())));
    let request = CleanupReplaysRequest { ended_before, actor, reason };
    let answer = open(&args.output.server).await?.cleanup_replays(request).await;
    let answer = answer.map_err(|status| refused(&status))?.into_inner();
    match args.output.json {
        true => print::message(&answer, "runmesh.replay.v1.CleanupReplaysResponse")?,
        false => print::line(format_args!("{} replays were removed", answer.removed))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows how a replay goes, until its end.
async fn watch(client: Client, replay_id: String, as_json: bool) -> anyhow::Result<ExitCode> {
    // A signal ends the watch, and not the replay, which has to be told.
    let mut stop = Stop::listen()?;
    let ask = async |cursor| {
        let request = WatchReplayRequest { replay_id: replay_id.clone(), cursor };
        Ok(client.clone().watch_replay(request).await?.into_inner())
    };
    let mut progress = Progress::new(as_json);
    let take = |message: WatchReplayResponse| {
        if as_json {
            print::message(&message, "runmesh.replay.v1.WatchReplayResponse")?;
        }
        Ok(match message.item {
            Some(Item::Replay(replay)) => {
                progress.show(&replay);
                Next::After(message.cursor)
            }
            Some(Item::End(end)) => Next::Ended(end.replay.unwrap_or_default()),
            None => Next::After(message.cursor),
        })
    };
    let ended = follow(String::new(), ask, take, refused, &mut stop).await;
    progress.clear();
    let Some(replay) = ended? else {
        eprintln!("the replay goes on: `runmesh replay watch {replay_id}` shows it, `cancel` ends it");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    if !as_json {
        print::line(progress::verdict(&replay))?;
    }
    Ok(if progress::all_is_well(&replay) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
