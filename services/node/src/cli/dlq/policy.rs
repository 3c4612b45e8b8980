//! The command line of `runmesh dlq policy`.

use std::time::Duration;

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use runmesh_proto::event::EventType;

use super::{WhyArgs, between};
use crate::cli::humantime_duration;
use crate::cli::lists::{OutputArgs, topic};

/// The names of the presets.
const PRESETS: [&str; 5] = ["aggressive", "cautious", "immediate", "default", "manual"];

/// `runmesh dlq policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: PolicyAction,
}

/// What to do with policies.
#[derive(Debug, Subcommand)]
pub enum PolicyAction {
    /// List the policies of all event types, and those that were set
    Ls(PolicyLsArgs),
    /// Show the policy in force for an event type, or for a group on it
    Get(PolicyGetArgs),
    /// Set a policy, by a preset or by its numbers. It holds for all failures from now on
    Set(PolicySetArgs),
    /// Take back what was set
    Reset(PolicyResetArgs),
}

/// `runmesh dlq policy ls`.
#[derive(Debug, Args)]
pub struct PolicyLsArgs {
    /// Only those that were set
    #[arg(long)]
    pub overridden: bool,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh dlq policy get`.
#[derive(Debug, Args)]
pub struct PolicyGetArgs {
    /// The event type, by its topic's name
    #[arg(value_name = "TOPIC", value_parser = topic)]
    pub event_type: EventType,
    /// The group; by default all groups that have no policy of their own
    #[arg(long, value_name = "GROUP", default_value = "", hide_default_value = true)]
    pub group: String,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `runmesh dlq policy set`.
#[derive(Debug, Args)]
pub struct PolicySetArgs {
    /// The event type, by its topic's name
    #[arg(value_name = "TOPIC", value_parser = topic)]
    pub event_type: EventType,
    /// The group; by default all groups that have no policy of their own
    #[arg(long, value_name = "GROUP", default_value = "", hide_default_value = true)]
    pub group: String,
    /// Numbers that go together
    #[arg(long, value_name = "NAME", required_unless_present = "retries",
        value_parser = PossibleValuesParser::new(PRESETS))]
    pub preset: Option<String>,
    /// The numbers.
    #[command(flatten)]
    pub numbers: PolicyNumbers,
    /// Later events of the same execution wait in the group until the letter is over
    #[arg(long)]
    pub keep_order: bool,
    /// A letter whose tries are used up is given up rather than parked
    #[arg(long)]
    pub discard_exhausted: bool,
    /// Who and why.
    #[command(flatten)]
    pub why: WhyArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The numbers of a policy.
#[derive(Debug, Clone, Args)]
pub struct PolicyNumbers {
    /// How often a letter is delivered again; 0: a person decides
    #[arg(long, value_name = "COUNT", conflicts_with = "preset",
        allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(0..=100))]
    pub retries: Option<i32>,
    /// How long the first wait is, such as 30s; none by default
    #[arg(long, value_name = "DURATION", conflicts_with = "preset", value_parser = humantime_duration)]
    pub first_wait: Option<Duration>,
    /// How long a wait is at most, such as 5m; 7 days by default
    #[arg(long, value_name = "DURATION", conflicts_with = "preset", value_parser = humantime_duration)]
    pub max_wait: Option<Duration>,
    /// What each wait is multiplied by for the next one; 2 by default
    #[arg(long, value_name = "FACTOR", conflicts_with = "preset",
        allow_negative_numbers = true, value_parser = multiplier)]
    pub multiplier: Option<f64>,
    /// By which part of itself a wait is longer or shorter, at random; 0.1 by default
    #[arg(long, value_name = "PART", conflicts_with = "preset",
        allow_negative_numbers = true, value_parser = jitter)]
    pub jitter: Option<f64>,
}

/// `runmesh dlq policy reset`.
#[derive(Debug, Args)]
pub struct PolicyResetArgs {
    /// The event type, by its topic's name
    #[arg(value_name = "TOPIC", value_parser = topic)]
    pub event_type: EventType,
    /// The group; by default all groups that have no policy of their own
    #[arg(long, value_name = "GROUP", default_value = "", hide_default_value = true)]
    pub group: String,
    /// Who and why.
    #[command(flatten)]
    pub why: WhyArgs,
    /// How and where.
    #[command(flatten)]
    pub output: OutputArgs,
}

fn multiplier(text: &str) -> Result<f64, String> {
    between(text, 1.0, 100.0)
}

fn jitter(text: &str) -> Result<f64, String> {
    between(text, 0.0, 1.0)
}
