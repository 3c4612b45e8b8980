//! What a chart renders to.

use anyhow::{Context as _, bail};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{ConfigMap, Container, PodSpec, Secret, Service, ServiceAccount},
        networking::v1::{Ingress, NetworkPolicy},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use serde_json::Value;
use std::collections::BTreeMap;

use crate::{ServiceMonitor, documents, typed};

/// The objects of a chart, by their types.
#[derive(Debug, Default)]
pub struct Objects {
    /// All names, with the kind before each.
    pub names: Vec<String>,
    /// ConfigMaps.
    pub config_maps: Vec<ConfigMap>,
    /// Secrets.
    pub secrets: Vec<Secret>,
    /// ServiceAccounts.
    pub accounts: Vec<ServiceAccount>,
    /// Deployments.
    pub deployments: Vec<Deployment>,
    /// Services.
    pub services: Vec<Service>,
    /// PodDisruptionBudgets.
    pub budgets: Vec<PodDisruptionBudget>,
    /// HorizontalPodAutoscalers.
    pub autoscalers: Vec<HorizontalPodAutoscaler>,
    /// NetworkPolicies.
    pub policies: Vec<NetworkPolicy>,
    /// Ingresses.
    pub ingresses: Vec<Ingress>,
    /// ServiceMonitors.
    pub monitors: Vec<ServiceMonitor>,
}

impl Objects {
    /// Parses what helm rendered.
    ///
    /// # Errors
    /// With each object that is not what its type says, or whose type is not expected of the chart: a right that nothing
    /// needs, such as a Role, above all.
    pub fn parse(yaml: &str) -> anyhow::Result<Self> {
        let mut objects = Self::default();
        let mut wrong = Vec::new();
        for document in documents(yaml)? {
            let text = |path: &str| document.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let name = format!("{} {}", text("/kind"), text("/metadata/name"));
            if let Err(error) = objects.add(&text("/apiVersion"), &text("/kind"), document) {
                wrong.push(format!("{name}: {error:#}"));
            }
            objects.names.push(name);
        }
        if !wrong.is_empty() {
            bail!("{}", wrong.join("\n"));
        }
        Ok(objects)
    }

    fn add(&mut self, version: &str, kind: &str, object: Value) -> anyhow::Result<()> {
        match (version, kind) {
            ("v1", "ConfigMap") => self.config_maps.push(typed(object)?),
            ("v1", "Secret") => self.secrets.push(typed(object)?),
            ("v1", "ServiceAccount") => self.accounts.push(typed(object)?),
            ("v1", "Service") => self.services.push(typed(object)?),
            ("apps/v1", "Deployment") => self.deployments.push(typed(object)?),
            ("autoscaling/v2", "HorizontalPodAutoscaler") => self.autoscalers.push(typed(object)?),
            ("networking.k8s.io/v1", "NetworkPolicy") => self.policies.push(typed(object)?),
            ("networking.k8s.io/v1", "Ingress") => self.ingresses.push(typed(object)?),
            ("policy/v1", "PodDisruptionBudget") => self.budgets.push(typed(object)?),
            ("monitoring.coreos.com/v1", "ServiceMonitor") => self.monitors.push(typed(object)?),
            _ => bail!("{version} {kind} is not expected"),
        }
        Ok(())
    }

    /// The role of a Deployment: what its container is started with.
    ///
    /// # Errors
    /// When it is started with something else.
    pub fn role(deployment: &Deployment) -> anyhow::Result<String> {
        match container(deployment)?.args.as_deref() {
            Some([command, flag, role]) if command == "serve" && flag == "--roles" => Ok(role.clone()),
            other => bail!("{:?} is started with {other:?}", deployment.metadata.name),
        }
    }

    /// The Deployment of a role.
    ///
    /// # Errors
    /// When there is none.
    pub fn deployment(&self, role: &str) -> anyhow::Result<&Deployment> {
        let is_it = |deployment: &&Deployment| Self::role(deployment).is_ok_and(|found| found == role);
        self.deployments.iter().find(is_it).with_context(|| format!("no Deployment of {role}"))
    }

    /// The Deployments whose pods a selector selects.
    pub fn selected(&self, selector: &LabelSelector) -> Vec<&Deployment> {
        self.deployments.iter().filter(|deployment| selects(selector, &pod_labels(deployment))).collect()
    }
}

/// Whether labels have what a selector asks for, as Kubernetes has it.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let wanted = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    wanted.into_iter().all(|(name, value)| labels.get(name) == Some(value))
        && expressions.all(|wanted| {
            let value = labels.get(&wanted.key);
            let is_one = value.is_some_and(|value| wanted.values.iter().flatten().any(|one| one == value));
            match wanted.operator.as_str() {
                "In" => is_one,
                "NotIn" => !is_one,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// The labels of a Deployment's pods.
pub(crate) fn pod_labels(deployment: &Deployment) -> BTreeMap<String, String> {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    template.and_then(|template| template.metadata.as_ref()?.labels.clone()).unwrap_or_default()
}

/// What a Deployment's pods are made of.
pub(crate) fn pod(deployment: &Deployment) -> anyhow::Result<&PodSpec> {
    let spec = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    spec.with_context(|| format!("{:?} has no pods", deployment.metadata.name))
}

/// The only container of a Deployment's pods.
pub(crate) fn container(deployment: &Deployment) -> anyhow::Result<&Container> {
    let pod = pod(deployment)?;
    match (pod.containers.as_slice(), pod.init_containers.as_deref().unwrap_or_default()) {
        ([container], []) => Ok(container),
        _ => bail!("{:?} has other than one container", deployment.metadata.name),
    }
}
