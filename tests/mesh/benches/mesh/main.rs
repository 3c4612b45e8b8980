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
use tikv_jemallocator::Jemalloc;
use tokio::runtime::Runtime;

/// As in the binary, of which some parts run in this process.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

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
            "latency" => on_a_worker(&runtime, executions::latency())?,
            "throughput" => on_a_worker(&runtime, executions::throughput())?,
            "sandbox" => on_a_worker(&runtime, sandbox::measure())?,
            "queue" => queue::dispatch()?,
            "events" => on_a_worker(&runtime, events::rate())?,
            "event-log" => on_a_worker(&runtime, event_log::measure())?,
            "dead-letters" => on_a_worker(&runtime, dead_letters::questions())?,
            "redrive" => {
                on_a_worker(&runtime, dead_letters::redrives())?;
                on_a_worker(&runtime, dead_letters::executions())?;
            }
            "replay" => on_a_worker(&runtime, replay::rates())?,
            "servers" => on_a_worker(&runtime, servers::measure())?,
            _ => first_line::time()?,
        }
    }
    // What a part has left behind ends with the process; its servers are ended by now.
    runtime.shutdown_timeout(Duration::from_secs(5));
    Ok(())
}

/// Runs a part as servers and clients run: by the runtime's own threads, and not by one that has to be woken by those.
fn on_a_worker(
    runtime: &Runtime,
    part: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) -> anyhow::Result<()> {
    runtime.block_on(runtime.spawn(part))?
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
