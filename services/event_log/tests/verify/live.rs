//! Verifications of a mesh that works meanwhile.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use runmesh_bus::{
    ConsumerGroup,
    conformance::{Probe, start, until},
};
use runmesh_events::AggregateId;
use runmesh_proto::event_log::FindingSeverity;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    mesh::{GROUPS, IMPATIENT, Mesh, PATIENT},
    samples::{TOPICS, id, whole},
};

/// Executions come and go, some are deleted and begun anew under the same id, the relay and the groups work: no
/// verification takes any of that for a loss. When all is quiet, nothing is pending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_on_meanwhile_is_never_taken_for_a_loss() {
    busy(Mesh::new(), 15, 150).await;
}

/// The same on a real Kafka.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_on_meanwhile_on_kafka_is_never_taken_for_a_loss() {
    busy(Mesh::on_kafka().await, 3, 100).await;
}

/// The same where the store is shared too, so that events may appear behind the place that a scan has come to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_on_meanwhile_on_servers_is_never_taken_for_a_loss() {
    // The test server reads the whole collection for each question.
    busy(Mesh::on_servers().await, 2, 20).await;
}

/// Verifies so often, while so many executions are recorded each time.
async fn busy(mesh: Mesh, verifications: usize, executions: usize) {
    let mesh = Arc::new(mesh);
    let relaying = mesh.start_relay().await;
    // As much is written as a verification takes: the load is the same on a slow machine.
    let (turns, recorded) = (Arc::new(Semaphore::new(executions)), Arc::new(AtomicUsize::new(0)));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let (mesh, turns, recorded) = (Arc::clone(&mesh), Arc::clone(&turns), Arc::clone(&recorded));
        writers.spawn(async move {
            let fixed = id();
            for round in 0.. {
                let Ok(turn) = turns.acquire().await else { break };
                turn.forget();
                let aggregate = if writer == 0 { fixed.clone() } else { id() };
                for payload in whole() {
                    mesh.append(&aggregate, vec![payload]).await;
                    tokio::task::yield_now().await;
                }
                recorded.fetch_add(1, Ordering::AcqRel);
                if writer == 0 || round % 5 == 0 {
                    mesh.store.delete_aggregate(&AggregateId::from(aggregate.as_str())).await.unwrap();
                }
            }
        });
    }
    let mut running = Vec::new();
    for group in GROUPS {
        running.push(start(&mesh.consumer().await, ConsumerGroup::new(group, &TOPICS, Probe::accepting())));
    }
    until("there is something to verify", async || recorded.load(Ordering::Acquire) >= executions / 2).await;
    for _ in 0..verifications {
        turns.add_permits(executions);
        let outcome = mesh.verify(PATIENT).await;
        assert!(outcome.findings.iter().all(|finding| finding.severity() < FindingSeverity::Violation), "{outcome:#?}");
        assert!(outcome.ledger.sound && outcome.logs().events > 0, "{:#?}", outcome.ledger);
    }
    turns.close();
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    mesh.all_published().await;
    for group in GROUPS {
        mesh.all_handled(group).await;
    }
    mesh.verify(IMPATIENT).await.is_clean();
    relaying.stop().await;
    for group in running {
        group.stop().await;
    }
}
