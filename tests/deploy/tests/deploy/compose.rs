//! The Compose file, as `docker compose config` has it.

use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt as _, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use runmesh_deploy_tests::{Compose, Service, repository, run};
use runmesh_node::{Cli, Config, Role};

use crate::settings::load;

/// The project with the example's variables and made-up secrets.
fn project() -> anyhow::Result<Compose> {
    let example = fs::read_to_string(repository().join("deploy/.env.example"))?;
    let filled = example
        .replace("RUNMESH_TOKEN=\n", "RUNMESH_TOKEN=0123456789abcdef\n")
        .replace("MONGODB_PASSWORD=\n", "MONGODB_PASSWORD=hush\n");
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), filled)?;
    Compose::read(file.path())
}

/// The services that are nodes, with the role of each.
fn nodes(project: &Compose) -> anyhow::Result<Vec<(&String, &Service, String)>> {
    let nodes = project.services.iter().filter(|(_, service)| service.image.starts_with("runmesh"));
    nodes.map(|(name, service)| Ok((name, service, role(service).with_context(|| name.clone())?))).collect()
}

/// The role that a service is started with: the entry point is run, with a program in the place of `runmesh` that says
/// what it was started with.
fn role(service: &Service) -> anyhow::Result<String> {
    let entry = service.entrypoint.as_deref().context("no entry point")?;
    let [init, dashes, command @ ..] = entry else { anyhow::bail!("{entry:?}") };
    ensure!(init == "/usr/bin/tini" && dashes == "--", "nothing reaps the orphans of scripts: {entry:?}");
    let [shell, arguments @ ..] = command else { anyhow::bail!("{entry:?}") };
    let folder = tempfile::tempdir()?;
    let stand_in = folder.path().join("runmesh");
    fs::write(&stand_in, "#!/bin/sh\nfor argument; do echo \"$argument\"; done\n")?;
    fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o755))?;
    let started = run(Command::new(shell)
        .args(arguments)
        .args(service.command.iter().flatten())
        .env_clear()
        .env("PATH", folder.path())
        .env("HOSTNAME", "3f4b"))?;
    let started: Vec<&str> = started.lines().collect();
    Cli::try_parse_from([&["runmesh"], started.as_slice()].concat())?;
    match started.as_slice() {
        ["serve", "--set", "node=3f4b", "--roles", role] => Ok((*role).to_owned()),
        other => anyhow::bail!("started with {other:?}"),
    }
}

fn settings(project: &Compose, service: &Service) -> anyhow::Result<Config> {
    let file = fs::read_to_string(&project.configs["runmesh"].file)?;
    let variables: HashMap<String, String> = service
        .environment
        .iter()
        .filter(|(name, _)| name.starts_with("RUNMESH_") && *name != "RUNMESH_CONFIG")
        .map(|(name, value)| (name.clone(), value.clone().unwrap_or_default()))
        .collect();
    load(&file, variables)
}

#[test]
fn each_role_of_the_binary_is_a_service_of_its_own_name() -> anyhow::Result<()> {
    let project = project()?;
    let mut roles = Vec::new();
    for (name, _, role) in nodes(&project)? {
        assert_eq!(*name, role);
        roles.push(role);
    }
    let mut expected = Role::ALL.map(|role| role.as_str().to_owned());
    expected.sort();
    assert_eq!(roles, expected);
    Ok(())
}

#[test]
fn the_binary_takes_the_settings_and_they_lead_to_services() -> anyhow::Result<()> {
    let project = project()?;
    for (name, service, _) in nodes(&project)? {
        let config = settings(&project, service).with_context(|| name.clone())?;
        assert_eq!(config.auth.token.as_deref(), Some("0123456789abcdef"));
        if name == "gateway" {
            ensure!(config.store.uri.is_empty(), "the gateway needs no password of MongoDB");
            continue;
        }
        assert_eq!(config.store.uri, "mongodb://runmesh:hush@mongodb:27017/runmesh?authSource=admin");
        assert_eq!(config.bus.uri, "kafka://kafka:9092");
        for name in ["mongodb", "kafka"] {
            assert_eq!(service.depends_on[name].condition, "service_healthy");
        }
    }
    let advertised = project.services["kafka"].environment["KAFKA_ADVERTISED_LISTENERS"].as_deref();
    assert_eq!(advertised, Some("PLAINTEXT://kafka:9092"), "clients go where the broker says that it is");
    let mongodb = &project.services["mongodb"].environment;
    assert_eq!(mongodb["MONGO_INITDB_ROOT_USERNAME"].as_deref(), Some("runmesh"));
    assert_eq!(mongodb["MONGO_INITDB_ROOT_PASSWORD"].as_deref(), Some("hush"));

    let file: toml::Table = fs::read_to_string(&project.configs["runmesh"].file)?.parse()?;
    let addresses = file["services"].as_table().context("no addresses")?;
    let hosts: Vec<Role> = Role::ALL.into_iter().filter(|role| !role.services().is_empty()).collect();
    assert_eq!(addresses.len(), hosts.len());
    for role in hosts {
        let address = addresses.get(&role.setting()).and_then(|address| address.as_str());
        assert_eq!(address, Some(format!("dns://{role}:7300").as_str()));
    }
    Ok(())
}

