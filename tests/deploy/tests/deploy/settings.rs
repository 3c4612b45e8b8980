//! The binary takes the settings that the chart renders.

use std::{collections::HashMap, io::Write as _};

use anyhow::{Context as _, ensure};
use runmesh_deploy_tests::{Objects, VALUES, render};
use runmesh_node::{Config, ConfigError, Environment, Role};

/// The settings of a role's container: its file and its environment.
pub(crate) fn load(file: &str, variables: HashMap<String, String>) -> anyhow::Result<Config> {
    let mut settings = tempfile::NamedTempFile::new()?;
    settings.write_all(file.as_bytes())?;
    let environment = Environment { settings: variables, ..Environment::default() };
    let config: Result<Config, ConfigError> = Config::load(Some(settings.path()), &environment, &[], &[]);
    let config = config?;
    config.check_exposure()?;
    Ok(config)
}

/// The settings of a role's pods. What another's Secret would hold is made up.
fn of_role(objects: &Objects, role: &str) -> anyhow::Result<Config> {
    let pod =
        objects.deployment(role)?.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).context("no pods")?;
    let mut secrets = HashMap::from([
        ("RUNMESH_AUTH__TOKEN".to_owned(), "0123456789abcdef".to_owned()),
        ("RUNMESH_STORE__URI".to_owned(), "mongodb://mongodb:27017/runmesh".to_owned()),
    ]);
    for secret in &objects.secrets {
        secrets.extend(secret.string_data.clone().unwrap_or_default());
    }
    let container = &pod.containers[0];
    // A file of the ConfigMap is where the binary looks for it.
    let mounts = container.volume_mounts.iter().flatten();
    let mount =
        mounts.filter(|mount| mount.mount_path == "/etc/runmesh/runmesh.toml").find_map(|mount| mount.sub_path.clone());
    let file = objects.config_maps[0].data.as_ref().and_then(|data| data.get(&mount?)).context("no file")?;
    let mut variables = if container.env_from.is_some() { secrets.clone() } else { HashMap::new() };
    for variable in container.env.iter().flatten() {
        let from = variable.value_from.clone().unwrap_or_default();
        let value = match (&variable.value, from.field_ref, from.secret_key_ref) {
            (Some(value), None, None) => value.clone(),
            (None, Some(field), None) if field.field_path == "metadata.name" => format!("{role}-7c9f8-x2x4x"),
            (None, None, Some(secret)) => secrets.get(&secret.key).context("no such secret")?.clone(),
            other => anyhow::bail!("{}: {other:?}", variable.name),
        };
        // The binary's own; it is no setting.
        if variable.name.starts_with("RUNMESH_") && variable.name != "RUNMESH_CONFIG" {
            variables.insert(variable.name.clone(), value);
        }
    }
    load(file, variables)
}

#[test]
fn each_roles_settings_are_settings_of_the_binary() -> anyhow::Result<()> {
    for values in VALUES {
        let objects = render(values, &[])?;
        for role in Role::ALL.map(Role::as_str) {
            let config = of_role(&objects, role).with_context(|| format!("{values}: {role}"))?;
            assert_eq!(config.node, format!("{role}-7c9f8-x2x4x"), "a node has the name of its pod");
            assert_eq!(config.grpc.listen.port(), 7300);
            assert_eq!(config.http.listen.port(), 7380);
            assert_eq!(config.health.listen.map(|address| address.port()), Some(7390), "what probes ask");
            let outside = config.bus.uri.starts_with("kafka://") && config.store.uri.starts_with("mongodb://");
            assert_eq!(outside, role != "gateway", "{role}: {:?}", config.bus);
        }
    }
    Ok(())
}

#[test]
fn values_become_the_settings_that_they_say() -> anyhow::Result<()> {
    let objects = render("ci/everything-values.yaml", &[])?;
    let file = objects.config_maps[0].data.as_ref().and_then(|data| data.get("runmesh.toml")).context("no file")?;
    let file: toml::Table = file.parse()?;
    assert_eq!(file["scheduler"]["slots"].as_integer(), Some(64), "helm's numbers are floating point: {file}");
    let config = of_role(&objects, "runner")?;
    assert_eq!(config.scheduler.slots, 64);
    assert_eq!(config.execution.maximum_limits.output_bytes, 134_217_728);
    assert_eq!(config.execution.maximum_limits.wall_time, std::time::Duration::from_secs(1200));
    assert_eq!(config.bus.replication_factor, Some(3));
    assert_eq!(config.bus.sasl.username.as_deref(), Some("runmesh"));
    assert_eq!(config.bus.sasl.password.as_deref(), Some("hush"), "out of the Secret");
    assert_eq!(config.bus.properties["socket.keepalive.enable"], "true");
    assert_eq!(config.runner.cancel_grace, std::time::Duration::from_secs(5), "out of extraEnv");
    assert_eq!(config.gateway.cors_origins, ["https://app.example"]);
    assert_eq!(config.shutdown.drain, std::time::Duration::from_secs(60));
    let execution = of_role(&objects, "execution")?;
    assert_eq!(execution.runner.cancel_grace, std::time::Duration::from_secs(2), "of another role");
    Ok(())
}

#[test]
fn the_settings_file_holds_no_secret() -> anyhow::Result<()> {
    let objects = render("ci/everything-values.yaml", &[])?;
    let text = serde_json::to_string(&objects.config_maps)? + &serde_json::to_string(&objects.deployments)?;
    ensure!(!text.contains("hush"), "a secret is outside the Secret");
    assert!(serde_json::to_string(&objects.secrets)?.contains("hush"));
    Ok(())
}

#[test]
fn a_setting_that_does_not_exist_is_found_by_the_binary() -> anyhow::Result<()> {
    let objects = render("ci/minimal-values.yaml", &["config.scheduler.slotz=3"])?;
    let error = of_role(&objects, "scheduler").unwrap_err();
    ensure!(format!("{error:#}").contains("slotz"), "{error:#}");
    Ok(())
}

#[test]
fn a_pod_has_longer_to_end_than_the_binary_needs() -> anyhow::Result<()> {
    for values in VALUES {
        let objects = render(values, &[])?;
        for role in Role::ALL.map(Role::as_str) {
            let spec = objects.deployment(role)?.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
            let spec = spec.context("no pods")?;
            let lifecycle = spec.containers[0].lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
            let before = lifecycle.and_then(|hook| hook.sleep.as_ref()).context("no pause before the end")?.seconds;
            let grace = spec.termination_grace_period_seconds.context("no grace period")?;
            let drain = i64::try_from(of_role(&objects, role)?.shutdown.drain.as_secs())?;
            // The drain time twice, and 12 seconds for what is cut and published after that: see Node::shutdown.
            ensure!(grace > before + 2 * drain + 12, "{values}: {role}: {grace} s");
        }
    }
    Ok(())
}

#[test]
fn pods_are_replaced_when_settings_or_secrets_change() -> anyhow::Result<()> {
    let sums = |settings: &[&str]| {
        let objects = render("ci/minimal-values.yaml", settings)?;
        let template = objects.deployment("saga")?.spec.as_ref().map(|spec| &spec.template);
        let annotations = template.and_then(|template| template.metadata.as_ref()?.annotations.clone());
        annotations.context("no annotations")
    };
    let (before, again) = (sums(&[])?, sums(&[])?);
    assert_eq!(before, again);
    assert_ne!(before["checksum/config"], sums(&["config.scheduler.slots=17"])?["checksum/config"]);
    assert_ne!(before["checksum/secret"], sums(&["auth.token=another-token-of-many"])?["checksum/secret"]);
    Ok(())
}
