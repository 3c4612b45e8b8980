//! The chart, as helm sees it.

use std::{
    collections::HashMap,
    process::Command,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use crate::{Objects, run, tool};

/// The chart's folder.
pub const CHART: &str = "deploy/helm/runmesh";

/// The files of values that it is tried with, below [`CHART`].
pub const VALUES: [&str; 4] =
    ["ci/minimal-values.yaml", "ci/everything-values.yaml", "ci/tls-values.yaml", "ci/single-values.yaml"];

/// The release's name.
pub const RELEASE: &str = "rel";

/// The release's namespace.
pub const NAMESPACE: &str = "mesh";

/// The version of Kubernetes that helm renders for, that of the types here.
const KUBERNETES: &str = "1.34.0";

/// What helm rendered, by its arguments: tests look at the same objects again and again.
fn rendered() -> MutexGuard<'static, HashMap<Vec<String>, String>> {
    static RENDERED: LazyLock<Mutex<HashMap<Vec<String>, String>>> = LazyLock::new(Mutex::default);
    RENDERED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `helm lint --strict`.
///
/// # Errors
/// With what it finds.
pub fn lint(values: &str) -> anyhow::Result<()> {
    run(Command::new(tool("bin/helm")?).args(["lint", "--strict", CHART, "--values", &format!("{CHART}/{values}")]))?;
    Ok(())
}

/// `helm template` with a file of values and single ones (`roles.runner.replicas=3`), as types.
///
/// # Errors
/// With what helm says, or what is wrong with an object.
pub fn render(values: &str, settings: &[&str]) -> anyhow::Result<Objects> {
    render_as(RELEASE, values, settings)
}

/// [`render`], under another name of the release.
///
/// # Errors
/// As [`render`].
pub fn render_as(release: &str, values: &str, settings: &[&str]) -> anyhow::Result<Objects> {
    let values = format!("{CHART}/{values}");
    let mut arguments = vec!["template", release, CHART, "--namespace", NAMESPACE];
    arguments.extend(["--kube-version", KUBERNETES, "--values", &values]);
    arguments.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    let known = rendered().get(&arguments).cloned();
    let text = match known {
        Some(text) => text,
        None => run(Command::new(tool("bin/helm")?).args(&arguments))?,
    };
    let objects = Objects::parse(&text)?;
    rendered().insert(arguments, text);
    Ok(objects)
}
