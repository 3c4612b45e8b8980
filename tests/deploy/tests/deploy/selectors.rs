//! What refers to something else finds it.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Container, PodSpec, Probe},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use runmesh_deploy_tests::{NAMESPACE, Objects, VALUES, render, selects};
use runmesh_node::Role;

/// The Secrets and the ServiceAccount that the files of values speak of.
const OF_THE_OPERATOR: [&str; 6] =
    ["runmesh-settings", "runmesh-certificate", "mesh-certificate", "runner-certificate", "kafka-ca", "runmesh"];

/// Tries something with each file of values.
fn with_each(check: impl Fn(&Objects) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for values in VALUES {
        check(&render(values, &[])?).context(values)?;
    }
    Ok(())
}

fn pod(deployment: &Deployment) -> anyhow::Result<&PodSpec> {
    let spec = deployment.spec.as_ref().context("no spec")?;
    spec.template.spec.as_ref().context("no pods")
}

fn container(deployment: &Deployment) -> anyhow::Result<&Container> {
    pod(deployment)?.containers.first().context("no container")
}

fn labels(selector: Option<std::collections::BTreeMap<String, String>>) -> LabelSelector {
    LabelSelector { match_labels: selector, match_expressions: None }
}

/// Whether a container has a port, by number or name.
pub(crate) fn has_port(container: &Container, port: &IntOrString) -> bool {
    container.ports.iter().flatten().any(|own| match port {
        IntOrString::Int(number) => own.container_port == *number,
        IntOrString::String(name) => own.name.as_ref() == Some(name),
    })
}

#[test]
fn a_deployment_selects_its_own_pods_and_no_others() -> anyhow::Result<()> {
    with_each(|objects| {
        for deployment in &objects.deployments {
            let spec = deployment.spec.as_ref().context("no spec")?;
            let selected = objects.selected(&spec.selector);
            ensure!(selected == [deployment], "{:?} selects {}", deployment.metadata.name, selected.len());
        }
        Ok(())
    })
}

#[test]
fn a_service_leads_to_ports_of_pods() -> anyhow::Result<()> {
    with_each(|objects| {
        ensure!(!objects.services.is_empty(), "no Services");
        for service in &objects.services {
            let spec = service.spec.as_ref().context("no spec")?;
            let pods = objects.selected(&labels(spec.selector.clone()));
            ensure!(pods.len() == 1, "{:?} leads to {} Deployments", service.metadata.name, pods.len());
            for port in spec.ports.iter().flatten() {
                let target = port.target_port.as_ref().context("no target port")?;
                ensure!(has_port(container(pods[0])?, target), "{:?}: no port {target:?}", service.metadata.name);
            }
        }
        Ok(())
    })
}

#[test]
fn grpc_services_are_headless_and_settings_name_them() -> anyhow::Result<()> {
    with_each(|objects| {
        let settings = objects.config_maps[0].data.as_ref().and_then(|data| data.get("runmesh.toml"));
        let settings: toml::Table = settings.context("no settings")?.parse()?;
        let addresses = settings["services"].as_table().context("no addresses")?;
        let hosts = Role::ALL.into_iter().filter(|role| !role.services().is_empty());
        let expected: BTreeSet<String> = hosts.map(Role::setting).collect();
        ensure!(
            addresses.keys().cloned().collect::<BTreeSet<_>>() == expected,
            "the roles with services: {expected:?}"
        );
        let mut named = BTreeSet::new();
        for (role, address) in addresses {
            let address = address.as_str().and_then(|text| text.strip_prefix("dns://")).context("no dns://")?;
            let (host, port) = address.split_once(':').context("no port")?;
            let suffix = format!(".{NAMESPACE}.svc");
            let name = host.strip_suffix(&suffix).context("another namespace")?;
            let is_it = |service: &&_| name_of::<k8s_openapi::api::core::v1::Service>(service) == name;
            let service = objects.services.iter().find(is_it).with_context(|| format!("no Service {name}"))?;
            let spec = service.spec.as_ref().context("no spec")?;
            ensure!(spec.cluster_ip.as_deref() == Some("None"), "{name} is not headless");
            let ports: Vec<i32> = spec.ports.iter().flatten().map(|port| port.port).collect();
            ensure!(ports == [port.parse::<i32>()?], "{name} has the ports {ports:?}");
            let pods = objects.selected(&labels(spec.selector.clone()));
            ensure!(Objects::role(pods[0])? == role.replace('_', "-"), "{name} is not {role}");
            named.insert(name.to_owned());
        }
        let others: Vec<_> = objects.services.iter().map(name_of).filter(|name| !named.contains(*name)).collect();
        ensure!(others.len() == 1 && others[0].ends_with("-gateway"), "Services that nobody calls: {others:?}");
        Ok(())
    })
}

fn name_of<T: k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>>(
    object: &T,
) -> &str {
    object.metadata().name.as_deref().unwrap_or_default()
}

#[test]
fn probes_ask_a_port_that_the_container_has() -> anyhow::Result<()> {
    with_each(|objects| {
        for deployment in &objects.deployments {
            let container = container(deployment)?;
            let probes = [&container.startup_probe, &container.readiness_probe, &container.liveness_probe];
            for probe in probes {
                let probe: &Probe = probe.as_ref().context("a probe is missing")?;
                let port = probe.grpc.as_ref().context("not a gRPC probe")?.port;
                ensure!(has_port(container, &IntOrString::Int(port)), "{:?}: {port}", deployment.metadata.name);
            }
        }
        Ok(())
    })
}

