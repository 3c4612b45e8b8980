//! Producers that wait for each of their records before the next.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use futures::future::try_join_all;
use runmesh_bus::{Bus as _, EmbeddedBus};
use runmesh_events::ExecutionId;
use runmesh_store::{EventStore, Expected};

use super::{Bench, Counted, Group, baseline::Baseline, event, record};
use crate::per_second;

/// How long each rate is measured, about, by the number of records.
const RECORDS: usize = 6_400;

/// Does something many times from many tasks, and tells how long all of it took.
async fn timed<F>(producers: usize, each: usize, produce: impl Fn() -> F) -> anyhow::Result<Duration>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let since = Instant::now();
    let work = (0..producers).map(|_| async {
        for _ in 0..each {
            produce().await?;
        }
        anyhow::Ok(())
    });
    try_join_all(work).await?;
    Ok(since.elapsed())
}

/// Appends from many tasks, each to an aggregate of its own.
async fn append(store: &dyn EventStore, producers: usize, each: usize) -> anyhow::Result<()> {
    let work = (0..producers).map(|_| async {
        let aggregate = ExecutionId::new().aggregate();
        for sequence in 0..each as u64 {
            store.append(&aggregate, Expected::Sequence(sequence), vec![event(&aggregate)]).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(work).await?;
    Ok(())
}

pub(super) async fn rates(bench: &Bench, producers: usize) -> anyhow::Result<()> {
    // One at a time is slow: fewer, so that it takes seconds.
    let each = if producers == 1 { RECORDS / 10 } else { RECORDS / producers };
    let count = producers * each;
    let records: Vec<_> = (0..64).map(|_| record()).collect::<anyhow::Result<_>>()?;
    let (baseline, bus) = (Baseline::new(&bench.kafka.bootstrap())?, &bench.bus);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let pick = || &records[next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % records.len()];
    let ours = || async {
        let results = bus.publish(vec![pick().clone()]).await;
        results.into_iter().next().ok_or_else(|| anyhow!("no result"))??;
        Ok(())
    };
    // Warm, then in turn, so that whatever else the machine does hits both sides.
    timed(producers, each / 10 + 1, || baseline.produce(pick())).await?;
    timed(producers, each / 10 + 1, ours).await?;
    let (mut alone, mut published) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..3 {
        alone += timed(producers, each, || baseline.produce(pick())).await?;
        published += timed(producers, each, ours).await?;
    }
    let (alone, published) = (per_second(3 * count, alone), per_second(3 * count, published));
    println!("  {producers} producer(s), each waits for its record");
    println!("    librdkafka's own producer                  {alone:>8.0} /s");
    println!("    published on the bus                       {published:>8.0} /s   ratio {:.2}", published / alone);

    let handled = Arc::new(Counted::default());
    let name: &'static str = Box::leak(format!("producing-{producers}").into_boxed_str());
    // What was produced above is in the topic too, so the group begins before and counts from where it is.
    let documents = Arc::new(bench.store.clone());
    let group = Group::start(Arc::new(bench.bus.clone()), documents, name, Arc::clone(&handled) as _);
    let before = settled(&handled).await;
    let since = Instant::now();
    append(&bench.store, producers, each).await?;
    let appended = since.elapsed();
    handled.reach(before + count).await?;
    let all = since.elapsed();
    drop(group);
    println!("    appended to the MongoDB-protocol server    {:>8.0} /s", per_second(count, appended));
    println!("    and published and handled, over Kafka      {:>8.0} /s", per_second(count, all));

    let handled = Arc::new(Counted::default());
    let bus = Arc::new(EmbeddedBus::new(bench.embedded.clone()));
    let group = Group::start(bus, Arc::new(bench.embedded.clone()), name, Arc::clone(&handled) as _);
    let before = settled(&handled).await;
    let (since, count) = (Instant::now(), 4 * count);
    append(&bench.embedded, producers, 4 * each).await?;
    let appended = since.elapsed();
    handled.reach(before + count).await?;
    let all = since.elapsed();
    drop(group);
    println!("    appended and published, embedded           {:>8.0} /s", per_second(count, appended));
    println!("    and handled, embedded                      {:>8.0} /s", per_second(count, all));
    Ok(())
}

/// Waits until a group has come to the end of what there is.
async fn settled(handled: &Counted) -> usize {
    let mut before = usize::MAX;
    loop {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let now = handled.count.load(std::sync::atomic::Ordering::Acquire);
        if now == before {
            return now;
        }
        before = now;
    }
}
