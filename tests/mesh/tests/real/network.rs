//! A network that is slow or cut, by proxies.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{bash, eventually};
use runmesh_servers::{Kafka, KafkaOptions, Proxy};
use tokio::{task::block_in_place, time::sleep};

use crate::bed::Bed;

/// A mesh that reaches its only broker through a proxy.
async fn behind_a_proxy() -> anyhow::Result<(Bed, Proxy)> {
    let (proxy, kafka) = block_in_place(|| {
        let proxy = Proxy::start()?;
        let kafka = Kafka::start(&KafkaOptions { advertised: vec![proxy.address()], ..KafkaOptions::default() })?;
        proxy.forward_to(kafka.listener(1));
        anyhow::Ok((proxy, kafka))
    })?;
    Ok((Bed::on(kafka, &[]).await?, proxy))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_may_be_slow_and_then_out_of_reach() -> anyhow::Result<()> {
    let (bed, proxy) = behind_a_proxy().await?;
    let mut load = bed.load().await?;
    proxy.delay(Duration::from_millis(50));
    load.more(10).await?;
    proxy.delay(Duration::ZERO);
    proxy.cut();
    // Executions are accepted all the while: a fact needs the store alone.
    let mut accepted = Vec::new();
    for _ in 0..5 {
        accepted.push(bed.client.launch(bash("echo accepted")).await?);
        sleep(Duration::from_secs(1)).await;
    }
    proxy.heal();
    load.more(10).await?;
    for id in accepted {
        bed.client.follow(&id).await?.complete()?;
    }
    bed.check(load).await
}

/// How long a call may take that can't be answered.
const REFUSED: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_cut_off_says_so_and_goes_on_when_it_is_not() -> anyhow::Result<()> {
    let proxy = block_in_place(Proxy::start)?;
    let setting = format!("services.execution=http://{}", proxy.address());
    let bed = Bed::with(KafkaOptions::default(), &[setting.as_str()]).await?;
    proxy.forward_to(bed.mesh.member("execution-1")?.grpc.parse().context("an address")?);
    let url = format!("{}/v1/executions", bed.mesh.http());
    let is_fine = async || anyhow::Ok(reqwest::get(&url).await?.status().is_success().then_some(()));
    eventually("the gateway reaches the service", is_fine).await?;
    let load = bed.load().await?;
    proxy.cut();
    let since = Instant::now();
    let refused = eventually("a refusal", async || {
        let response = reqwest::Client::new().get(&url).timeout(REFUSED).send().await?;
        Ok((!response.status().is_success()).then_some(response))
    })
    .await?;
    ensure!(since.elapsed() < REFUSED, "the refusal took {:?}", since.elapsed());
    ensure!(refused.status().is_server_error(), "the gateway answers {}", refused.status());
    proxy.heal();
    eventually("the gateway reaches the service again", is_fine).await?;
    bed.check(load).await
}
