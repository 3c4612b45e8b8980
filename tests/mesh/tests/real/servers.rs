//! Lost servers under the mesh.

use std::time::Duration;

use anyhow::ensure;
use runmesh_servers::KafkaOptions;
use tokio::{task::block_in_place, time::sleep};

use crate::bed::Bed;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_may_be_killed_and_come_back() -> anyhow::Result<()> {
    let mut bed = Bed::new().await?;
    let mut load = bed.load().await?;
    block_in_place(|| bed.kafka.kill(1))?;
    // As long as an operator takes to start it again.
    sleep(Duration::from_secs(10)).await;
    block_in_place(|| bed.kafka.start_node(1))?;
    load.more(20).await?;
    bed.check(load).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_brokers_may_be_killed() -> anyhow::Result<()> {
    let settings = ["bus.replication_factor=3", "bus.min_insync_replicas=2"];
    let mut bed = Bed::with(KafkaOptions::three(), &settings).await?;
    let mut load = bed.load().await?;
    block_in_place(|| bed.kafka.kill(2))?;
    load.more(30).await?;
    block_in_place(|| bed.kafka.start_node(2))?;
    load.more(10).await?;
    bed.check(load).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_server_may_be_killed_and_come_back() -> anyhow::Result<()> {
    let mut bed = Bed::new().await?;
    let mut load = bed.load().await?;
    block_in_place(|| bed.mongo.kill())?;
    // A call in between is refused in time, and says why.
    let refused = bed.client.create(runmesh_mesh_tests::bash("echo no")).await;
    ensure!(refused.is_err(), "an execution was accepted without a store");
    sleep(Duration::from_secs(5)).await;
    block_in_place(|| bed.mongo.start_again())?;
    load.more(20).await?;
    bed.check(load).await
}
