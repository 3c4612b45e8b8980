//! The values of the chart: strict, complete, explained.

use std::fs;

use anyhow::{Context as _, ensure};
use runmesh_deploy_tests::{CHART, render, repository};
use runmesh_node::Role;
use serde_json::Value;

fn chart_file(name: &str) -> anyhow::Result<String> {
    fs::read_to_string(repository().join(CHART).join(name)).with_context(|| name.to_owned())
}

fn refused(settings: &[&str]) -> anyhow::Result<String> {
    match render("ci/minimal-values.yaml", settings) {
        Ok(_) => anyhow::bail!("{settings:?} are taken"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

#[test]
fn values_that_there_are_not_are_refused_by_name() -> anyhow::Result<()> {
    for (value, name) in [
        ("replica=3", "replica"),
        ("roles.runner.replica=3", "replica"),
        ("roleDefaults.autoscaling.max=3", "max"),
        ("roles.runners.replicas=3", "runners"),
        ("networkPolicy.kafka.port=9092", "port"),
        ("gateway.ingress.host=mesh.example", "host"),
        ("secretSettings.TOKEN=hush", "TOKEN"),
    ] {
        let message = refused(&[value])?;
        ensure!(message.contains("schema") && message.contains(name), "{value}: {message}");
    }
    Ok(())
}

#[test]
fn values_of_a_wrong_kind_are_refused() -> anyhow::Result<()> {
    for value in [
        "roles.runner.replicas=many",
        "roles.runner.replicas=-1",
        "store.uri=sqlite:file",
        "bus.uri=embedded",
        "auth.token=short",
        "image.digest=latest",
        "gateway.service.type=ExternalName",
        "gateway.service.port=0",
        "roleDefaults.dataSize=ten",
        "serviceMonitor.interval=often",
    ] {
        let message = refused(&[value])?;
        ensure!(message.contains("schema"), "{value}: {message}");
    }
    Ok(())
}

#[test]
fn what_has_to_be_said_is_asked_for() -> anyhow::Result<()> {
    for (value, name) in [
        ("auth.token=", "auth.token is required"),
        ("store.uri=", "store.uri is required"),
        ("bus.uri=", "bus.uri is required"),
        ("tls.enabled=true", "tls.existingSecret is required"),
        ("gateway.ingress.enabled=true", "gateway.ingress.hosts is required"),
    ] {
        let message = refused(&[value])?;
        ensure!(message.contains(name), "{value}: {message}");
    }
    Ok(())
}

#[test]
fn settings_that_the_chart_makes_are_refused_with_the_right_place() -> anyhow::Result<()> {
    for (value, place) in [
        ("config.store.uri=mongodb://x", "store.uri"),
        ("config.bus.uri=kafka://x", "bus.uri"),
        ("config.auth.token=0123456789abcdef", "auth.token"),
        ("config.grpc.listen=:1", "listenAddress"),
        ("config.health.listen=:1", "listenAddress"),
        ("config.shutdown.drain=1s", "shutdown.drainSeconds"),
        ("config.tls.ca=x", "tls.existingSecret"),
        ("config.node=x", "pod's name"),
    ] {
        let message = refused(&[value])?;
        ensure!(message.contains("is set by the chart") && message.contains(place), "{value}: {message}");
    }
    // What stands beside them is the operator's.
    let beside = ["config.store.pool_size=3", "config.bus.properties.foo=x", "config.runner.cancel_grace=3s"];
    render("ci/minimal-values.yaml", &beside)?;
    Ok(())
}

#[test]
fn the_schema_and_the_values_have_the_same_roles_as_the_binary() -> anyhow::Result<()> {
    let mut expected: Vec<&str> = Role::ALL.map(Role::as_str).into();
    expected.sort_unstable();
    let schema: Value = serde_json::from_str(&chart_file("values.schema.json")?)?;
    let values: Value = serde_saphyr::from_str(&chart_file("values.yaml")?)?;
    for roles in [&schema["properties"]["roles"]["properties"], &values["roles"]] {
        let mut names: Vec<&str> = roles.as_object().context("no roles")?.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, expected);
    }
    Ok(())
}

/// The paths of a schema's properties, as far as the schema says what is in them.
fn properties(schema: &Value, definitions: &Value, path: &str, found: &mut Vec<String>) {
    let schema = match schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/definitions/")) {
        Some(name) => &definitions[name],
        None => schema,
    };
    let Some(inner) = schema["properties"].as_object() else { return };
    for (name, value) in inner {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        properties(value, definitions, &path, found);
        found.push(path);
    }
}

#[test]
fn every_value_of_the_schema_has_its_default_and_its_explanation() -> anyhow::Result<()> {
    let schema: Value = serde_json::from_str(&chart_file("values.schema.json")?)?;
    let values: Value = serde_saphyr::from_str(&chart_file("values.yaml")?)?;
    let readme = chart_file("README.md")?;
    let mut paths = Vec::new();
    properties(&schema, &schema["definitions"], "", &mut paths);
    // Of charts that have this one in them; and what a role says for itself is in roleDefaults.
    paths.retain(|path| path != "global" && path.matches('.').count() < 2 || !path.starts_with("roles."));
    paths.retain(|path| path != "global");
    ensure!(paths.len() > 50, "the schema was not read: {paths:?}");
    let missing: Vec<_> =
        paths.iter().filter(|path| values.pointer(&format!("/{}", path.replace('.', "/"))).is_none()).collect();
    ensure!(missing.is_empty(), "not in values.yaml: {missing:?}");

    let has_parts = |path: &str| paths.iter().any(|other| other.starts_with(&format!("{path}.")));
    let leaves = paths.iter().filter(|path| !has_parts(path) && !path.starts_with("roles."));
    let unexplained: Vec<_> = leaves.filter(|path| !readme.contains(&format!("`{path}`"))).collect();
    ensure!(unexplained.is_empty(), "not in README.md of the chart: {unexplained:?}");
    Ok(())
}
