//! The network policies: closed, and open where the mesh needs it and nowhere else.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use runmesh_deploy_tests::{Objects, render};
use runmesh_node::Role;

use crate::selectors::has_port;

/// The policies that hold for a role's pods.
fn of_role<'a>(objects: &'a Objects, role: &str) -> anyhow::Result<Vec<&'a NetworkPolicy>> {
    let deployment = objects.deployment(role)?;
    let holds = |policy: &&NetworkPolicy| {
        let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.clone()).unwrap_or_default();
        objects.selected(&selector).contains(&deployment)
    };
    Ok(objects.policies.iter().filter(holds).collect())
}

/// The peers and ports of one direction: of all policies of a role together, since policies add up.
type Rules = Vec<(Vec<NetworkPolicyPeer>, Vec<NetworkPolicyPort>)>;

fn rules(objects: &Objects, role: &str) -> anyhow::Result<(Rules, Rules)> {
    let (mut ingress, mut egress) = (Vec::new(), Vec::new());
    for policy in of_role(objects, role)? {
        let spec = policy.spec.clone().context("no spec")?;
        for rule in spec.ingress.unwrap_or_default() {
            ingress.push((rule.from.unwrap_or_default(), rule.ports.unwrap_or_default()));
        }
        for rule in spec.egress.unwrap_or_default() {
            egress.push((rule.to.unwrap_or_default(), rule.ports.unwrap_or_default()));
        }
    }
    Ok((ingress, egress))
}

/// The roles whose pods a peer of this release selects. `None`: it is something else.
fn roles_of(objects: &Objects, peer: &NetworkPolicyPeer) -> anyhow::Result<Option<BTreeSet<String>>> {
    match peer {
        NetworkPolicyPeer { pod_selector: Some(selector), namespace_selector: None, ip_block: None } => {
            Ok(Some(objects.selected(selector).into_iter().map(Objects::role).collect::<anyhow::Result<_>>()?))
        }
        _ => Ok(None),
    }
}

fn ports(rules: &Rules) -> BTreeSet<String> {
    let all = rules.iter().flat_map(|(_, ports)| ports);
    all.map(|port| match &port.port {
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(name)) => name.clone(),
        None => "any".to_owned(),
    })
    .collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn all_pods_are_closed_in_both_directions() -> anyhow::Result<()> {
    for values in ["ci/minimal-values.yaml", "ci/everything-values.yaml"] {
        let objects = render(values, &[])?;
        let denies = |policy: &&NetworkPolicy| {
            let spec = policy.spec.as_ref();
            let types = spec.and_then(|spec| spec.policy_types.clone()).unwrap_or_default();
            types == ["Ingress", "Egress"] && spec.is_some_and(|spec| spec.ingress.is_none() && spec.egress.is_none())
        };
        let deny = objects.policies.iter().find(denies).context("nothing is closed")?;
        let selector = deny.spec.as_ref().and_then(|spec| spec.pod_selector.clone()).context("no selector")?;
        assert_eq!(objects.selected(&selector).len(), objects.deployments.len(), "{values}");
    }
    Ok(())
}

#[test]
fn every_policy_is_about_pods_and_ports_that_are_there() -> anyhow::Result<()> {
    for values in ["ci/minimal-values.yaml", "ci/everything-values.yaml"] {
        let objects = render(values, &[])?;
        for policy in &objects.policies {
            let spec = policy.spec.as_ref().context("no spec")?;
            let selected = objects.selected(&spec.pod_selector.clone().unwrap_or_default());
            ensure!(!selected.is_empty(), "{:?} is about no pods", policy.metadata.name);
            for rule in spec.ingress.iter().flatten() {
                for port in rule.ports.iter().flatten().filter_map(|port| port.port.as_ref()) {
                    ensure!(
                        selected.iter().all(|pods| has(pods, port)),
                        "{:?} opens {port:?}, which pods don't have",
                        policy.metadata.name
                    );
                }
            }
            let peers = spec.ingress.iter().flatten().flat_map(|rule| rule.from.iter().flatten());
            for peer in peers.chain(spec.egress.iter().flatten().flat_map(|rule| rule.to.iter().flatten())) {
                let roles = roles_of(&objects, peer)?;
                ensure!(roles.is_none_or(|roles| !roles.is_empty()), "{:?}: nobody is {peer:?}", policy.metadata.name);
            }
        }
    }
    Ok(())
}

