//! The chart lints, and renders to objects that Kubernetes knows.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use runmesh_deploy_tests::{NAMESPACE, Objects, VALUES, lint, render, render_as, repository};
use runmesh_node::{Cli, Role};

#[test]
fn the_chart_lints() -> anyhow::Result<()> {
    for values in VALUES {
        lint(values).context(values)?;
    }
    Ok(())
}

#[test]
fn every_object_is_what_its_type_says() -> anyhow::Result<()> {
    for values in VALUES {
        let objects = render(values, &[]).context(values)?;
        let names: BTreeSet<&String> = objects.names.iter().collect();
        ensure!(names.len() == objects.names.len(), "{values}: two objects of one kind have one name");
    }
    Ok(())
}

#[test]
fn everything_that_is_optional_is_tried() -> anyhow::Result<()> {
    let everything = render("ci/everything-values.yaml", &[])?;
    assert!(!everything.autoscalers.is_empty());
    assert!(!everything.ingresses.is_empty());
    assert!(!everything.monitors.is_empty());
    let least = render("ci/single-values.yaml", &[])?;
    let there =
        |objects: &Objects| objects.names.iter().map(|name| name.split(' ').next().map(str::to_owned)).collect();
    let kinds: BTreeSet<Option<String>> = there(&least);
    let expected = ["ConfigMap", "Deployment", "Service"].map(|kind| Some(kind.to_owned()));
    assert_eq!(kinds, BTreeSet::from(expected), "what is off is not rendered");
    Ok(())
}

#[test]
fn each_role_of_the_binary_has_one_deployment_and_nothing_else_has() -> anyhow::Result<()> {
    for values in VALUES {
        let objects = render(values, &[])?;
        let mut roles = objects.deployments.iter().map(Objects::role).collect::<anyhow::Result<Vec<_>>>()?;
        roles.sort();
        let mut expected = Role::ALL.map(|role| role.as_str().to_owned());
        expected.sort();
        assert_eq!(roles, expected, "{values}");
    }
    Ok(())
}

#[test]
fn the_command_line_takes_what_containers_are_started_with() -> anyhow::Result<()> {
    for deployment in render(VALUES[0], &[])?.deployments {
        let spec = deployment.spec.and_then(|spec| spec.template.spec).context("no pods")?;
        for container in spec.containers {
            ensure!(container.command.is_none(), "the image's entry point reaps orphans; it has to stay");
            Cli::try_parse_from([vec!["runmesh".to_owned()], container.args.unwrap_or_default()].concat())?;
        }
    }
    Ok(())
}

#[test]
fn names_fit_whatever_the_release_is_called() -> anyhow::Result<()> {
    // The longest that helm takes.
    let release = "a".repeat(53);
    for values in VALUES {
        for name in render_as(&release, values, &[])?.names {
            let name = name.split_once(' ').map(|(_, name)| name).context("an object without a name")?;
            // Pods add 17 characters: `-` and the hashes of ReplicaSet and pod.
            ensure!(name.len() <= 63 - 9, "{name} has {} characters", name.len());
        }
    }
    Ok(())
}

#[test]
fn the_chart_is_of_the_version_of_the_binary() -> anyhow::Result<()> {
    let chart = std::fs::read_to_string(repository().join("deploy/helm/runmesh/Chart.yaml"))?;
    let chart: serde_json::Value = serde_saphyr::from_str(&chart)?;
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    Ok(())
}

#[test]
fn the_certificate_is_asked_for_by_the_names_of_the_services() -> anyhow::Result<()> {
    // values.yaml, docs/deploy.md and the chart's README tell operators this form.
    let objects = render("ci/tls-values.yaml", &[])?;
    let config =
        objects.config_maps[0].data.as_ref().and_then(|data| data.get("runmesh.toml")).context("no settings")?;
    let config: toml::Table = config.parse()?;
    let services = config["services"].as_table().context("no services")?;
    for (role, address) in services {
        let role = role.replace('_', "-");
        assert_eq!(address.as_str(), Some(format!("dns://rel-runmesh-{role}.{NAMESPACE}.svc:7300").as_str()));
    }
    Ok(())
}
