//! What exists and should not is repaired and counted, once; what should exist is left alone.

use std::path::PathBuf;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio_util::sync::CancellationToken;

use super::*;

const EVERY: Duration = Duration::from_millis(20);

/// What was counted so far, without what is 0.
#[derive(Default)]
struct Repairs(std::collections::BTreeMap<String, u64>);

impl Repairs {
    /// A snapshot takes the numbers away.
    fn take(&mut self, snapshotter: &Snapshotter) -> Vec<(&str, u64)> {
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let what = key.key().labels().find(|label| label.key() == "what").map(|label| label.value().to_owned());
            let DebugValue::Counter(count) = value else { continue };
            if key.key().name() == "reconciler_repairs_total" {
                *self.0.entry(what.unwrap()).or_default() += count;
            }
        }
        self.0.iter().filter(|(_, count)| **count > 0).map(|(what, count)| (what.as_str(), *count)).collect()
    }
}

fn lease(execution_id: &str, node: &str) -> RunLease {
    let until = SystemTime::now() + Duration::from_secs(3_600);
    RunLease { execution_id: execution_id.to_owned(), attempt: 1, node: node.to_owned(), until }
}

#[tokio::test]
async fn what_should_not_exist_is_repaired_and_counted_once() {
    let recorder = DebuggingRecorder::new();
    let _local = metrics::set_default_local_recorder(&recorder);
    let snapshotter = recorder.snapshotter();
    let mut repairs = Repairs::default();
    let mut bed = Bed::run(request("wait", &[])).await;
    bed.has_started(1).await;
    let stop = CancellationToken::new();
    let reconciling = tokio::spawn({
        let (runner, stop) = (bed.runner.clone(), stop.clone());
        async move { runner.reconcile(EVERY, stop).await }
    });
    // Long enough for several looks, in which there is nothing to repair.
    sleep(EVERY * 10).await;
    assert_eq!(repairs.take(&snapshotter), []);
    assert_eq!(repairs.0.len(), 5, "every kind is told of from the beginning: {:?}", repairs.0);

    let strays = [
        Stray::Process { pid: 4_194_303, started: 1 },
        Stray::Folder(PathBuf::from("/nowhere/a-1")),
        Stray::Cgroup(PathBuf::from("/nowhere/run-1")),
    ];
    *bed.strays.lock().unwrap() = strays.to_vec();
    bed.leases.insert(&lease("lost", "node")).await.unwrap();
    bed.leases.insert(&lease("others", "another")).await.unwrap();
    // The end of the execution that runs, by somebody else.
    bed.append(runmesh_proto::event::ExecutionTimeout { execution_id: ID.to_owned(), ..Default::default() }).await;
    tokio::time::timeout(BOUND, async {
        while bed.leases.get("lost").await.unwrap().is_some()
            || !bed.strays.lock().unwrap().is_empty()
            || bed.runner.active() > 0
        {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it was not repaired");
    sleep(EVERY * 10).await;
    stop.cancel();
    reconciling.await.unwrap();
    let mut counted = repairs.take(&snapshotter);
    // Whether the run hears of its end by itself first is left open.
    counted.retain(|(what, _)| *what != "run");
    assert_eq!(counted, [("cgroup", 1), ("folder", 1), ("lease", 1), ("sandbox", 1)]);
    assert!(
        bed.leases.get("others").await.unwrap().is_some(),
        "the lease of another runner is not its own to give back"
    );
}

#[tokio::test]
async fn an_open_execution_without_its_run_is_ended_as_lost() {
    let bed = Bed::idle(request("", &[])).await;
    let command = CreatePodCommand { execution_id: ID.to_owned(), runner: "node".to_owned(), ..Default::default() };
    bed.append(command).await;
    bed.append(PodCreated { execution_id: ID.to_owned(), ..Default::default() }).await;
    bed.leases.insert(&lease(ID, "node")).await.unwrap();
    let stop = CancellationToken::new();
    let reconciling = tokio::spawn({
        let (runner, stop) = (bed.runner.clone(), stop.clone());
        async move { runner.reconcile(EVERY, stop).await }
    });
    let log = bed.log().await;
    let Some(Payload::ExecutionFailed(failed)) = log.last() else { panic!("{:?}", log.last()) };
    assert!(failed.error_message.contains("has no run of it"), "{failed:?}");
    stop.cancel();
    reconciling.await.unwrap();
    assert_eq!(bed.leases.get(ID).await.unwrap(), None);
}
