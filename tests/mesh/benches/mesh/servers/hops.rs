//! The time of one hop at a low rate: from the producer's call to the consumer that has the record.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use prost::Message as _;
use runmesh_bus::{Bus as _, EmbeddedBus, Handler, HandlerError, Incoming};
use runmesh_events::{Event, ExecutionId};
use runmesh_store::{EventStore, Expected};
use tokio::{sync::mpsc, time::timeout};

use super::{
    Bench, Group,
    baseline::{Baseline, Reading},
    event, record,
};
use crate::Times;

const HOPS: usize = 400;
const PAUSE: Duration = Duration::from_millis(10);

/// Hands on the ids of the aggregates that it sees.
struct Seen(mpsc::UnboundedSender<String>);

#[async_trait]
impl Handler for Seen {
    async fn handle(&self, incoming: &Incoming) -> Result<(), HandlerError> {
        self.0.send(incoming.event.aggregate_id.clone()).ok();
        Ok(())
    }
}

/// Sends again and again, each time after the one before has come.
async fn hops<F>(what: &str, seen: &mut mpsc::UnboundedReceiver<String>, send: impl Fn() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<String>>,
{
    let mut times = Times::new()?;
    for hop in 0..HOPS + 20 {
        let since = Instant::now();
        let sent = send().await?;
        timeout(Duration::from_secs(60), async {
            while let Some(id) = seen.recv().await {
                if id == sent {
                    break;
                }
            }
        })
        .await?;
        // The first ones wait for the group to settle.
        if hop >= 20 {
            times.add(since.elapsed());
        }
        tokio::time::sleep(PAUSE).await;
    }
    times.print(what);
    Ok(())
}

async fn appended(store: &dyn EventStore) -> anyhow::Result<String> {
    let aggregate = ExecutionId::new().aggregate();
    store.append(&aggregate, Expected::Sequence(0), vec![event(&aggregate)]).await?;
    Ok(aggregate.to_string())
}

pub(super) async fn latency(bench: &Bench) -> anyhow::Result<()> {
    println!("  one hop, {HOPS} times, one after the other");
    let (sender, mut seen) = mpsc::unbounded_channel();
    let baseline = Baseline::new(&bench.kafka.bootstrap())?;
    let sender = Mutex::new(sender);
    let reading = Reading::start(&bench.kafka.bootstrap(), "hops-baseline", "latest", move |value| {
        if let Ok(event) = Event::decode(value) {
            sender.lock().unwrap_or_else(PoisonError::into_inner).send(event.aggregate_id).ok();
        }
    })?;
    // Until the group is there, what is produced is not for it.
    tokio::time::sleep(Duration::from_secs(6)).await;
    hops("librdkafka: produce to poll", &mut seen, || async {
        let record = record()?;
        baseline.produce(&record).await?;
        Ok(String::from_utf8(record.key.to_vec())?)
    })
    .await?;
    drop(reading);

    let (sender, mut seen) = mpsc::unbounded_channel();
    let documents = Arc::new(bench.store.clone());
    let group = Group::start(Arc::new(bench.bus.clone()), documents, "hops", Arc::new(Seen(sender)));
    hops("bus: publish to handler", &mut seen, || async {
        let record = record()?;
        let key = String::from_utf8(record.key.to_vec())?;
        for result in bench.bus.publish(vec![record]).await {
            result?;
        }
        Ok(key)
    })
    .await?;
    hops("store and Kafka: append to handler", &mut seen, || appended(&bench.store)).await?;
    drop(group);

    let (sender, mut seen) = mpsc::unbounded_channel();
    let bus = Arc::new(EmbeddedBus::new(bench.embedded.clone()));
    let group = Group::start(bus, Arc::new(bench.embedded.clone()), "hops", Arc::new(Seen(sender)));
    hops("embedded: append to handler", &mut seen, || appended(&bench.embedded)).await?;
    drop(group);
    Ok(())
}
