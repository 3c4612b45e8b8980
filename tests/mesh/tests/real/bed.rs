//! What every test of these stands on.

use anyhow::ensure;
use runmesh_mesh_tests::{Backends, Client, Load, Processes};
use runmesh_servers::{Kafka, KafkaOptions, MongoLike};
use tokio::task::block_in_place;

/// More than what a mesh runs at once, so that some wait.
const SLOTS: &str = "scheduler.slots=4";

/// A mesh of processes with servers of its own.
pub(crate) struct Bed {
    pub(crate) mesh: Processes,
    pub(crate) client: Client,
    pub(crate) kafka: Kafka,
    pub(crate) mongo: MongoLike,
}

impl Bed {
    /// A mesh with one broker.
    pub(crate) async fn new() -> anyhow::Result<Self> {
        Self::with(KafkaOptions::default(), &[]).await
    }

    pub(crate) async fn with(options: KafkaOptions, settings: &[&str]) -> anyhow::Result<Self> {
        Self::on(block_in_place(|| Kafka::start(&options))?, settings).await
    }

    pub(crate) async fn on(kafka: Kafka, settings: &[&str]) -> anyhow::Result<Self> {
        let mongo = block_in_place(MongoLike::start)?;
        let backends = Backends { store: mongo.uri(), brokers: kafka.bootstrap() };
        let settings: Vec<&str> = settings.iter().copied().chain([SLOTS]).collect();
        let mesh = Processes::start(backends, &settings).await?;
        let client = mesh.client()?;
        Ok(Self { mesh, client, kafka, mongo })
    }

    /// A load that is under way.
    pub(crate) async fn load(&self) -> anyhow::Result<Load> {
        let mut load = Load::start(&self.client);
        load.more(10).await?;
        Ok(load)
    }

    /// Waits for the end of everything and looks for losses.
    pub(crate) async fn check(&self, load: Load) -> anyhow::Result<()> {
        let count = load.finish().await?;
        ensure!(count > 10, "only {count} executions");
        let said = self.mesh.verify().await?;
        println!("{count} executions\n{said}");
        Ok(())
    }
}
