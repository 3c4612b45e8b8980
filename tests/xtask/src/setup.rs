//! `cargo xtask setup`: what the tests need beyond cargo.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use crate::step;

/// Where the tools are. The mesh tests look here.
pub(crate) const TOOLS: &str = "target/tools";

const REQUIREMENTS: &str = include_str!("../tools/requirements.txt");
const GRPCURL: &str = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4";
const HELM: &str = "helm.sh/helm/v3/cmd/helm@v3.22.0";
const PLAYWRIGHT: &str = "playwright-core@1.65.1";

/// What is there after a set-up, below [`TOOLS`].
const INSTALLED: [&str; 7] = [
    "python/bin/python",
    "python/bin/buf",
    "python/bin/hadolint",
    "bin/grpcurl",
    "bin/helm",
    "bin/deploy-check",
    "node/node_modules/playwright-core",
];

/// The program that reads the files of `deploy/` for the tests, written in Go as the programs are that will use them.
const DEPLOY_CHECK: &str = "tests/deploy/check";

/// A program that has to be on the machine, what it is for, and how it gets there.
const PREREQUISITES: [(&str, &str, &str); 8] = [
    ("cc", "the Rust build", "apt-get install -y build-essential pkg-config libssl-dev zlib1g-dev"),
    ("python3", "the Python client test and buf", "apt-get install -y python3 python3-venv"),
    ("go", "grpcurl, helm and the checks of deploy/", "install Go 1.26 or newer"),
    ("node", "the browser test", "install Node.js 20 or newer"),
    ("npm", "the browser test", "install npm, which comes with Node.js"),
    ("chromium", "the browser test", "apt-get install -y chromium fonts-liberation"),
    ("jq", "the test that reads exported events", "apt-get install -y jq"),
    ("kcat", "the test that reads topics as others would", "apt-get install -y kcat"),
];

/// Checks the prerequisites and installs the tools that are missing or of another version.
///
/// # Errors
/// When a prerequisite is missing, with its name and how to install it, or an installation fails.
pub(crate) fn run() -> anyhow::Result<()> {
    check_prerequisites()?;
    let tools = Path::new(TOOLS);
    let stamp = tools.join("stamp");
    let here = env::current_dir()?;
    let wanted = [REQUIREMENTS, GRPCURL, HELM, PLAYWRIGHT, &sources(DEPLOY_CHECK)?, &here.to_string_lossy()].join("\n");
    let complete = INSTALLED.iter().all(|path| tools.join(path).exists());
    if complete && fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    fs::create_dir_all(tools).with_context(|| format!("can't make {TOOLS}"))?;
    if stamp.exists() {
        fs::remove_file(&stamp).with_context(|| format!("can't remove {}", stamp.display()))?;
    }
    python(tools)?;
    go(tools)?;
    node(tools)?;
    if let Some(missing) = INSTALLED.iter().find(|path| !tools.join(path).exists()) {
        bail!("{} is missing after its installation", tools.join(missing).display());
    }
    fs::write(&stamp, wanted).with_context(|| format!("can't write {}", stamp.display()))
}

/// The path of an installed tool, such as `python/bin/buf`.
pub(crate) fn tool(path: &str) -> PathBuf {
    Path::new(TOOLS).join(path)
}

fn check_prerequisites() -> anyhow::Result<()> {
    let missing: Vec<String> = PREREQUISITES
        .iter()
        .filter(|(program, ..)| find(program).is_none())
        .map(|(program, purpose, install)| format!("  {program}, for {purpose}: {install}"))
        .collect();
    if !missing.is_empty() {
        bail!("not on this machine:\n{}\n`.ci/run` installs what Debian has", missing.join("\n"));
    }
    Ok(())
}

/// The first executable of this name in PATH.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

fn python(tools: &Path) -> anyhow::Result<()> {
    let environment = tools.join("python");
    let has_venv = Command::new("python3")
        .args(["-c", "import venv, ensurepip"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_venv {
        bail!("python3 can't make virtual environments: apt-get install -y python3-venv");
    }
    step::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    step::run(
        Command::new(environment.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--requirement"])
            .arg("tests/xtask/tools/requirements.txt"),
    )
}

fn go(tools: &Path) -> anyhow::Result<()> {
    let bin = env::current_dir()?.join(tools).join("bin");
    for program in [GRPCURL, HELM] {
        step::run(Command::new("go").args(["install", program]).env("GOBIN", &bin).env("GOTOOLCHAIN", "local"))?;
    }
    let program = bin.join("deploy-check");
    step::run(
        Command::new("go")
            .args(["build", "-buildvcs=false", "-trimpath", "-o"])
            .arg(program)
            .arg(".")
            .current_dir(DEPLOY_CHECK)
            .env("GOTOOLCHAIN", "local"),
    )
}

/// The text of a folder's files, by name, so that a change of one is seen.
fn sources(folder: &str) -> anyhow::Result<String> {
    let files = fs::read_dir(folder).with_context(|| format!("can't read {folder}"))?;
    let mut paths = files.map(|file| Ok(file?.path())).collect::<anyhow::Result<Vec<PathBuf>>>()?;
    paths.sort();
    let read = |path: &PathBuf| fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()));
    Ok(paths.iter().map(read).collect::<anyhow::Result<Vec<String>>>()?.join("\n"))
}

fn node(tools: &Path) -> anyhow::Result<()> {
    let folder = tools.join("node");
    fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    step::run(
        Command::new("npm")
            .args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"])
            .arg("--prefix")
            .arg(&folder)
            .arg(PLAYWRIGHT),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_has_one_version() {
        for line in REQUIREMENTS.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                line.split_once("==").is_some_and(|(name, version)| !name.is_empty() && !version.is_empty()),
                "{line}"
            );
        }
        for tool in [GRPCURL, HELM, PLAYWRIGHT] {
            let version = tool.rsplit_once('@').map(|(_, version)| version.trim_start_matches('v'));
            assert!(version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit())), "{tool}");
        }
    }

    #[test]
    fn a_program_is_found_in_path_or_not_at_all() {
        assert!(find("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find("there-is-no-such-program"), None);
    }
}
