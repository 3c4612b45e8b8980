//! Reading a topic that is full.

use std::{sync::Arc, time::Instant};

use runmesh_bus::Bus as _;

use super::{Bench, Counted, Group, baseline::Reading, record};
use crate::per_second;

const RECORDS: usize = 100_000;
const BATCH: usize = 1_000;

pub(super) async fn rates(bench: &Bench) -> anyhow::Result<()> {
    for _ in 0..RECORDS / BATCH {
        let records = (0..BATCH).map(|_| record()).collect::<anyhow::Result<Vec<_>>>()?;
        for result in bench.bus.publish(records).await {
            result?;
        }
    }
    println!("  reading {RECORDS} records and more from a topic that has them, the joining of the group included");
    let since = Instant::now();
    let read = Arc::new(Counted::default());
    let count = Arc::clone(&read);
    let reading = Reading::start(&bench.kafka.bootstrap(), "consuming-baseline", "earliest", move |_| count.add())?;
    read.reach(RECORDS).await?;
    let alone = per_second(RECORDS, since.elapsed());
    drop(reading);
    println!("    librdkafka's own consumer                  {alone:>8.0} /s");

    let since = Instant::now();
    let handled = Arc::new(Counted::default());
    let documents = Arc::new(bench.store.clone());
    let group = Group::start(Arc::new(bench.bus.clone()), documents, "consuming", Arc::clone(&handled) as _);
    handled.reach(RECORDS).await?;
    let ours = per_second(RECORDS, since.elapsed());
    drop(group);
    println!("    a consumer group: decoded, keyed, committed {ours:>7.0} /s   ratio {:.2}", ours / alone);
    Ok(())
}
