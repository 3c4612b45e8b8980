//! `cargo xtask lint`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::bail;

use crate::{base, setup, step};

/// The version that `.ci/run` installs.
const CARGO_DENY: &str = include_str!("../tools/cargo-deny-version").trim_ascii();

/// A check's name and the check.
type Check = (&'static str, fn() -> anyhow::Result<()>);

const CHECKS: [Check; 6] = [
    ("format", format),
    ("buf lint", buf_lint),
    ("buf format", buf_format),
    ("buf breaking", buf_breaking),
    ("clippy", clippy),
    ("cargo deny", deny),
];

/// Runs every check, also after one has failed.
///
/// # Errors
/// When a prerequisite is missing or a check fails; the message names the checks.
pub(crate) fn run() -> anyhow::Result<()> {
    setup::run()?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        if let Err(error) = check() {
            eprintln!("xtask: {name}: {error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        eprintln!("xtask: {} checks passed", CHECKS.len());
        return Ok(());
    }
    bail!("failed: {}", failed.join(", "))
}

fn format() -> anyhow::Result<()> {
    step::run(step::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> anyhow::Result<()> {
    step::run(step::cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
}

fn buf() -> Command {
    Command::new(setup::tool("python/bin/buf"))
}

fn buf_lint() -> anyhow::Result<()> {
    step::run(buf().arg("lint"))
}

fn buf_format() -> anyhow::Result<()> {
    step::run(buf().args(["format", "--diff", "--exit-code", "--path", "proto/runmesh"]))
}

/// Compares the contract with an earlier commit's, once there is one.
fn buf_breaking() -> anyhow::Result<()> {
    let base = match base::find()? {
        base::Base::Commit(commit) => commit,
        base::Base::Nothing(why) => {
            eprintln!("xtask: buf breaking: nothing to compare with: {why}");
            return Ok(());
        }
    };
    let folder: PathBuf = Path::new("target").join("breaking-base");
    base::unpack(&base, &folder)?;
    step::run(buf().arg("breaking").arg("--against").arg(&folder))
}

/// Licences, bans and sources. Advisories need a database from the network, so they are left to whoever has one:
/// `cargo deny check advisories`.
fn deny() -> anyhow::Result<()> {
    match step::answer(step::cargo().args(["deny", "--version"])) {
        None => bail!("cargo-deny is missing: cargo install --locked cargo-deny@{CARGO_DENY}"),
        Some(version) if !version.ends_with(CARGO_DENY) => {
            eprintln!("xtask: this is {version}; {CARGO_DENY} is what CI uses");
        }
        Some(_) => {}
    }
    step::run(step::cargo().args(["deny", "--locked", "check", "licenses", "bans", "sources"]))
}
