//! The commands.

mod call;
mod doctor;
mod print;
mod run;
mod runtimes;
mod serve;
mod topics;

use std::process::ExitCode;

use runmesh_rpc::{Credentials, Secret};
use tonic::transport::{Channel, Endpoint};

use crate::{
    Cli, Environment,
    cli::{Command, ServerArgs},
};

/// Where a server is by default: the address of `runmesh dev`.
const DEFAULT_SERVER: &str = "127.0.0.1:7300";

/// How long a server may take to be reached.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(5);

/// Runs a command. What goes wrong is told on standard error, with exit code 1, or that of the script.
pub fn main(cli: Cli, environment: &Environment) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("runmesh: can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(args, environment).await,
            Command::Dev(args) => serve::dev(args, environment).await,
            Command::Serve(args) => serve::serve(args, environment).await,
            Command::Runtimes(args) => runtimes::runtimes(args, environment).await,
            Command::Topics(args) => topics::topics(args, environment).await,
            Command::Doctor(args) => doctor::doctor(args, environment).await,
            Command::Call(args) => call::call(args).await,
        }
    });
    // What still blocks a thread (a read of standard input) must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    result.unwrap_or_else(|error| {
        // Whoever read the output has seen enough: nothing to tell, and nobody to tell it to.
        if !error.chain().any(is_broken_pipe) {
            eprintln!("runmesh: {}", print::chain(&error));
        }
        ExitCode::FAILURE
    })
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// A connection to a running node.
async fn connect(args: &ServerArgs) -> anyhow::Result<(Channel, Credentials)> {
    use anyhow::Context as _;
    let address = args.server.as_deref().unwrap_or(DEFAULT_SERVER);
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let channel = Endpoint::from_shared(uri)
        .with_context(|| format!("{address:?} is not an address"))?
        .connect_timeout(CONNECT)
        .connect()
        .await
        .with_context(|| format!("can't reach a node at {address}; `runmesh dev` starts one"))?;
    let token = args.token.as_deref().map(Secret::new);
    let credentials = Credentials::new(token.as_ref()).map_err(|status| print::error(&status))?;
    Ok((channel, credentials))
}
