//! The command line of `runmesh events`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use runmesh_proto::event::EventType;

use super::{
    ServerArgs,
    lists::{OutputArgs, PageArgs, When, topic, when},
};

/// `runmesh events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: EventsAction,
}

/// What to do with events.
#[derive(Debug, Subcommand)]
pub enum EventsAction {
    /// List events, those that were recorded last first
    Ls(LsArgs),
    /// Show an event, with what it follows from and what follows from it
    Show(ShowArgs),
    /// Show events as they are recorded
    Tail(TailArgs),
    /// Write events to a file, as lines of JSON or as comma-separated values
    Export(ExportArgs),
    /// Count events by type, hour, service and user, and what became of executions
    Stats(StatsArgs),
}

/// Which events. All that is given has to hold.
#[derive(Debug, Clone, Default, Args)]
pub struct FilterArgs {
    /// Of this type, by its topic's name, such as execution_requested; can be given again
    #[arg(long = "type", value_name = "TOPIC", value_delimiter = ',', value_parser = topic)]
    pub types: Vec<EventType>,
    /// Not of this type; can be given again
    #[arg(long = "not-type", value_name = "TOPIC", value_delimiter = ',', value_parser = topic)]
    pub excluded: Vec<EventType>,
    /// Of this execution
    #[arg(long, value_name = "ID")]
    pub execution: Option<String>,
    /// Of the log of this, such as a dead letter
    #[arg(long, value_name = "ID")]
    pub aggregate: Option<String>,
    /// On behalf of this user
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Recorded by this service, such as scheduler
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// That follow from this call
    #[arg(long, value_name = "ID")]
    pub correlation: Option<String>,
    /// Recorded since then: so long ago, such as 1h, or a time, such as 2026-01-02T03:04:05Z
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub since: Option<When>,
    /// Recorded before then
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub until: Option<When>,
    /// With this text in what they say
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
    /// This event; can be given again
    #[arg(long = "id", value_name = "ID", value_delimiter = ',')]
    pub ids: Vec<String>,
}

/// `runmesh events ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Which events.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Those that were recorded first come first
    #[arg(long)]
    pub oldest: bool,
    /// How many.
    #[command(flatten)]
    pub page: PageArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh events show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The event
    #[arg(value_name = "ID")]
    pub id: String,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh events tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// Which events.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Where an earlier tail ended, as its lines of JSON say, or an event's position; 0 for the first event; by default
    /// from now on
    #[arg(long, value_name = "CURSOR", default_value = "", hide_default_value = true)]
    pub cursor: String,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The form of an exported file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// A JSON object in a line
    Ndjson,
    /// Comma-separated values with a header
    Csv,
}

/// `runmesh events export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Which events.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// The form of the file; by default csv where --out ends in .csv, otherwise ndjson
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<FormatArg>,
    /// The file to write, which is there only when all has come; standard output by default
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `runmesh events stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Which events.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// How many users are listed
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    pub users: i32,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(arguments: &[&str]) -> Result<EventsAction, String> {
        match Cli::try_parse_from([&["runmesh", "events"], arguments].concat()) {
            Ok(Cli { command: Command::Events(args) }) => Ok(args.action),
            Ok(_) => panic!("another command"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_filter_takes_topics_and_times() {
        let Ok(EventsAction::Ls(args)) =
            parse(&["ls", "--type", "pod_created,pod_failed", "--not-type", "pod_failed", "--since", "1h"])
        else {
            panic!()
        };
        assert_eq!(args.filter.types, [EventType::PodCreated, EventType::PodFailed]);
        assert_eq!(args.filter.excluded, [EventType::PodFailed]);
        assert!(args.filter.since.is_some() && args.page.limit == 50);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_flag() {
        for (arguments, flag) in [
            (&["ls", "--type", "pod_eaten"][..], "--type"),
            (&["tail", "--since", "yesterday"], "--since"),
            (&["export", "--format", "xml"], "--format"),
            (&["stats", "--users", "0"], "--users"),
            (&["show"], "ID"),
        ] {
            let said = parse(arguments).unwrap_err();
            assert!(said.contains(flag), "{arguments:?}: {said}");
        }
    }
}
