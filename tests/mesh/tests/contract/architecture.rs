//! Dependencies point one way: proto <- platform <- services, gateway <- node <- tests. Everybody's tests may use the test
//! servers, which stand on nothing.

use std::collections::HashMap;

use anyhow::{Context as _, bail, ensure};
use cargo_metadata::{DependencyKind, MetadataCommand};
use runmesh_mesh_tests::repository;

/// The layers, from the bottom up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    /// The test servers: for tests alone.
    Servers,
    Proto,
    Platform,
    /// The services and the gateway: nobody else's business.
    Service,
    Node,
    Tests,
}

/// Where a crate belongs, by its folder.
fn layer(folder: &str) -> anyhow::Result<Layer> {
    Ok(match folder.split('/').collect::<Vec<_>>().as_slice() {
        ["proto"] => Layer::Proto,
        ["services", "platform", _] => Layer::Platform,
        ["services", "node"] => Layer::Node,
        ["services", name] if *name != "platform" => Layer::Service,
        ["gateway"] => Layer::Service,
        ["tests", "servers"] => Layer::Servers,
        ["tests", _] => Layer::Tests,
        _ => bail!("{folder} is no place for a crate"),
    })
}

fn allowed(from: Layer, to: Layer, kind: DependencyKind) -> bool {
    if to == Layer::Servers {
        return from == Layer::Tests || kind == DependencyKind::Development;
    }
    // The platform's crates stand on each other; cargo itself refuses cycles.
    to < from || (from == Layer::Platform && to == Layer::Platform)
}

#[test]
fn no_crate_depends_on_one_beside_or_above_it() -> anyhow::Result<()> {
    let metadata = MetadataCommand::new().current_dir(repository()).no_deps().exec()?;
    let mut folders = HashMap::new();
    for package in metadata.workspace_packages() {
        let folder = package.manifest_path.parent().context("a manifest without a folder")?;
        let folder = folder.strip_prefix(&metadata.workspace_root).context("a crate outside the repository")?;
        folders.insert(package.name.to_string(), folder.to_string());
    }
    ensure!(folders.contains_key("runmesh-node"), "the crates were not read: {folders:?}");

    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let from = &folders[package.name.as_str()];
        // Development and build dependencies too.
        for dependency in &package.dependencies {
            let Some(to) = folders.get(&dependency.name) else { continue };
            // A crate's own tests want a feature of it.
            if from == to && dependency.kind == DependencyKind::Development {
                continue;
            }
            if !allowed(layer(from)?, layer(to)?, dependency.kind) {
                wrong.push(format!("{from} -> {to} ({})", dependency.kind));
            }
        }
    }
    ensure!(wrong.is_empty(), "arrows that docs/architecture.md forbids:\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn the_rule_about_arrows_refuses_what_it_should() -> anyhow::Result<()> {
    let arrow = |from, to| anyhow::Ok(allowed(layer(from)?, layer(to)?, DependencyKind::Normal));
    let test_arrow = |from, to| anyhow::Ok(allowed(layer(from)?, layer(to)?, DependencyKind::Development));
    assert!(arrow("services/platform/store", "services/platform/events")?);
    assert!(arrow("services/saga", "services/platform/bus")?);
    assert!(arrow("services/node", "gateway")?);
    assert!(!arrow("services/saga", "services/scheduler")?);
    assert!(!arrow("gateway", "services/execution")?);
    assert!(!arrow("services/execution", "gateway")?);
    assert!(!arrow("services/platform/rpc", "services/execution")?);
    assert!(!arrow("proto", "services/platform/events")?);
    assert!(!arrow("services/node", "tests/mesh")?);
    assert!(test_arrow("services/platform/store", "tests/servers")?);
    assert!(arrow("tests/xtask", "tests/servers")?);
    assert!(!arrow("services/platform/store", "tests/servers")?);
    assert!(!test_arrow("tests/servers", "services/platform/store")?);
    assert!(!test_arrow("services/platform/store", "tests/mesh")?);
    assert!(layer("services/platform").is_err());
    assert!(layer("helpers/strings").is_err());
    Ok(())
}
