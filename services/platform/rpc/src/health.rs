//! Whether the server is ready, for `grpc.health.v1` and for whoever else wants to know.

use tokio::sync::watch;
use tonic_health::{ServingStatus, server::HealthReporter};

/// Says whether the server's services can be called. All are NOT_SERVING until [`Readiness::set_ready`].
#[derive(Debug, Clone)]
pub struct Readiness {
    reporter: HealthReporter,
    services: Vec<&'static str>,
    ready: watch::Sender<bool>,
}

impl Readiness {
    /// Reports on these services, through this reporter.
    pub(crate) fn new(reporter: HealthReporter, services: Vec<&'static str>) -> Self {
        Self { reporter, services, ready: watch::Sender::new(false) }
    }

    /// Everything that the services need is there: SERVING.
    pub async fn set_ready(&self) {
        self.report(ServingStatus::Serving).await;
        self.ready.send_replace(true);
    }

    /// The services should not be called (any more): NOT_SERVING.
    pub async fn set_not_ready(&self) {
        self.ready.send_replace(false);
        self.report(ServingStatus::NotServing).await;
    }

    /// Whether the services are ready.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Announces changes of [`Readiness::is_ready`].
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    async fn report(&self, status: ServingStatus) {
        // The empty name is the server as a whole.
        for service in self.services.iter().copied().chain([""]) {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
