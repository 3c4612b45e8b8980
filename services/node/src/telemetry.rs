//! Logs, metrics and traces: the process's globals, set once by the command.

use std::{io::IsTerminal as _, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{Config, config::LogFormat};

/// How often histograms are drained.
const UPKEEP: Duration = Duration::from_secs(5);

/// The buckets of histograms of durations, in seconds: 0.1 ms to 60 s.
const SECONDS: &[f64] =
    &[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// What was set up. [`Telemetry::shutdown`] sends what is left of the traces.
#[derive(Debug)]
pub(crate) struct Telemetry {
    metrics: PrometheusHandle,
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sets the process's subscriber and recorder. Logs go to standard error. To be called on a tokio runtime.
    pub(crate) fn install(config: &Config) -> anyhow::Result<Self> {
        let filter = EnvFilter::try_new(&config.log.filter).context("configuration: log.filter")?;
        let lines =
            tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
        let lines = match config.log.format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        let traces = config.telemetry.otlp_endpoint.as_deref().map(|endpoint| provider(endpoint, &config.node));
        let traces = traces.transpose().context("configuration: telemetry.otlp_endpoint")?;
        let spans = traces.as_ref().map(|provider| {
            // Spans are recorded whatever the log shows.
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("runmesh"))
                .with_filter(EnvFilter::new("off,runmesh=info"))
        });
        tracing_subscriber::registry().with(spans).with(lines.with_filter(filter)).try_init()?;
        let metrics = PrometheusBuilder::new().set_buckets(SECONDS)?.install_recorder()?;
        let upkeep = metrics.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                upkeep.run_upkeep();
            }
        });
        Ok(Self { metrics, traces })
    }

    /// Renders the metrics in Prometheus' text format.
    pub(crate) fn render(&self) -> impl Fn() -> String + Send + Sync + 'static {
        let metrics = self.metrics.clone();
        move || metrics.render()
    }

    /// Sends what is left of the traces.
    pub(crate) fn shutdown(self) {
        if let Some(traces) = self.traces
            && let Err(error) = traces.shutdown()
        {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

fn provider(endpoint: &str, node: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    let resource = Resource::builder()
        .with_service_name("runmesh")
        .with_attribute(opentelemetry::KeyValue::new("service.instance.id", node.to_owned()))
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}
