//! What the tests of `deploy/` stand on: the chart as helm renders it, its objects as Kubernetes' own types with nothing
//! left over, and the Dockerfile and the Compose file as the programs read them that will use them.
//!
//! Neighbours: `cargo xtask setup` installs helm and hadolint and builds `deploy-check`, the Go program in `check/`. No
//! Docker daemon and no cluster is needed, and none is looked for.

mod chart;
mod compose;
mod monitor;
mod objects;
mod tool;
mod typed;

pub use chart::{CHART, NAMESPACE, RELEASE, VALUES, lint, render, render_as};
pub use compose::{Compose, Dependency, HealthCheck, Port, Service};
pub use monitor::ServiceMonitor;
pub use objects::{Objects, selects};
pub use tool::{deploy_check, repository, run, tool};
pub use typed::{documents, typed};
