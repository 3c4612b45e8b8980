//! `runmesh doctor`: what this machine can enforce, and how to get more.

use std::process::ExitCode;

use runmesh_runner::{Level, ProcessConfig, ProcessSandbox, Runtimes, Sandbox as _};
use serde_json::json;

use super::{print, serve::settings};
use crate::{Environment, cli::DoctorArgs, sandbox::search};

pub(super) async fn doctor(args: DoctorArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let config = settings(&args.config, environment, None, &[("log.filter", "warn")])?;
    let found = Runtimes::discover(&search(&config, environment)).await?;
    let folder = tempfile::Builder::new().prefix("runmesh-").tempdir()?;
    let sandbox = ProcessSandbox::open(ProcessConfig {
        readable: found.folders(),
        avoid: config.runner.avoid,
        pool: 0,
        ..ProcessConfig::new(folder.path())
    })?;
    let limits = config.execution.default_limits.to_proto();
    let receipt = sandbox.receipt(&runmesh_runner::limits_of_proto(&limits));
    let advice = sandbox.advice();
    let runtimes: Vec<String> =
        found.list().iter().map(|runtime| format!("{} {}", runtime.language, runtime.version)).collect();
    let missing: Vec<(&str, &str)> = found.missing().map(|missing| (missing.name, missing.package)).collect();
    if args.json {
        let lines: Vec<_> = receipt
            .iter()
            .map(|line| {
                json!({
                    "limit": line.limit.as_str(), "level": level(line.level), "asked": line.asked, "enforced": line.enforced,
                    "mechanism": line.mechanism, "reason": line.reason,
                })
            })
            .collect();
        print::line(json!({
            "isolation": sandbox.isolation(), "refusals": sandbox.refusals(), "receipt": lines, "advice": advice,
            "runtimes": runtimes, "missing": missing,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    print::line(format_args!("Scripts run {}.", sandbox.isolation()))?;
    for refusal in sandbox.refusals() {
        print::line(format_args!("  Not {refusal}"))?;
    }
    print::line("")?;
    for line in &receipt {
        let by = if line.reason.is_empty() {
            line.mechanism.clone()
        } else if line.mechanism.is_empty() {
            line.reason.clone()
        } else {
            format!("{}: {}", line.mechanism, line.reason)
        };
        print::line(format_args!("  {:<12} {:<8} {by}", line.limit.as_str(), level(line.level)))?;
    }
    print::line("")?;
    if advice.is_empty() {
        print::line("Nothing is missing.")?;
    } else {
        print::line("To get more:")?;
        for one in advice {
            print::line(format_args!("  - {one}"))?;
        }
    }
    print::line("")?;
    print::line(format_args!("Languages: {}", runtimes.join(", ")))?;
    if !missing.is_empty() {
        let missing: Vec<String> =
            missing.iter().map(|(language, package)| format!("{language} ({package})")).collect();
        print::line(format_args!("Not found: {}", missing.join(", ")))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Full => "full",
        Level::Partial => "partial",
        Level::None => "none",
    }
}
