//! The command line.

pub(crate) mod dlq;
pub(crate) mod events;
pub(crate) mod lists;
pub(crate) mod operator;
pub(crate) mod replay;

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
    Run(Box<RunArgs>),
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
    /// Compare what is stored with what is on the topics and what the groups have done. Exit code 1: something is lost or
    /// an invariant does not hold; 2: there is no verdict
    Verify(VerifyArgs),
    /// Inspect what groups could not handle, and deliver it to them again
    Dlq(dlq::DlqArgs),
    /// Send events again: to topics, to one group, to a file
    Replay(replay::ReplayArgs),
    /// Look at events: list, show, follow, export and count them
    Events(events::EventsArgs),
    /// Make certificates
    Certs(CertsArgs),
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
    /// Use TLS: the certificates of those who are trusted to sign the server's (PEM)
    #[arg(long, value_name = "FILE", env = "RUNMESH_CA")]
    pub ca: Option<PathBuf>,
    /// The certificate to show to the server (PEM)
    #[arg(long, value_name = "FILE", env = "RUNMESH_CERT", requires = "ca", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", env = "RUNMESH_KEY", requires = "cert")]
    pub key: Option<PathBuf>,
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
    /// What the script may use.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Refuse to run it where one of the limits can't be held to in full
    #[arg(long)]
    pub strict: bool,
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

/// What a script may use. What is not given is the node's default.
#[derive(Debug, Clone, Default, Args)]
pub struct LimitArgs {
    /// The wall-clock limit, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = humantime_duration)]
    pub timeout: Option<Duration>,
    /// The limit of processor time of all processes together, such as 10s
    #[arg(long, value_name = "DURATION", value_parser = humantime_duration)]
    pub cpu_time: Option<Duration>,
    /// How many processor cores, such as 0.5
    #[arg(long, value_name = "CORES", value_parser = millis)]
    pub cpus: Option<i32>,
    /// The memory limit, such as 256M; K, M and G stand for 1,024 and its powers
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<i64>,
    /// How many processes and threads at once
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
    pub processes: Option<i32>,
    /// The limit of all files that the script makes together, such as 64M
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub disk: Option<i64>,
    /// The limit of any one file that the script writes, such as 16M
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub file_size: Option<i64>,
    /// The limit of standard output and standard error together, such as 1M
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub output_size: Option<i64>,
}

/// `runmesh dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Run the mesh as separate processes on Kafka and MongoDB: those of the settings, or else the test servers, which
    /// `cargo xtask servers up` starts
    #[arg(long)]
    pub real: bool,
    /// Where to listen, and the settings.
    #[command(flatten)]
    pub host: HostArgs,
}

/// Where a node listens, and its settings.
#[derive(Debug, Args)]
pub struct HostArgs {
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
    /// End in an orderly way when standard input comes to its end, as it does when the parent process is gone
    #[arg(long)]
    pub until_stdin_closes: bool,
    /// Accept settings that make handlers fail on purpose
    #[arg(long)]
    pub allow_faults: bool,
    /// Where to listen, and the settings.
    #[command(flatten)]
    pub host: HostArgs,
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

/// `runmesh verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Look only at what was recorded since so long ago, such as 1h
    #[arg(long, value_name = "DURATION", value_parser = humantime_duration)]
    pub since: Option<Duration>,
    /// How long what is on its way may take before it is a finding, such as 5m; 60s by default
    #[arg(long, value_name = "DURATION", value_parser = humantime_duration)]
    pub patience: Option<Duration>,
    /// Verify again and again for so long, until nothing is on its way
    #[arg(long, value_name = "DURATION", value_parser = humantime_duration)]
    pub wait: Option<Duration>,
    /// How many findings of each kind are shown; 100 by default
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub findings: Option<u16>,
    /// Print every message as a line of JSON; the last one has the ledger
    #[arg(long)]
    pub json: bool,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
    /// The settings, which name the store and the bus, where no server is given.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// `runmesh certs`.
#[derive(Debug, Args)]
pub struct CertsArgs {
    /// What to make.
    #[command(subcommand)]
    pub action: CertsAction,
}

/// What to make.
#[derive(Debug, Subcommand)]
pub enum CertsAction {
    /// A certificate authority and certificates of it for every role, for a laptop and for tests
    Dev(DevCertsArgs),
}

/// `runmesh certs dev`.
#[derive(Debug, Args)]
pub struct DevCertsArgs {
    /// The folder for the files; it is made where it is missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A name or IP address for which the certificates are good, beside localhost and the role's name; can be given again
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
}

fn humantime_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// A number of bytes: `4096`, `64K`, `1.5GiB`.
fn size(text: &str) -> Result<i64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return Err(format!("{unit:?} is not a unit: K, M or G")),
    };
    scaled(number, factor)
}

/// Processor cores as thousandths of one.
fn millis(text: &str) -> Result<i32, String> {
    scaled(text, 1_000).and_then(|millis| i32::try_from(millis).map_err(|_| "is too many".to_owned()))
}

/// A number with a few digits after the point, times a factor. 0 would stand for the default, so it is none.
fn scaled(number: &str, factor: i64) -> Result<i64, String> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 3 || number.ends_with('.') {
        return Err("is not a number with at most three digits after the point".to_owned());
    }
    let thousandths: Option<i64> = format!("{whole}{part:0<3}").parse().ok();
    match thousandths.and_then(|number| number.checked_mul(factor)).map(|number| number / 1_000) {
        Some(number) if number > 0 => Ok(number),
        Some(_) => Err("is too small".to_owned()),
        None => Err("is too large".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{millis, size};

    #[test]
    fn sizes_have_units_and_cores_have_parts() {
        for (text, bytes) in
            [("1", 1), ("4096", 4_096), ("64K", 65_536), ("1.5GiB", 3 << 29), ("2mb", 2 << 20), ("3b", 3)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "M", "-1", "1.", ".5", "1T", "1.2345K", "0.1", "9999999999G", "1 2"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!((millis("0.5"), millis("2"), millis("1.25")), (Ok(500), Ok(2_000), Ok(1_250)));
        assert!(millis("0").is_err() && millis("9999999").is_err() && millis("1K").is_err());
    }

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
