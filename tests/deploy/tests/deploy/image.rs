//! The image: what BuildKit and hadolint make of the Dockerfile, and what the builder is sent.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context as _, ensure};
use runmesh_deploy_tests::{deploy_check, repository, run, tool};
use serde_json::{Value, json};

const DOCKERFILE: &str = "deploy/Dockerfile";

fn image() -> anyhow::Result<Value> {
    deploy_check(&["dockerfile", DOCKERFILE])
}

/// The packages that the Dockerfile installs.
fn packages() -> anyhow::Result<BTreeSet<String>> {
    let text = fs::read_to_string(repository().join(DOCKERFILE))?;
    let (_, list) = text.split_once("--no-install-recommends \\\n").context("no list of packages")?;
    let (list, _) = list.split_once("\n\n").context("the list has no end")?;
    Ok(list.lines().map(|line| line.trim().trim_end_matches(" \\").to_owned()).collect())
}

#[test]
fn the_builder_has_nothing_to_complain_about() -> anyhow::Result<()> {
    let image = image()?;
    assert_eq!(image["warnings"], Value::Null);
    run(Command::new(tool("python/bin/hadolint")?).arg(DOCKERFILE))?;
    Ok(())
}

#[test]
fn the_checks_do_find_what_is_wrong() -> anyhow::Result<()> {
    let text = fs::read_to_string(repository().join(DOCKERFILE))?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("Dockerfile");
    let name = path.to_str().context("a path that is no text")?;
    for (right, wrong) in [("FROM ${RUNTIME_IMAGE}", "from ${RUNTIME_IMAGE}"), ("COPY . .", "COPY ."), ("USER", "USR")]
    {
        ensure!(text.contains(right), "{right} is not there");
        fs::write(&path, text.replacen(right, wrong, 1))?;
        ensure!(deploy_check(&["dockerfile", name]).is_err(), "{wrong} is taken");
    }
    Ok(())
}

#[test]
fn the_image_is_not_roots_and_health_is_left_to_who_runs_it() -> anyhow::Result<()> {
    let image = image()?;
    let config = &image["image"];
    let user = config["User"].as_str().and_then(|user| user.split_once(':')).context("no user and group")?;
    for id in [user.0, user.1] {
        ensure!(id.parse::<u32>()? >= 1000, "Kubernetes takes only numbers for runAsNonRoot: {id}");
    }
    assert_eq!(config["Entrypoint"], json!(["/usr/bin/tini", "--", "/usr/local/bin/runmesh"]));
    assert_eq!(config["Cmd"], json!(["serve"]));
    assert_eq!(image["healthcheck"], Value::Null);
    Ok(())
}

#[test]
fn the_image_tells_what_it_is() -> anyhow::Result<()> {
    let labels = &image()?["image"]["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    for label in ["title", "description", "licenses", "revision"] {
        ensure!(labels[format!("org.opencontainers.image.{label}")].is_string(), "{label} is missing");
    }
    Ok(())
}

#[test]
fn base_images_have_versions_and_rust_is_the_workspaces() -> anyhow::Result<()> {
    let image = image()?;
    let bases: Vec<&str> = image["bases"].as_array().context("no bases")?.iter().filter_map(Value::as_str).collect();
    for base in &bases {
        ensure!(base.rsplit_once(':').is_some_and(|(_, tag)| tag != "latest"), "{base} has no version");
    }
    let rust = format!("docker.io/library/rust:{}-", env!("CARGO_PKG_RUST_VERSION"));
    ensure!(bases.iter().any(|base| base.starts_with(&rust)), "{bases:?} have no {rust}");
    Ok(())
}

#[test]
fn the_image_has_the_interpreters_of_the_registry() -> anyhow::Result<()> {
    let registry = fs::read_to_string(repository().join("services/runner/runtimes.toml"))?;
    let registry: toml::Table = registry.parse()?;
    let languages = registry["language"].as_array().context("no languages")?;
    // Compilers are larger than all the rest; who wants them adds them (docs/languages.md).
    let interpreted = languages.iter().filter(|language| language.get("compile").is_none());
    let wanted: BTreeSet<String> =
        interpreted.filter_map(|language| language["package"].as_str().map(str::to_owned)).collect();
    ensure!(wanted.contains("python3"), "the registry was not read: {wanted:?}");
    let mut there = packages()?;
    // In the base image.
    there.insert("bash".to_owned());
    let missing: Vec<_> = wanted.difference(&there).collect();
    ensure!(missing.is_empty(), "not installed: {missing:?}");
    Ok(())
}

#[test]
fn what_the_binary_is_linked_with_is_in_the_image() -> anyhow::Result<()> {
    let test = std::env::current_exe()?;
    let binary = test.ancestors().nth(2).context("the test is not in a target folder")?.join("runmesh");
    ensure!(binary.exists(), "{} is missing: run `cargo xtask test`", binary.display());
    let headers = run(Command::new("readelf").arg("--dynamic").arg(binary))?;
    let needed: Vec<&str> = headers
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.strip_suffix(']'))
        .collect();
    ensure!(!needed.is_empty(), "readelf was not understood: {headers}");
    let there = packages()?;
    for library in needed {
        let package = match library {
            // In the base image.
            "libc.so.6" | "libm.so.6" | "libgcc_s.so.1" | "ld-linux-x86-64.so.2" | "ld-linux-aarch64.so.1" => continue,
            "libssl.so.3" | "libcrypto.so.3" => "libssl3t64",
            "libz.so.1" => "zlib1g",
            other => anyhow::bail!("which package of the image has {other}?"),
        };
        ensure!(there.contains(package), "{library} needs {package}");
    }
    Ok(())
}

/// The files that the builder is sent.
fn context() -> anyhow::Result<BTreeSet<String>> {
    let files: BTreeSet<String> = serde_json::from_value(deploy_check(&["context", ".", DOCKERFILE])?)?;
    Ok(files)
}

#[test]
fn the_builder_is_sent_the_workspace_and_nothing_else() -> anyhow::Result<()> {
    let sent = context()?;
    let tracked = run(Command::new("git").args(["ls-files", "--cached"]))?;
    let part = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    let wanted = ["Cargo.toml", "Cargo.lock", ".cargo", "proto", "services", "gateway", "tests", "examples"];
    let missing: Vec<&str> = tracked
        .lines()
        .filter(|path| wanted.contains(&part(path).as_str()))
        .filter(|path| repository().join(path).exists() && !sent.contains(*path))
        .collect();
    ensure!(missing.is_empty(), "not sent: {missing:?}");
    let others: BTreeSet<String> =
        sent.iter().map(|path| part(path)).filter(|part| !wanted.contains(&part.as_str())).collect();
    ensure!(others.is_empty(), "sent without need: {others:?}");
    Ok(())
}

#[test]
fn what_the_builder_is_sent_is_a_workspace_for_cargo() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for path in context()? {
        let target = folder.path().join(&path);
        fs::create_dir_all(target.parent().context("a file without a folder")?)?;
        fs::copy(repository().join(&path), target)?;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = folder.path().join("Cargo.toml");
    let described = run(Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--package", "runmesh-node", "--depth", "0", "--manifest-path"])
        .arg(manifest))?;
    ensure!(described.starts_with("runmesh-node "), "the binary's crate is not there: {described}");
    Ok(())
}
