//! What Runmesh costs on top of what it runs, as ratios within one run: `cargo xtask bench [PART]...`.
//!
//! Nothing here passes or fails. docs/performance.md says what the figures mean.

mod dead_letters;
mod event_log;
mod events;
mod executions;
mod first_line;
mod queue;
mod replay;
mod sandbox;
mod servers;

use std::time::Duration;

use anyhow::bail;
use hdrhistogram::Histogram;

const PARTS: [&str; 11] = [
    "latency",
    "throughput",
    "sandbox",
    "queue",
    "events",
    "event-log",
    "dead-letters",
    "redrive",
    "replay",
    "servers",
    "first-line",
];

fn main() -> anyhow::Result<()> {
    // cargo adds --bench.
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(unknown) = asked.iter().find(|part| !PARTS.contains(&part.as_str())) {
        bail!("there is no part {unknown:?}; the parts are {}", PARTS.join(", "));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for part in PARTS.into_iter().filter(|part| asked.is_empty() || asked.iter().any(|one| one == part)) {
        println!("\n{part}");
        match part {
            "latency" => runtime.block_on(executions::latency())?,
            "throughput" => runtime.block_on(executions::throughput())?,
            "sandbox" => runtime.block_on(sandbox::measure())?,
            "queue" => queue::dispatch()?,
            "events" => runtime.block_on(events::rate())?,
            "event-log" => runtime.block_on(event_log::measure())?,
            "dead-letters" => runtime.block_on(dead_letters::questions())?,
            "redrive" => runtime.block_on(dead_letters::redrives())?,
            "replay" => runtime.block_on(replay::rates())?,
            "servers" => runtime.block_on(servers::measure())?,
            _ => first_line::time()?,
        }
    }
    // What a part has left behind ends with the process; its servers are ended by now.
    runtime.shutdown_timeout(Duration::from_secs(5));
    Ok(())
}

/// Times of something that was done again and again.
struct Times(Histogram<u64>);

impl Times {
    fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, 60_000_000, 3)?))
    }

    fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// A quantile in milliseconds.
    fn at(&self, quantile: f64) -> f64 {
        Duration::from_micros(self.0.value_at_quantile(quantile)).as_secs_f64() * 1_000.0
    }

    fn print(&self, what: &str) {
        println!(
            "  {what:<44} p50 {:>8.2} ms   p99 {:>8.2} ms   ({} times)",
            self.at(0.5),
            self.at(0.99),
            self.0.len()
        );
    }
}

/// Things per second.
fn per_second(count: usize, time: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / time.as_secs_f64()
}
