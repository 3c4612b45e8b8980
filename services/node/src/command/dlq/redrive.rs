//! `runmesh dlq redrive`.

mod plan;
mod progress;

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::SystemTime,
};

use runmesh_proto::dlq::{
    CancelRedriveRequest, DeadLetterFilter, GetRedriveRequest, ListRedrivesRequest, PauseRedriveRequest,
    PlanRedriveRequest, Redrive, RedrivePlan, ResumeRedriveRequest, StartRedriveRequest, WatchRedriveRequest,
    WatchRedriveResponse, watch_redrive_response::Item,
};

use self::progress::Progress;
use super::{
    Client, Stop, actor,
    filter::filter,
    follow::{Next, follow},
    open,
    pages::{Pages, show},
    print, refused,
    table::{Table, left, right},
    words,
};
use crate::{
    Environment,
    cli::dlq::{FilterArgs, PaceArgs, RedriveAction, RedriveArgs, RedriveLsArgs},
};

/// The name of the message, for JSON.
const REDRIVE: &str = "runmesh.dlq.v1.Redrive";

/// The exit code when the user does not wait for the end, as that of a shell.
const INTERRUPTED: u8 = 130;

pub(super) async fn redrive(args: RedriveArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    match args.action {
        None => whole(args, environment).await,
        Some(RedriveAction::Plan(args)) => {
            let mut client = open(&args.output.server).await?;
            show_plan(&plan(&mut client, args.filter, args.rate).await?, args.output.json, true)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(RedriveAction::Start(args)) => {
            let (actor, reason) = (actor(args.why.actor, environment)?, args.why.reason);
            let mut client = open(&args.output.server).await?;
            let redrive = start(&mut client, args.plan, args.pace, actor, reason).await?;
            show_redrive(&redrive, args.output.json)
        }
        Some(RedriveAction::Pause(args)) => {
            let (actor, reason) = (actor(args.why.actor, environment)?, args.why.reason);
            let request = PauseRedriveRequest { redrive_id: args.id, actor, reason };
            let answer = open(&args.output.server).await?.pause_redrive(request).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            show_redrive(&answer.redrive.unwrap_or_default(), args.output.json)
        }
        Some(RedriveAction::Resume(args)) => {
            let (actor, reason) = (actor(args.why.actor, environment)?, args.why.reason);
            let request = ResumeRedriveRequest { redrive_id: args.id, actor, reason };
            let answer = open(&args.output.server).await?.resume_redrive(request).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            show_redrive(&answer.redrive.unwrap_or_default(), args.output.json)
        }
        Some(RedriveAction::Cancel(args)) => {
            let (actor, reason) = (actor(args.why.actor, environment)?, args.why.reason);
            let request = CancelRedriveRequest { redrive_id: args.id, actor, reason };
            let answer = open(&args.output.server).await?.cancel_redrive(request).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            show_redrive(&answer.redrive.unwrap_or_default(), args.output.json)
        }
        Some(RedriveAction::Get(args)) => {
            let request = GetRedriveRequest { redrive_id: args.id };
            let answer = open(&args.output.server).await?.get_redrive(request).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            show_redrive(&answer.redrive.unwrap_or_default(), args.output.json)
        }
        Some(RedriveAction::Ls(args)) => list(args).await,
        Some(RedriveAction::Watch(args)) => {
            let client = open(&args.output.server).await?;
            watch(client, args.id, args.output.json).await
        }
    }
}

/// Plans, asks, starts, and shows how it goes.
async fn whole(args: RedriveArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let actor = actor(args.actor, environment)?;
    let mut client = open(&args.output.server).await?;
    let plan = plan(&mut client, args.filter, args.pace.rate).await?;
    show_plan(&plan, args.output.json, false)?;
    if plan.count == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !confirm(&format!("Deliver {} letters again?", plan.count))? {
        eprintln!("nothing was started");
        return Ok(ExitCode::FAILURE);
    }
    let redrive = start(&mut client, plan.plan_token, args.pace, actor, args.reason.unwrap_or_default()).await?;
    watch(client, redrive.redrive_id, args.output.json).await
}

async fn plan(client: &mut Client, args: FilterArgs, rate: f64) -> anyhow::Result<RedrivePlan> {
    let filter = filter(args, SystemTime::now());
    if filter == DeadLetterFilter::default() {
        anyhow::bail!("say which letters, by --type, --group, --fingerprint or another flag of the filter");
    }
    let request = PlanRedriveRequest { filter: Some(filter), rate };
    let answer = client.plan_redrive(request).await.map_err(|status| refused(&status))?.into_inner();
    Ok(answer.plan.unwrap_or_default())
}

async fn start(
    client: &mut Client,
    plan_token: String,
    pace: PaceArgs,
    actor: String,
    reason: String,
) -> anyhow::Result<Redrive> {
    let PaceArgs { rate, canary, canary_failures } = pace;
    let request = StartRedriveRequest { plan_token, rate, canary, canary_failures, actor, reason };
    let answer = client.start_redrive(request).await.map_err(|status| refused(&status))?.into_inner();
    Ok(answer.redrive.unwrap_or_default())
}

fn show_plan(plan: &RedrivePlan, as_json: bool, with_token: bool) -> anyhow::Result<()> {
    if as_json {
        return print::message(plan, "runmesh.dlq.v1.RedrivePlan");
    }
    for line in plan::lines(plan, with_token) {
        print::line(line)?;
    }
    Ok(())
}

fn show_redrive(redrive: &Redrive, as_json: bool) -> anyhow::Result<ExitCode> {
    if as_json {
        print::message(redrive, REDRIVE)?;
    } else {
        for line in progress::facts(redrive) {
            print::line(line)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks a person.
fn confirm(question: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("--yes is needed to start it, since nobody can be asked here");
    }
    let mut errors = std::io::stderr();
    write!(errors, "{question} [y/N] ")?;
    errors.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

async fn list(args: RedriveLsArgs) -> anyhow::Result<ExitCode> {
    let mut client = open(&args.output.server).await?;
    let now = SystemTime::now();
    let numbers = ["PLANNED", "DELIVERED", "HANDLED", "FAILED", "STARTED"].map(right);
    let columns = [left("ID"), left("STATE")].into_iter().chain(numbers).chain([left("BY"), left("REASON")]);
    let mut table = Table::new(columns);
    let mut pages = Pages::new(&args.page);
    while let Some((page_size, page_token)) = pages.next() {
        let request = ListRedrivesRequest { page_size, page_token };
        let page = client.list_redrives(request).await.map_err(|status| refused(&status))?.into_inner();
        show(args.output.json, REDRIVE, &page.redrives, &mut table, |redrive| row(redrive, now))?;
        pages.took(page.redrives.len(), page.next_page_token);
    }
    if !args.output.json {
        pages.hint();
    }
    Ok(ExitCode::SUCCESS)
}

fn row(redrive: &Redrive, now: SystemTime) -> Vec<String> {
    vec![
        redrive.redrive_id.clone(),
        progress::state(redrive.state()),
        redrive.planned.to_string(),
        redrive.delivered.to_string(),
        redrive.resolved.to_string(),
        redrive.failed.to_string(),
        words::ago(redrive.started_at.as_ref(), now),
        redrive.actor.clone(),
        words::error(&redrive.reason),
    ]
}

/// Shows how a redrive goes, until its end, or until it stops by its canary.
async fn watch(client: Client, redrive_id: String, as_json: bool) -> anyhow::Result<ExitCode> {
    // A signal ends the watch, and not the redrive, which has to be told.
    let mut stop = Stop::listen()?;
    let ask = async |cursor| {
        let request = WatchRedriveRequest { redrive_id: redrive_id.clone(), cursor };
        Ok(client.clone().watch_redrive(request).await?.into_inner())
    };
    let mut progress = Progress::new(as_json);
    let take = |message: WatchRedriveResponse| {
        if as_json {
            print::message(&message, "runmesh.dlq.v1.WatchRedriveResponse")?;
        }
        Ok(match message.item {
            Some(Item::Redrive(redrive)) => {
                progress.show(&redrive);
                // It may be resumed, but not by itself.
                if progress::has_stopped(&redrive) { Next::Ended(redrive) } else { Next::After(message.cursor) }
            }
            Some(Item::End(end)) => Next::Ended(end.redrive.unwrap_or_default()),
            None => Next::After(message.cursor),
        })
    };
    let ended = follow(String::new(), ask, take, refused, &mut stop).await;
    progress.clear();
    let Some(redrive) = ended? else {
        eprintln!("the redrive goes on: `runmesh dlq redrive watch {redrive_id}` shows it, `cancel` ends it");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    if !as_json {
        print::line(progress::verdict(&redrive))?;
    }
    Ok(if progress::all_is_well(&redrive) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
