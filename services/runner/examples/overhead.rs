//! Measures the search for runtimes, what the process sandbox adds to a bare process beside what bubblewrap adds, how many
//! runs fit into a second, what an interpreter that waits saves, and what the sandboxes that wait take of memory:
//! `cargo run --release -p runmesh-runner --example overhead`.
#![allow(clippy::unwrap_used, reason = "a measurement, for developers")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use runmesh_runner::{Ending, Limits, ProcessConfig, ProcessSandbox, RunSpec, Runtimes, Sandbox, Search, SourceFile};

const RUNS: u32 = 500;
const COMMANDS: [&[&str]; 2] = [&["/bin/true"], &["/usr/bin/python3", "-c", "print(1)"]];

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
    let open = |pool: usize, name: &str| open(root.path(), pool, name, Vec::new());
    let sandbox = open(2, "latency");
    println!("scripts run {}", sandbox.isolation());
    for command in COMMANDS {
        latency(&sandbox, command).await;
    }
    drop(sandbox);
    let sandbox = open(8, "throughput");
    for command in COMMANDS {
        for at_once in [2, 8] {
            throughput(&sandbox, command, at_once).await;
        }
    }
    drop(sandbox);
    interpreters(root.path()).await;
    for with_interpreters in [false, true] {
        idle(root.path(), with_interpreters).await;
    }
}

fn open(root: &Path, pool: usize, name: &str, prepare: Vec<PathBuf>) -> Arc<ProcessSandbox> {
    let config = ProcessConfig { pool, prepare, ..ProcessConfig::new(root.join(name)) };
    Arc::new(ProcessSandbox::open(config).unwrap())
}

