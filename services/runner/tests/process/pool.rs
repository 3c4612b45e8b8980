//! Sandboxes that wait have the limits of the newest run; the next one may have others.

use runmesh_runner::{Ending, Level, Limit, RunSpec, conformance::limits::level};

use crate::harness::{Harness, assert_exited, limited, spec, until};

/// How many wait by default.
const POOL: usize = 2;
const MIB: u64 = 1 << 20;

/// Takes about 96 MiB and 8 processes.
const GREEDY: &str = "my $all = 'x' x (96 << 20); \
    for (1..8) { my $pid = fork; exit 7 unless defined $pid; next if $pid; sleep 100 } print length $all";

fn greedy(memory: Option<u64>, processes: Option<u32>) -> RunSpec {
    limited(spec(&["/usr/bin/perl", "-e", GREEDY]), |limits| {
        limits.memory_bytes = memory;
        limits.processes = processes;
    })
}

/// The limit of memory of each cgroup that there is.
fn memory_limits(harness: &Harness) -> Vec<String> {
    let below = |folder| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let limit = |folder: std::path::PathBuf| {
        let names = ["memory.limit_in_bytes", "memory.max"];
        names.iter().find_map(|name| std::fs::read_to_string(folder.join(name)).ok())
    };
    let folders = harness.sandbox.cgroup_folders();
    folders.into_iter().flat_map(below).filter_map(limit).map(|text| text.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_its_own_limits_whatever_the_one_before_had() {
    let harness = Harness::new();
    let small = greedy(Some(64 * MIB), Some(64));
    if level(&harness, &small, Limit::Memory) != Level::Full || level(&harness, &small, Limit::Processes) != Level::Full
    {
        return;
    }
    let large = greedy(Some(512 * MIB), Some(64));
    let few = greedy(Some(512 * MIB), Some(4));
    for turn in 0..2 {
        for (wanted, of) in [("memory", &small), ("none", &large), ("processes", &few), ("none", &large)] {
            let run = RunSpec { execution_id: format!("{wanted}-{turn}"), ..of.clone() };
            let finished = harness.run(run).await;
            match wanted {
                "memory" => {
                    let ending = finished.outcome.ending;
                    assert!(matches!(ending, Ending::OutOfMemory { .. }), "{ending:?}");
                }
                "processes" => assert_ne!(finished.outcome.ending, Ending::Exited(0)),
                _ => assert_exited(&finished, 0),
            }
            let limit = of.limits.memory_bytes.unwrap().to_string();
            let have_it = || {
                let limits = memory_limits(&harness);
                limits.len() == POOL && limits.iter().all(|one| *one == limit)
            };
            if !memory_limits(&harness).is_empty() {
                until("what waits should have the limits of the run before", have_it).await;
            }
        }
    }
}
