//! The commands.

mod call;
mod certs;
mod connect;
mod dlq;
mod doctor;
mod download;
mod events;
mod follow;
mod operator;
mod pages;
mod print;
mod real;
mod reconnect;
mod refused;
mod replay;
mod run;
mod runtimes;
mod serve;
mod table;
mod topics;
mod verify;
mod words;

use std::process::ExitCode;

use self::connect::connect;
use crate::{Cli, Environment, cli::Command};

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
            Command::Run(args) => run::run(*args, environment).await,
            Command::Dev(args) => serve::dev(args, environment).await,
            Command::Serve(args) => serve::serve(args, environment).await,
            Command::Runtimes(args) => runtimes::runtimes(args, environment).await,
            Command::Topics(args) => topics::topics(args, environment).await,
            Command::Doctor(args) => doctor::doctor(args, environment).await,
            Command::Call(args) => call::call(args).await,
            Command::Verify(args) => verify::verify(args, environment).await,
            Command::Dlq(args) => dlq::dlq(args.action, environment).await,
            Command::Replay(args) => replay::replay(args.action, environment).await,
            Command::Events(args) => events::events(args.action).await,
            Command::Certs(args) => certs::certs(&args),
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