#[test]
fn topics_are_made_by_runmesh_alone() -> anyhow::Result<()> {
    let project = project()?;
    let kafka = &project.services["kafka"].environment;
    assert_eq!(kafka["KAFKA_AUTO_CREATE_TOPICS_ENABLE"].as_deref(), Some("false"));
    Ok(())
}

#[test]
fn nodes_can_neither_write_to_their_root_nor_gain_rights() -> anyhow::Result<()> {
    let project = project()?;
    for (name, service, _) in nodes(&project)? {
        ensure!(service.read_only, "{name}: the root can be written to");
        assert_eq!(service.cap_drop, ["ALL"], "{name}");
        assert_eq!(service.security_opt, ["no-new-privileges:true"], "{name}");
        let folders: Vec<&str> = service.tmpfs.iter().filter_map(|folder| folder.split(':').next()).collect();
        assert_eq!(folders, ["/tmp", "/var/lib/runmesh"], "{name}");
    }
    Ok(())
}

#[test]
fn only_the_gateway_is_reached_and_only_from_this_machine() -> anyhow::Result<()> {
    let project = project()?;
    assert!(project.networks["mesh"].internal, "scripts have a way out");
    for (name, service) in &project.services {
        let networks: Vec<&str> = service.networks.keys().map(String::as_str).collect();
        if name == "gateway" {
            assert_eq!(networks, ["edge", "mesh"]);
            let ports: Vec<_> = service.ports.iter().map(|port| (port.host_ip.as_deref(), port.target)).collect();
            assert_eq!(ports, [(Some("127.0.0.1"), 7380)]);
        } else {
            assert_eq!(networks, ["mesh"], "{name}");
            assert!(service.ports.is_empty(), "{name}");
        }
    }
    Ok(())
}

#[test]
fn every_service_is_watched_and_started_again_and_has_time_to_end() -> anyhow::Result<()> {
    let project = project()?;
    for (name, service) in &project.services {
        let test = &service.healthcheck.as_ref().with_context(|| format!("{name} is not watched"))?.test;
        ensure!(test.first().is_some_and(|kind| kind == "CMD") && test.len() > 1, "{name}: {test:?}");
        assert_eq!(service.restart.as_deref(), Some("unless-stopped"), "{name}");
    }
    for (name, service, _) in nodes(&project)? {
        let grace = seconds(service.stop_grace_period.as_deref().context("no grace period")?)?;
        // As in the chart: twice the drain time, and what is cut and published after that.
        let needed = settings(&project, service)?.shutdown.drain * 2 + Duration::from_secs(12);
        ensure!(grace > needed, "{name}: {grace:?} for {needed:?}");
    }
    Ok(())
}

/// Compose writes `1m5s`.
fn seconds(text: &str) -> anyhow::Result<Duration> {
    let (minutes, rest) = text.split_once('m').unwrap_or(("0", text));
    let rest: u64 = rest.trim_end_matches('s').parse()?;
    Ok(Duration::from_secs(minutes.parse::<u64>()? * 60 + rest))
}

#[test]
fn data_is_in_named_volumes() -> anyhow::Result<()> {
    let project = project()?;
    for (service, folder) in [("kafka", "/var/lib/kafka/data"), ("mongodb", "/data/db")] {
        let mounts = &project.services[service].volumes;
        let mount = mounts.iter().find(|mount| mount.target == folder).with_context(|| format!("{folder} is lost"))?;
        ensure!(mount.kind == "volume" && project.volumes.contains_key(&mount.source), "{mount:?}");
    }
    let logs = project.services["kafka"].environment["KAFKA_LOG_DIRS"].as_deref();
    assert_eq!(logs, Some("/var/lib/kafka/data"));
    Ok(())
}

#[test]
fn secrets_have_no_default_and_are_not_committed() -> anyhow::Result<()> {
    let error = Compose::read(&repository().join("deploy/.env.example")).unwrap_err();
    let message = format!("{error:#}");
    for variable in ["RUNMESH_TOKEN", "MONGODB_PASSWORD"] {
        ensure!(message.contains(&format!("set {variable} in deploy/.env")), "{variable}: {message}");
    }
    run(Command::new("git").args(["check-ignore", "--quiet", "deploy/.env"])).context("git would take deploy/.env")?;
    Ok(())
}