#[test]
fn budgets_and_autoscalers_are_about_one_deployment_each() -> anyhow::Result<()> {
    with_each(|objects| {
        for budget in &objects.budgets {
            let spec = budget.spec.as_ref().context("no spec")?;
            let selected = objects.selected(spec.selector.as_ref().context("no selector")?);
            ensure!(selected.len() == 1, "{:?} is about {}", budget.metadata.name, selected.len());
        }
        let mut scaled = BTreeSet::new();
        for scaler in &objects.autoscalers {
            let target = &scaler.spec.as_ref().context("no spec")?.scale_target_ref;
            ensure!(target.kind == "Deployment" && target.api_version.as_deref() == Some("apps/v1"), "{target:?}");
            scaled.insert(target.name.as_str());
        }
        for deployment in &objects.deployments {
            let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
            // Otherwise each upgrade would undo what the autoscaler did.
            ensure!(replicas.is_none() == scaled.remove(name_of(deployment)), "{}", name_of(deployment));
        }
        ensure!(scaled.is_empty(), "there is no Deployment {scaled:?}");
        Ok(())
    })
}

#[test]
fn the_ingress_and_the_monitor_lead_to_the_gateway() -> anyhow::Result<()> {
    let objects = render("ci/everything-values.yaml", &[])?;
    let gateway = objects.services.iter().find(|service| name_of(*service) == "mesh-gateway").context("no gateway")?;
    let ports = gateway.spec.as_ref().and_then(|spec| spec.ports.clone()).unwrap_or_default();
    let has = |name: Option<&str>| ports.iter().any(|port| port.name.as_deref() == name);

    let spec = objects.ingresses[0].spec.as_ref().context("no spec")?;
    let rules = spec.rules.as_deref().unwrap_or_default();
    let paths = rules.iter().flat_map(|rule| rule.http.iter().flat_map(|http| &http.paths));
    let backends: Vec<_> = paths.filter_map(|path| path.backend.service.clone()).collect();
    ensure!(!backends.is_empty(), "no backends");
    for backend in backends {
        assert_eq!(backend.name, "mesh-gateway");
        assert!(has(backend.port.as_ref().and_then(|port| port.name.as_deref())));
    }

    let monitor = &objects.monitors[0].spec;
    let labels = gateway.metadata.labels.clone().unwrap_or_default();
    assert!(selects(&monitor.selector, &labels));
    let endpoint = &monitor.endpoints[0];
    assert!(has(Some(&endpoint.port)));
    let secret = objects.secrets.first().context("no Secret")?;
    assert_eq!(endpoint.authorization.credentials.name, name_of(secret));
    assert!(secret.string_data.as_ref().is_some_and(|data| data.contains_key(&endpoint.authorization.credentials.key)));
    Ok(())
}

#[test]
fn pods_refer_to_accounts_settings_and_secrets_that_are_there() -> anyhow::Result<()> {
    with_each(|objects| {
        let mut there: BTreeSet<&str> = objects.secrets.iter().map(name_of).collect();
        there.extend(objects.config_maps.iter().map(name_of));
        there.extend(objects.accounts.iter().map(name_of));
        // What the operator brings.
        there.extend(OF_THE_OPERATOR);
        for deployment in &objects.deployments {
            let pod = pod(deployment)?;
            let mut named = vec![pod.service_account_name.clone().context("no account")?];
            for volume in pod.volumes.iter().flatten() {
                named.extend(volume.secret.as_ref().and_then(|secret| secret.secret_name.clone()));
                named.extend(volume.config_map.as_ref().map(|map| map.name.clone()));
            }
            for source in container(deployment)?.env_from.iter().flatten() {
                named.extend(source.secret_ref.as_ref().map(|secret| secret.name.clone()));
            }
            let sources =
                container(deployment)?.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
            named.extend(sources.filter_map(|source| Some(source.secret_key_ref.as_ref()?.name.clone())));
            ensure!(named.len() >= 3, "{named:?}");
            for name in named {
                ensure!(there.contains(name.as_str()), "{} refers to {name}", name_of(deployment));
            }
            let mounted = container(deployment)?.volume_mounts.iter().flatten().map(|mount| &mount.name);
            let volumes: BTreeSet<_> = pod.volumes.iter().flatten().map(|volume| &volume.name).collect();
            ensure!(mounted.collect::<BTreeSet<_>>() == volumes, "{}: volumes and mounts", name_of(deployment));
        }
        Ok(())
    })
}

#[test]
fn a_role_may_have_a_certificate_of_its_own() -> anyhow::Result<()> {
    let objects = render("ci/everything-values.yaml", &[])?;
    let secret = |role: &str| {
        let volumes = pod(objects.deployment(role)?)?.volumes.clone().unwrap_or_default();
        let tls = volumes.into_iter().find(|volume| volume.name == "tls").context("no volume")?;
        anyhow::Ok(tls.secret.and_then(|secret| secret.secret_name).context("no Secret")?)
    };
    assert_eq!(secret("runner")?, "runner-certificate");
    assert_eq!(secret("execution")?, "mesh-certificate");
    Ok(())
}
