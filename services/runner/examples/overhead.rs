//! Measures the search for runtimes, and what the process sandbox adds to a bare process:
//! `cargo run --release -p runmesh-runner --example overhead`.
#![allow(clippy::unwrap_used, reason = "a measurement, for developers")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use runmesh_runner::{Ending, Limits, ProcessConfig, ProcessSandbox, RunSpec, Runtimes, Sandbox, Search};

const RUNS: u32 = 500;

fn main() {
    runmesh_runner::run_sandbox_helper_if_asked();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(measure_all());
}

async fn measure_all() {
    let root = tempfile::tempdir().unwrap();
    let search = Search {
        path: std::env::var_os("PATH").unwrap_or_default(),
        home: std::env::home_dir(),
        registry: None,
        cache: Some(root.path().join("runtimes.toml")),
    };
    for what in ["first", "remembered"] {
        let since = Instant::now();
        let found = Runtimes::discover(&search).await.unwrap().list().len();
        println!("{found} runtimes, {what}: {:.3?}", since.elapsed());
    }
    let sandbox = ProcessSandbox::open(ProcessConfig::new(root.path().join("runs"))).unwrap();
    for command in [&["/bin/true"][..], &["/usr/bin/python3", "-c", "print(1)"]] {
        let (mut bare, mut piped, mut started, mut whole) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        // In turns, so that all see the same machine.
        for number in 0..RUNS {
            bare.push(measure(|| {
                let mut bare = Command::new(command[0]);
                assert!(bare.args(&command[1..]).stdout(Stdio::null()).status().unwrap().success());
            }));
            piped.push(measure(|| {
                assert!(Command::new(command[0]).args(&command[1..]).output().unwrap().status.success());
            }));
            let since = Instant::now();
            let mut run = sandbox.start(spec(command, number)).await.unwrap();
            started.push(since.elapsed());
            while run.next_chunk().await.is_some() {}
            assert_eq!(run.wait().await.ending, Ending::Exited(0));
            whole.push(since.elapsed());
        }
        println!("{}", command.join(" "));
        println!("  bare process          {}", show(bare));
        println!("  bare, output in pipes {}", show(piped));
        println!("  sandbox, until started {}", show(started));
        println!("  sandbox, until verdict {}", show(whole));
    }
}

fn measure(work: impl FnOnce()) -> Duration {
    let since = Instant::now();
    work();
    since.elapsed()
}

fn show(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100];
    format!("p50 {:>9.3?}  p99 {:>9.3?}", at(50), at(99))
}

fn spec(command: &[&str], number: u32) -> RunSpec {
    RunSpec {
        execution_id: format!("measured-{number}"),
        attempt: 1,
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        files: Vec::new(),
        stdin: "".into(),
        environment: Default::default(),
        limits: Limits { wall_time: Duration::from_secs(10), output_bytes: 1024 * 1024, ..Limits::default() },
        part: String::new(),
        strict: false,
        collect: None,
        readable: Vec::new(),
    }
}