/// A script of one line, alone, in a sandbox, and in one in which its interpreter waited.
async fn interpreters(root: &Path) {
    let work = root.join("bare");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(work.join("main.py"), SCRIPT).unwrap();
    let (plain, waiting) = (open(root, 2, "plain", Vec::new()), open(root, 2, "waiting", vec![python()]));
    whole(&waiting).await;
    let (mut bare, mut started, mut ended) = (Vec::new(), [Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..RUNS {
        bare.push(measure(|| {
            let output = Command::new(python()).arg("main.py").current_dir(&work).output().unwrap();
            assert!(output.status.success());
        }));
        for (place, sandbox) in [&plain, &waiting].into_iter().enumerate() {
            while sandbox.prepared() < place * 2 || sandbox.ready() < 2 {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            let (until_started, until_ended, prepared) = whole(sandbox).await;
            assert_eq!(prepared, place == 1);
            started[place].push(until_started);
            ended[place].push(until_ended);
        }
    }
    println!("python3 main.py, which prints 1");
    println!("  bare, output in pipes      {}", show(bare));
    for ((what, started), ended) in ["sandbox", "prepared"].into_iter().zip(started).zip(ended) {
        println!("  {what:<8}, until started     {}", show(started));
        println!("  {what:<8}, until verdict     {}", show(ended));
    }
}

const SCRIPT: &str = "print(1)\n";

fn python() -> PathBuf {
    PathBuf::from("/usr/bin/python3").canonicalize().unwrap()
}

/// Runs the script. Returns when it had started and when it had ended, and whether its interpreter had waited.
async fn whole(sandbox: &ProcessSandbox) -> (Duration, Duration, bool) {
    let python = python();
    let files = vec![SourceFile { path: "main.py".to_owned(), content: SCRIPT.into() }];
    let spec = RunSpec { files, ..spec(&[python.to_str().unwrap(), "main.py"]) };
    let since = Instant::now();
    let mut run = sandbox.start(spec).await.unwrap();
    let (started, prepared) = (since.elapsed(), run.started().prepared);
    while run.next_chunk().await.is_some() {}
    assert_eq!(run.outcome().await.ending, Ending::Exited(0));
    let ended = since.elapsed();
    run.cleaned().await;
    (started, ended, prepared)
}

/// The memory of sandboxes that wait.
async fn idle(root: &Path, with_interpreters: bool) {
    let (prepare, what) = if with_interpreters { (vec![python()], " with a Python") } else { (Vec::new(), "") };
    let mut before = None;
    for pool in [0, 1, 8, 32] {
        let sandbox = open(root, pool, "idle", prepare.clone());
        if with_interpreters {
            whole(&sandbox).await;
        }
        while sandbox.ready() < pool || with_interpreters && sandbox.prepared() < pool {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let bytes = memory_of_children();
        let more = before.map_or_else(String::new, |(count, bytes_before)| {
            let each = (bytes.saturating_sub(bytes_before)) / (pool - count) as u64;
            format!(", {} KiB for each more", each >> 10)
        });
        println!("{pool} sandboxes that wait{what}: {} KiB{more}", bytes >> 10);
        before = Some((pool, bytes));
    }
}

async fn latency(sandbox: &ProcessSandbox, command: &[&str]) {
    let bubblewrap = Command::new("bwrap").arg("--version").output().is_ok();
    let (mut bare, mut piped, mut wrapped) = (Vec::new(), Vec::new(), Vec::new());
    let (mut started, mut whole) = (Vec::new(), Vec::new());
    // In turns, so that all see the same machine.
    for _ in 0..RUNS {
        bare.push(measure(|| {
            let mut bare = Command::new(command[0]);
            assert!(bare.args(&command[1..]).stdout(Stdio::null()).status().unwrap().success());
        }));
        piped.push(measure(|| {
            assert!(Command::new(command[0]).args(&command[1..]).output().unwrap().status.success());
        }));
        if bubblewrap {
            wrapped.push(measure(|| assert!(bubblewrapped(command).output().unwrap().status.success())));
        }
        // The pool has been filled again by now if runs come at this pace.
        let since = Instant::now();
        let mut run = sandbox.start(spec(command)).await.unwrap();
        started.push(since.elapsed());
        while run.next_chunk().await.is_some() {}
        assert_eq!(run.outcome().await.ending, Ending::Exited(0));
        whole.push(since.elapsed());
        run.cleaned().await;
    }
    println!("{}", command.join(" "));
    println!("  bare process           {}", show(bare));
    println!("  bare, output in pipes  {}", show(piped));
    if bubblewrap {
        println!("  bubblewrap             {}", show(wrapped));
    }
    println!("  sandbox, until started {}", show(started));
    println!("  sandbox, until verdict {}", show(whole));
}

async fn throughput(sandbox: &Arc<ProcessSandbox>, command: &'static [&'static str], at_once: u32) {
    let bare = {
        let since = Instant::now();
        let threads = (0..at_once).map(|_| {
            std::thread::spawn(move || {
                for _ in 0..RUNS / at_once {
                    assert!(Command::new(command[0]).args(&command[1..]).output().unwrap().status.success());
                }
            })
        });
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
        f64::from(RUNS / at_once * at_once) / since.elapsed().as_secs_f64()
    };
    let since = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..at_once {
        let sandbox = Arc::clone(sandbox);
        tasks.spawn(async move {
            for _ in 0..RUNS / at_once {
                let mut run = sandbox.start(spec(command)).await.unwrap();
                while run.next_chunk().await.is_some() {}
                assert_eq!(run.outcome().await.ending, Ending::Exited(0));
            }
        });
    }
    tasks.join_all().await;
    let own = f64::from(RUNS / at_once * at_once) / since.elapsed().as_secs_f64();
    println!("{}, {at_once} at once: bare {bare:.0}/s, sandbox {own:.0}/s", command.join(" "));
}

/// A command in bubblewrap, isolated about as the sandbox does it, without cgroup, seccomp and Landlock.
fn bubblewrapped(command: &[&str]) -> Command {
    let mut wrapped = Command::new("bwrap");
    wrapped.args(["--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--ro-bind", "/usr", "/usr"]);
    for link in ["bin", "lib", "lib64", "sbin"] {
        wrapped.args(["--symlink", &format!("usr/{link}"), &format!("/{link}")]);
    }
    wrapped.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", "/work", "--chdir", "/work"]);
    wrapped.args(["--cap-drop", "ALL", "--uid", "1000", "--gid", "1000", "--unshare-user", "--"]);
    wrapped.args(command);
    wrapped
}

/// The memory of this process's descendants: what they have alone, and their part of what they share.
fn memory_of_children() -> u64 {
    fn add(pid: u32, sum: &mut u64) {
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
                let text = std::fs::read_to_string(format!("/proc/{child}/smaps_rollup")).unwrap_or_default();
                let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
                let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
                *sum += kib.unwrap_or(0) << 10;
                add(child, sum);
            }
        }
    }
    let mut sum = 0;
    add(std::process::id(), &mut sum);
    sum
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

fn spec(command: &[&str]) -> RunSpec {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    RunSpec {
        execution_id: format!("measured-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        attempt: 1,
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        files: Vec::new(),
        stdin: "".into(),
        environment: Default::default(),
        limits: Limits { wall_time: Duration::from_secs(10), cpu_millis: Some(1000), ..Limits::default() },
        part: String::new(),
        strict: false,
        collect: None,
    }
}
