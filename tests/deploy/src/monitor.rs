//! ServiceMonitor, a type of the Prometheus operator: what the chart uses of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

/// What Prometheus scrapes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceMonitor {
    /// `monitoring.coreos.com/v1`
    pub api_version: String,
    /// `ServiceMonitor`
    pub kind: String,
    /// Its name and labels.
    pub metadata: ObjectMeta,
    /// What to scrape.
    pub spec: Spec,
}

/// What to scrape.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The Services.
    pub selector: LabelSelector,
    /// Their ports.
    pub endpoints: Vec<Endpoint>,
}

/// A port of a Service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Its name.
    pub port: String,
    /// The path of the metrics.
    pub path: String,
    /// How often.
    pub interval: String,
    /// With which credentials.
    pub authorization: Authorization,
}

/// A bearer token out of a Secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorization {
    /// `Bearer`
    #[serde(rename = "type")]
    pub scheme: String,
    /// The Secret and the key in it.
    pub credentials: Credentials,
}

/// A key of a Secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The Secret.
    pub name: String,
    /// The key.
    pub key: String,
}
