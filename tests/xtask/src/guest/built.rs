//! The tests and the helper of the sandbox, as cargo has built them.

use std::{fmt::Write as _, path::PathBuf, process::Stdio};

use anyhow::{Context as _, bail};

use crate::step;

/// The crate whose tests are run.
const MANIFEST: &str = "services/runner/Cargo.toml";
/// Its suites of tests that are run.
pub(super) const SUITES: [&str; 3] = ["hostile", "process", "user_namespace"];
/// The program that makes sandboxes for them.
const HELPER: &str = "sandbox-helper";

/// Names, and the programs that they stand for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Built(Vec<(String, PathBuf)>);

/// Builds them, in the same build as `cargo xtask test`: one of this crate alone would enable fewer features of its
/// dependencies and compile them twice.
pub(super) fn build() -> anyhow::Result<Built> {
    let mut command = step::cargo();
    command.args(["test", "--no-run", "--locked", "--workspace", "--bins", "--tests"]);
    command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let shown = step::show(&command);
    let output = command.output().with_context(|| format!("can't start `{shown}`"))?;
    if !output.status.success() {
        return Err(step::Failed::new(shown, output.status).into());
    }
    read(&String::from_utf8_lossy(&output.stdout))
}

/// The programs in cargo's messages.
fn read(messages: &str) -> anyhow::Result<Built> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: serde_json::Value = serde_json::from_str(line).context("cargo's messages can't be read")?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let (name, path) = (text(&message["target"]["name"]), text(&message["executable"]));
        let is_wanted = SUITES.contains(&&*name) || (name == HELPER && message["profile"]["test"] == false);
        if !path.is_empty() && is_wanted && text(&message["manifest_path"]).ends_with(MANIFEST) {
            found.push((name, PathBuf::from(path)));
        }
    }
    for wanted in SUITES.into_iter().chain([HELPER]) {
        if !found.iter().any(|(name, _)| name == wanted) {
            bail!("cargo has built no {wanted} of {MANIFEST}");
        }
    }
    found.sort();
    Ok(Built(found))
}

impl Built {
    /// A line for each: its name and its path.
    pub(super) fn lines(&self) -> String {
        self.0.iter().fold(String::new(), |mut lines, (name, path)| {
            let _ = writeln!(lines, "{name} {}", path.display());
            lines
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(manifest: &str, name: &str, test: bool) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","manifest_path":"/x/{manifest}","target":{{"name":"{name}"}},
            "profile":{{"test":{test}}},"executable":"/x/target/{name}-{test}"}}"#
        )
        .replace('\n', "")
    }

    #[test]
    fn the_programs_of_the_crate_are_found_and_no_others() {
        let mut lines: Vec<String> = SUITES.iter().map(|suite| message(MANIFEST, suite, true)).collect();
        lines.push(message("services/other/Cargo.toml", "process", true));
        lines.push(message(MANIFEST, HELPER, true));
        assert!(read(&lines.join("\n")).unwrap_err().to_string().contains(HELPER));
        lines.push(message(MANIFEST, HELPER, false));
        lines.push(r#"{"reason":"build-finished","success":true}"#.to_owned());
        let expected = "hostile /x/target/hostile-true\nprocess /x/target/process-true\n\
            sandbox-helper /x/target/sandbox-helper-false\nuser_namespace /x/target/user_namespace-true\n";
        assert_eq!(read(&lines.join("\n")).unwrap().lines(), expected);
    }
}
