//! What it costs to give a slot to the next of those who wait, with a short and with a long queue.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use runmesh_proto::event::QueuePriority;
use runmesh_scheduler::queue::{Job, Offer, Policy, Queue, Size};

const DEPTHS: [usize; 2] = [1_000, 100_000];
const USERS: usize = 100;
const ROUNDS: usize = 100_000;
const PRIORITIES: [QueuePriority; 3] = [QueuePriority::High, QueuePriority::Normal, QueuePriority::Low];

/// The cost at each depth, and the ratio.
pub(crate) fn dispatch() -> anyhow::Result<()> {
    let mut costs = Vec::new();
    for depth in DEPTHS {
        let began = SystemTime::now();
        let mut queue = Queue::new(Policy::default());
        let offer = Offer { slots: 8, largest: Size { cpu_millis: i64::MAX, memory_bytes: i64::MAX }, draining: false };
        queue.set_runners([("runner".to_owned(), offer)].into());
        let mut made = 0;
        let mut claim = |queue: &mut Queue, now: SystemTime| {
            let job = Job {
                execution_id: uuid::Uuid::now_v7().to_string(),
                user_id: format!("user-{}", made % USERS),
                priority: PRIORITIES[made % PRIORITIES.len()],
                attempt: 1,
                since: now,
                size: Size::default(),
            };
            made += 1;
            queue.claim(job, now);
        };
        for _ in 0..depth {
            claim(&mut queue, began);
        }
        // What ends gives its slot to the next, and a new one comes.
        let since = Instant::now();
        for round in 0..ROUNDS {
            let now = began + Duration::from_millis(round as u64);
            let job = queue.admit_next(now).context("nobody waits")?.job;
            queue.release(&job.execution_id, now + Duration::from_millis(1));
            claim(&mut queue, now);
        }
        let cost = since.elapsed() / u32::try_from(ROUNDS)?;
        println!("  {depth} wait, of {USERS} users: {:.2} us for one more slot", cost.as_secs_f64() * 1e6);
        costs.push(cost.as_secs_f64());
    }
    println!("  {:.2} x", costs[1] / costs[0]);
    Ok(())
}
