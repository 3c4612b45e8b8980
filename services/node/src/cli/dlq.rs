//! The command line of `runmesh dlq`.

mod policy;
mod redrive;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use runmesh_proto::{dlq::DeadLetterState, event::EventType};

pub(crate) use self::{
    policy::{PolicyAction, PolicyArgs, PolicyNumbers, PolicySetArgs},
    redrive::{PaceArgs, RedriveAction, RedriveArgs, RedriveLsArgs},
};
use super::{
    ServerArgs,
    lists::{OutputArgs, PageArgs, When, topic, when},
};

/// `runmesh dlq`.
#[derive(Debug, Args)]
pub struct DlqArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: DlqAction,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DlqAction {
    /// List dead letters, those that failed last first
    Ls(LsArgs),
    /// Show a dead letter: its record, and each try with its error
    Show(ShowArgs),
    /// List the causes, those with the most open letters first
    Groups(GroupsArgs),
    /// Show numbers by type and state, and the groups that are paused
    Stats(StatsArgs),
    /// Deliver letters again at once, each to the group that failed
    Retry(LettersArgs),
    /// Give letters up. They are kept
    Discard(LettersArgs),
    /// Correct a letter's payload, in $EDITOR or from a file, and deliver it again
    Edit(EditArgs),
    /// Deliver many letters again: plan, ask, start, and show how it goes. Exit code 1: not all were handled
    Redrive(Box<RedriveArgs>),
    /// Show and set how letters are delivered again by themselves
    Policy(PolicyArgs),
    /// Show letters as they change
    Watch(WatchArgs),
    /// Write letters with their records, one JSON object in a line
    Export(ExportArgs),
}

/// Who does something, and why. It is recorded.
#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// Why, for those who read the record later
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reason: String,
    /// Who does it; $USER by default
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
}

/// Which letters. All that is given has to hold.
#[derive(Debug, Clone, Default, Args)]
pub struct FilterArgs {
    /// Of this event type, by its topic's name, such as execution_requested; can be given again
    #[arg(long = "type", value_name = "TOPIC", value_delimiter = ',', value_parser = topic)]
    pub types: Vec<EventType>,
    /// Of this group; can be given again
    #[arg(long = "group", value_name = "GROUP", value_delimiter = ',')]
    pub groups: Vec<String>,
    /// In this state; can be given again. By default those that are not over: scheduled, retrying, parked
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',')]
    pub states: Vec<StateArg>,
    /// Of this cause, as `dlq groups` lists them; can be given again
    #[arg(long = "fingerprint", value_name = "FINGERPRINT", value_delimiter = ',')]
    pub fingerprints: Vec<String>,
    /// About this, such as an execution
    #[arg(long, value_name = "ID")]
    pub aggregate: Option<String>,
    /// That failed last since then: so long ago, such as 1h, or a time, such as 2026-01-02T03:04:05Z
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub since: Option<When>,
    /// That failed last before then
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub until: Option<When>,
    /// With this text in their error
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
    /// This letter; can be given again
    #[arg(long = "id", value_name = "ID", value_delimiter = ',')]
    pub ids: Vec<String>,
}

/// A state of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateArg {
    /// Delivered again by itself
    Scheduled,
    /// Delivered again just now
    Retrying,
    /// Left to a person
    Parked,
    /// Handled
    Resolved,
    /// Given up
    Discarded,
    /// Any of them
    All,
}

impl StateArg {
    /// The states that are meant.
    pub fn states(self) -> Vec<DeadLetterState> {
        match self {
            Self::Scheduled => vec![DeadLetterState::Scheduled],
            Self::Retrying => vec![DeadLetterState::Retrying],
            Self::Parked => vec![DeadLetterState::Parked],
            Self::Resolved => vec![DeadLetterState::Resolved],
            Self::Discarded => vec![DeadLetterState::Discarded],
            Self::All => Self::value_variants()
                .iter()
                .filter(|state| **state != Self::All)
                .flat_map(|state| state.states())
                .collect(),
        }
    }
}

/// `runmesh dlq ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Which letters.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Those that failed first come first
    #[arg(long)]
    pub oldest: bool,
    /// How many.
    #[command(flatten)]
    pub page: PageArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh dlq show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The letter
    #[arg(value_name = "ID")]
    pub id: String,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh dlq groups`.
#[derive(Debug, Args)]
pub struct GroupsArgs {
    /// Only this group
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Only this event type, by its topic's name
    #[arg(long = "type", value_name = "TOPIC", value_parser = topic)]
    pub event_type: Option<EventType>,
    /// Also causes of which all letters are over
    #[arg(long)]
    pub closed: bool,
    /// How many.
    #[command(flatten)]
    pub page: PageArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh dlq stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh dlq retry` and `runmesh dlq discard`.
