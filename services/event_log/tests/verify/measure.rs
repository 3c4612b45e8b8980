//! What a verification costs. Not a test: run it by `cargo test --release -p runmesh-event-log --test verify -- --ignored
//! --nocapture measure`.

use std::{sync::Arc, time::Instant};

use tokio::task::JoinSet;

use crate::{
    mesh::{Mesh, PATIENT},
    samples::{id, whole},
};

const EXECUTIONS: usize = 50_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn measure_a_store_of_many_executions() {
    report(Mesh::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn measure_a_store_of_many_executions_on_kafka() {
    report(Mesh::on_kafka().await).await;
}

async fn report(mesh: Mesh) {
    let mesh = Arc::new(mesh);
    let mut writers = JoinSet::new();
    for _ in 0..64 {
        let mesh = Arc::clone(&mesh);
        writers.spawn(async move {
            for _ in 0..EXECUTIONS / 64 {
                mesh.append(&id(), whole()).await;
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    mesh.relay().await;
    let before = resident();
    let started = Instant::now();
    let outcome = mesh.verify(PATIENT).await;
    let took = started.elapsed();
    let events = outcome.logs().events;
    println!(
        "{events} events in {} logs verified in {took:?}: {:.0} events/s, resident {} MB before, at most {} MB",
        outcome.logs().aggregates,
        events as f64 / took.as_secs_f64(),
        before >> 20,
        peak() >> 20,
    );
    assert!(outcome.ledger.sound);
}

fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Bytes of memory in use now.
fn resident() -> u64 {
    status("VmRSS")
}

/// The most bytes of memory that were in use at a time.
fn peak() -> u64 {
    status("VmHWM")
}
