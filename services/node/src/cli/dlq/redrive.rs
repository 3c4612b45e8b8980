//! The command line of `runmesh dlq redrive`.

use clap::{Args, Subcommand};

use super::{FilterArgs, WhyArgs, between};
use crate::cli::lists::{OutputArgs, PageArgs};

/// How fast, and how carefully.
#[derive(Debug, Clone, Copy, Args)]
pub struct PaceArgs {
    /// How many are delivered in a second at most; 0 for no limit
    #[arg(long, value_name = "PER SECOND", default_value_t = 0.0, hide_default_value = true,
        allow_negative_numbers = true, value_parser = rate)]
    pub rate: f64,
    /// How many are delivered first, to see how they go; 0 for none
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true,
        allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(0..))]
    pub canary: i32,
    /// How many of those may fail
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true,
        allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(0..))]
    pub canary_failures: i32,
}

/// `runmesh dlq redrive`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct RedriveArgs {
    /// One step alone.
    #[command(subcommand)]
    pub action: Option<RedriveAction>,
    /// Which letters.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// How.
    #[command(flatten)]
    pub pace: PaceArgs,
    /// Why, for those who read the record later
    // Not `WhyArgs`: a step alone does not need it here.
    #[arg(long, value_name = "TEXT", required = true, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reason: Option<String>,
    /// Who does it; $USER by default
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
    /// Start it without asking
    #[arg(long)]
    pub yes: bool,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// One step of a redrive.
#[derive(Debug, Subcommand)]
pub enum RedriveAction {
    /// Show what a redrive of these letters would do. Nothing is delivered
    Plan(RedrivePlanArgs),
    /// Start the redrive of a plan
    Start(RedriveStartArgs),
    /// Have a redrive deliver nothing more until it is resumed
    Pause(RedriveChangeArgs),
    /// Have a redrive that is paused, or was stopped by its canary, go on
    Resume(RedriveChangeArgs),
    /// End a redrive. What was delivered is not called back
    Cancel(RedriveChangeArgs),
    /// Show a redrive
    Get(RedriveGetArgs),
    /// List redrives, newest first
    Ls(RedriveLsArgs),
    /// Show how a redrive goes, until its end. Exit code 1: not all were handled
    Watch(RedriveGetArgs),
}

/// `runmesh dlq redrive plan`.
#[derive(Debug, Args)]
pub struct RedrivePlanArgs {
    /// Which letters.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// How many would be delivered in a second, to tell how long it takes; 0 for no limit
    #[arg(long, value_name = "PER SECOND", default_value_t = 0.0, hide_default_value = true,
        allow_negative_numbers = true, value_parser = rate)]
    pub rate: f64,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh dlq redrive start`.
#[derive(Debug, Args)]
pub struct RedriveStartArgs {
    /// The token of the plan
    #[arg(value_name = "PLAN")]
    pub plan: String,
    /// How.
    #[command(flatten)]
    pub pace: PaceArgs,
    /// Who and why.
    #[command(flatten)]
    pub why: WhyArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh dlq redrive pause`, `resume` and `cancel`.
#[derive(Debug, Args)]
pub struct RedriveChangeArgs {
    /// The redrive
    #[arg(value_name = "ID")]
    pub id: String,
    /// Who and why.
    #[command(flatten)]
    pub why: WhyArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh dlq redrive get` and `watch`.
#[derive(Debug, Args)]
pub struct RedriveGetArgs {
    /// The redrive
    #[arg(value_name = "ID")]
    pub id: String,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh dlq redrive ls`.
#[derive(Debug, Args)]
pub struct RedriveLsArgs {
    /// How many.
    #[command(flatten)]
    pub page: PageArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A number of letters in a second.
fn rate(text: &str) -> Result<f64, String> {
    between(text, 0.0, 1_000_000.0)
}