#[derive(Debug, Args)]
pub struct LettersArgs {
    /// The letters
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
    /// Who and why.
    #[command(flatten)]
    pub why: WhyArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh dlq edit`.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// The letter
    #[arg(value_name = "ID")]
    pub id: String,
    /// The corrected payload, a file of JSON; - for standard input. By default $VISUAL or $EDITOR opens the letter's
    #[arg(long, value_name = "FILE")]
    pub payload: Option<PathBuf>,
    /// Who and why.
    #[command(flatten)]
    pub why: WhyArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh dlq watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Which letters.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Where an earlier watch ended, as its lines of JSON say; by default from now on
    #[arg(long, value_name = "CURSOR", default_value = "", hide_default_value = true)]
    pub cursor: String,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh dlq export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Which letters.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// The file to write, which is there only when all has come; standard output by default
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// A number from one to another one.
fn between(text: &str, least: f64, greatest: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    if (least..=greatest).contains(&number) { Ok(number) } else { Err(format!("is not from {least} to {greatest}")) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(arguments: &[&str]) -> Result<DlqAction, String> {
        match Cli::try_parse_from([&["runmesh", "dlq"], arguments].concat()) {
            Ok(Cli { command: Command::Dlq(args) }) => Ok(args.action),
            Ok(_) => panic!("another command"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_filter_takes_topics_states_and_times() {
        let arguments = ["ls", "--type", "execution_requested,execution_failed", "--state", "all", "--since", "1h"];
        let Ok(DlqAction::Ls(args)) = parse(&arguments) else { panic!() };
        assert_eq!(args.filter.types, [EventType::ExecutionRequested, EventType::ExecutionFailed]);
        assert_eq!(args.filter.states, [StateArg::All]);
        assert_eq!(StateArg::All.states().len(), 5);
        assert_eq!(args.filter.since, Some(When::Ago(Duration::from_secs(3_600))));
        assert_eq!((args.page.limit, args.page.all), (50, false));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_flag() {
        for (arguments, flag) in [
            (&["ls", "--type", "execution_demanded"][..], "--type"),
            (&["ls", "--state", "lost"], "--state"),
            (&["ls", "--since", "yesterday"], "--since"),
            (&["ls", "--limit", "0"], "--limit"),
            (&["ls", "--limit", "5", "--all"], "--all"),
            (&["retry", "17"], "--reason"),
            (&["discard", "17", "--reason", ""], "--reason"),
            (&["redrive", "--type", "execution_failed"], "--reason"),
            (&["redrive", "--reason", "x", "--rate", "-1"], "--rate"),
            (&["redrive", "start", "token", "--reason", "x", "--rate", "inf"], "--rate"),
            (&["redrive", "pause", "17"], "--reason"),
            (&["policy", "set", "execution_failed", "--reason", "x"], "--preset"),
            (&["policy", "set", "execution_failed", "--reason", "x", "--preset", "wild"], "--preset"),
            (&["policy", "set", "execution_failed", "--reason", "x", "--retries", "101"], "--retries"),
            (
                &["policy", "set", "execution_failed", "--reason", "x", "--preset", "manual", "--jitter", "0"],
                "--jitter",
            ),
        ] {
            let said = parse(arguments).unwrap_err();
            assert!(said.contains(flag), "{arguments:?}: {said}");
        }
    }

    #[test]
    fn a_redrive_is_one_command_or_its_steps() {
        let whole = ["redrive", "--type", "execution_failed", "--rate", "10", "--canary", "5", "--reason", "fixed"];
        let Ok(DlqAction::Redrive(args)) = parse(&whole) else { panic!() };
        assert!(args.action.is_none());
        assert_eq!((args.pace.rate, args.pace.canary, args.reason.as_deref()), (10.0, 5, Some("fixed")));
        let Ok(DlqAction::Redrive(args)) = parse(&["redrive", "watch", "17", "--server", "there:1"]) else { panic!() };
        assert!(matches!(args.action, Some(RedriveAction::Watch(get)) if get.id == "17"));
        assert!(parse(&["redrive", "--rate", "1", "watch", "17"]).is_err());
    }
}
