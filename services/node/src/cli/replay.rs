//! The command line of `runmesh replay`.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Subcommand};

use super::{
    LimitArgs,
    events::FilterArgs,
    lists::{OutputArgs, PageArgs, When, when},
    operator::WhyArgs,
};

/// `runmesh replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ReplayAction,
}

/// What to do with replays.
#[derive(Debug, Subcommand)]
pub enum ReplayAction {
    /// Send events again: show what that would do, ask, start, and show how it goes. Exit code 1: not all were sent
    New(Box<NewArgs>),
    /// Show what a replay would do. Nothing is sent
    Preview(Box<PreviewArgs>),
    /// Start a replay that was only created
    Start(ChangeArgs),
    /// Have a replay send nothing more until it is resumed
    Pause(ChangeArgs),
    /// Have a replay go on that is paused or has failed
    Resume(ChangeArgs),
    /// End a replay. What was sent is not called back
    Cancel(ChangeArgs),
    /// List replays, newest first
    Ls(LsArgs),
    /// Show a replay, with what was done with it and what could not be sent
    Show(ShowArgs),
    /// Show how a replay goes, until its end. Exit code 1: not all were sent
    Watch(ShowArgs),
    /// Show in what the runs of a shadow replay differ from the first ones. Exit code 1: some do
    Diff(DiffArgs),
    /// Remove a replay that is not under way, and its file
    Delete(ChangeArgs),
    /// Remove the replays that ended some time ago, and their files
    Cleanup(CleanupArgs),
}

/// Which events. All that is given has to hold.
#[derive(Debug, Clone, Default, Args)]
pub struct WhichArgs {
    /// By what they are.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// All events, where no other flag says which
    #[arg(long)]
    pub all: bool,
    /// Out of a file that a replay wrote, rather than out of the log: the replay's id, or the file's name
    #[arg(long, value_name = "REPLAY OR NAME")]
    pub from_file: Option<String>,
}

/// Where they go.
#[derive(Debug, Clone, Default, Args)]
#[group(required = true, multiple = false)]
pub struct TargetArgs {
    /// To the topics of their types, for the groups that take replayed events
    #[arg(long)]
    pub to_topics: bool,
    /// To this group alone, which has to take replayed events
    #[arg(long, value_name = "GROUP")]
    pub to_group: Option<String>,
    /// To a file in the node's folder of replays
    #[arg(long)]
    pub to_file: bool,
    /// Run executions again, as new ones: those whose execution_requested is among the events
    #[arg(long)]
    pub rerun: bool,
    /// Run executions again, and compare what comes of it with what came of it first: see `runmesh replay diff`
    #[arg(long)]
    pub shadow: bool,
    /// To this read model, `executions` or `results`, which is built anew beside the one in use and put in its place; with --all
    #[arg(long, value_name = "READ MODEL")]
    pub to_projection: Option<String>,
}

/// What is different when executions are run again.
#[derive(Debug, Clone, Default, Args)]
pub struct RerunArgs {
    /// With --rerun and --shadow: a version of the language, such as 3.12
    #[arg(long, value_name = "VERSION", conflicts_with_all = ["to_topics", "to_group", "to_file", "to_projection"])]
    pub language_version: Option<String>,
    /// Limits, in the stead of those that they had.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// With --rerun and --shadow: how many at the same time; 8 by default
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true, allow_negative_numbers = true)]
    pub parallel: i32,
    /// With --shadow: a run that takes more than so many times as long is a difference
    #[arg(long, value_name = "TIMES", default_value_t = 0.0, hide_default_value = true, allow_negative_numbers = true)]
    pub slower: f64,
    /// With --shadow: a run that needs more than so many times as much memory is a difference
    #[arg(long, value_name = "TIMES", default_value_t = 0.0, hide_default_value = true, allow_negative_numbers = true)]
    pub larger: f64,
}

/// How they are sent.
#[derive(Debug, Clone, Default, Args)]
pub struct HowArgs {
    /// With --to-topics: what belongs on one topic goes to another one, of the setting replay.topics; can be given again
    #[arg(long = "map", value_name = "TOPIC=OTHER", conflicts_with_all = ["to_group", "to_file", "rerun", "shadow", "to_projection"], value_parser = Mapping::from_str)]
    pub map: Vec<Mapping>,
    /// Keep the gaps between the events, so many times as fast as they were; 0 for no gaps
    #[arg(long, value_name = "TIMES", default_value_t = 0.0, hide_default_value = true, allow_negative_numbers = true)]
    pub speed: f64,
    /// How many are sent in a second at most; 0 for no limit
    #[arg(
        long,
        value_name = "PER SECOND",
        default_value_t = 0.0,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    pub rate: f64,
    /// Records keep the time of their event
    #[arg(long)]
    pub preserve_timestamps: bool,
    /// How many are sent together at most; 500 by default
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true, allow_negative_numbers = true)]
    pub batch_size: i32,
    /// End after so many
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true, allow_negative_numbers = true)]
    pub max_events: i64,
    /// Go on where one can't be sent
    #[arg(long)]
    pub skip_errors: bool,
    /// How often one that can't be sent is tried again; 5 by default
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub retries: Option<i32>,
    /// Do everything but send
    #[arg(long)]
    pub dry_run: bool,
}

/// What belongs on one topic goes to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The topic of the event type.
    pub from: String,
    /// The other one.
    pub to: String,
}

impl FromStr for Mapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once('=').ok_or("is not of the form TOPIC=OTHER")?;
        Ok(Self { from: from.to_owned(), to: to.to_owned() })
    }
}

/// What, where to, and how.
#[derive(Debug, Clone, Default, Args)]
pub struct SpecArgs {
    /// Which events.
    #[command(flatten)]
    pub which: WhichArgs,
    /// Where to.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What is different where executions are run again.
    #[command(flatten)]
    pub rerun: RerunArgs,
    /// How.
    #[command(flatten)]
    pub how: HowArgs,
}

/// `runmesh replay new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// What, where to, and how.
    #[command(flatten)]
    pub spec: SpecArgs,
    /// Who and why.
    #[command(flatten)]
    pub why: WhyArgs,
    /// Start it without asking
    #[arg(long)]
    pub yes: bool,
    /// Create it only: `runmesh replay start` starts it
    #[arg(long, conflicts_with_all = ["yes", "detach"])]
    pub hold: bool,
    /// Do not show how it goes
    #[arg(long)]
    pub detach: bool,
    /// The same in calls that mean the same replay
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub request_id: String,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh replay preview`.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// What, where to, and how.
    #[command(flatten)]
    pub spec: SpecArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh replay start`, `pause`, `resume`, `cancel` and `delete`.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// The replay
    #[arg(value_name = "ID")]
    pub id: String,
    /// Who and why.
    #[command(flatten)]
    pub why: WhyArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh replay ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// How many.
    #[command(flatten)]
    pub page: PageArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh replay show` and `watch`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The replay
    #[arg(value_name = "ID")]
    pub id: String,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh replay diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The replay
    #[arg(value_name = "ID")]
    pub id: String,
    /// Those too that do not differ
    #[arg(long)]
    pub same: bool,
    /// The whole report as a page, in this file
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub html: Option<PathBuf>,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh replay cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Those that ended before then: so long ago, such as 7d, or a time, such as 2026-01-02T03:04:05Z
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub ended_before: When,
    /// Who and why.
    #[command(flatten)]
    pub why: WhyArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}
