//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::Role;

/// Runs untrusted scripts, durably, with live output.
#[derive(Debug, Parser)]
#[command(name = "runmesh", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a script and show its output as it comes
    Run(RunArgs),
    /// Run everything in one process, with data that survives, for development
    Dev(DevArgs),
    /// Run chosen roles of a mesh
    Serve(ServeArgs),
    /// Show the languages that can be run, and what is missing for the others
    Runtimes(RuntimesArgs),
    /// Show the topics, or compare them with what the bus has
    Topics(TopicsArgs),
    /// Show what this machine can enforce, and how to get more
    Doctor(DoctorArgs),
    /// Call any method of any service
    Call(CallArgs),
}

/// Where settings come from. Flags override the environment (`RUNMESH_SECTION__KEY`), which overrides the file.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// A file of settings (TOML)
    #[arg(long, value_name = "FILE", env = "RUNMESH_CONFIG")]
    pub config: Option<PathBuf>,
    /// A setting, such as scheduler.slots=4; can be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// The folder for data
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// The server to call instead of an own node.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// The gRPC address of a running node, such as 127.0.0.1:7300
    #[arg(long, value_name = "ADDRESS", env = "RUNMESH_SERVER")]
    pub server: Option<String>,
    /// The bearer token that it needs
    #[arg(long, value_name = "TOKEN", env = "RUNMESH_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// `runmesh run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The script
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Its arguments
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
    /// The language; by default that of the file's extension
    #[arg(long)]
    pub language: Option<String>,
    /// The language's version, or the beginning of one
    #[arg(long, value_name = "VERSION", default_value = "")]
    pub language_version: String,
    /// A file that the script gets on standard input; - for this command's own
    #[arg(long, value_name = "FILE")]
    pub stdin: Option<PathBuf>,
    /// A file of cases (TOML or JSON): the program is run on each, and a table shows what became of them
    #[arg(long, value_name = "FILE", conflicts_with = "stdin")]
    pub cases: Option<PathBuf>,
    /// An environment variable of the script; can be given again
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub environment: Vec<String>,
    /// The wall-clock limit, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = humantime_duration)]
    pub timeout: Option<Duration>,
    /// Print every event as a line of JSON instead of the output
    #[arg(long)]
    pub json: bool,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// The settings of the own node.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `runmesh dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// The address of the gRPC server
    #[arg(long, value_name = "ADDRESS")]
    pub grpc: Option<SocketAddr>,
    /// The address of the gateway
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<SocketAddr>,
    /// Print the addresses as a line of JSON
    #[arg(long)]
    pub json: bool,
    /// The settings.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `runmesh serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The roles, separated by commas; all by default
    #[arg(long, value_name = "ROLES", value_delimiter = ',')]
    pub roles: Vec<Role>,
    /// As in dev.
    #[command(flatten)]
    pub dev: DevArgs,
}

/// `runmesh runtimes`.
#[derive(Debug, Args)]
pub struct RuntimesArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The server; by default this machine is asked.
    #[command(flatten)]
    pub server: ServerArgs,
    /// The settings, which name the registry.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `runmesh topics`.
#[derive(Debug, Args)]
pub struct TopicsArgs {
    /// What to do; list by default
    #[arg(value_enum, default_value = "list")]
    pub action: TopicsAction,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The settings, which name the bus.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// What to do with topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TopicsAction {
    /// Show what the catalog says
    List,
    /// Compare it with what the bus has; fails when they differ
    Check,
}

/// `runmesh doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The settings, which have the limits to try.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `runmesh call`.
#[derive(Debug, Args)]
pub struct CallArgs {
    /// The method, such as runmesh.execution.v1.ExecutionService/GetLimits
    #[arg(value_name = "SERVICE/METHOD")]
    pub method: String,
    /// The request
    #[arg(value_name = "JSON", default_value = "{}")]
    pub request: String,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
}

fn humantime_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