fn has(deployment: &Deployment, port: &IntOrString) -> bool {
    let pods = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    pods.is_some_and(|pods| pods.containers.iter().any(|container| has_port(container, port)))
}

#[test]
fn who_may_call_whom_is_exact() -> anyhow::Result<()> {
    let objects = render("ci/minimal-values.yaml", &[])?;
    let apis = set(["execution", "scheduler", "saga", "results", "dlq", "replay", "event-log"]);
    for role in Role::ALL.map(Role::as_str) {
        let (ingress, egress) = rules(&objects, role)?;
        let callers: Vec<_> = ingress.iter().flat_map(|(from, _)| from).collect();
        if role == "gateway" {
            assert_eq!(ports(&ingress), set(["http"]));
            assert!(callers.is_empty(), "the gateway is open to all by default");
        } else if apis.contains(role) {
            assert_eq!(ports(&ingress), set(["grpc"]), "{role}");
            assert_eq!(callers.len(), 1, "{role}");
            assert_eq!(roles_of(&objects, callers[0])?, Some(set(["gateway"])), "{role}");
        } else {
            assert!(ingress.is_empty(), "nobody calls {role}");
        }

        let mut reached = BTreeSet::new();
        for peer in egress.iter().flat_map(|(to, _)| to) {
            reached.extend(roles_of(&objects, peer)?.unwrap_or_default());
        }
        if role == "gateway" {
            assert_eq!(reached, apis);
            assert_eq!(ports(&egress), set(["53", "7300"]), "it uses neither Kafka nor MongoDB");
        } else {
            assert!(reached.is_empty(), "{role} calls {reached:?}");
            assert_eq!(ports(&egress), set(["53", "9092", "27017"]), "{role}");
        }
    }
    Ok(())
}

#[test]
fn scripts_reach_kafka_mongodb_and_names_where_these_are_and_nothing_else() -> anyhow::Result<()> {
    let objects = render("ci/everything-values.yaml", &[])?;
    let (_, egress) = rules(&objects, "runner")?;
    let mut reached = Vec::new();
    for (to, to_ports) in &egress {
        ensure!(!to.is_empty(), "{to_ports:?} is open to any address");
        ensure!(!to_ports.is_empty(), "{to:?} is open on any port");
        for peer in to {
            let cidr = peer.ip_block.as_ref().map(|block| block.cidr.clone());
            let space = peer
                .namespace_selector
                .as_ref()
                .and_then(|space| space.match_labels.as_ref()?.values().next().cloned());
            reached.push(cidr.or(space).context("neither addresses nor a namespace")?);
        }
    }
    reached.sort();
    assert_eq!(reached, ["10.1.0.0/24", "10.2.0.0/24", "kube-system", "telemetry"]);
    assert_eq!(ports(&egress), set(["53", "9093", "27017", "4317"]));
    Ok(())
}

#[test]
fn further_callers_are_let_in_where_values_say_so() -> anyhow::Result<()> {
    let objects = render("ci/everything-values.yaml", &[])?;
    let foreign = |role: &str| {
        let (ingress, _) = rules(&objects, role)?;
        let peers = ingress.into_iter().flat_map(|(from, _)| from);
        anyhow::Ok(peers.filter(|peer| peer.namespace_selector.is_some()).count())
    };
    assert_eq!(foreign("execution")?, 1, "networkPolicy.grpc.from");
    assert_eq!(foreign("gateway")?, 1, "networkPolicy.gateway.from");
    assert_eq!(foreign("saga")?, 1, "networkPolicy.grpc.from");
    assert_eq!(foreign("runner")?, 0, "it has no gRPC service");
    Ok(())
}
