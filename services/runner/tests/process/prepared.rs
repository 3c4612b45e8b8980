//! Interpreters that wait for their scripts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runmesh_runner::{Ending, RunSpec, SourceFile};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{
    Finished, Harness, assert_exited, bash, environment_has, finish, is_alive, parent, processes, spec, until,
};

#[path = "probes.rs"]
mod probes;

use probes::{probes, pythons};

/// How many wait in these tests.
const POOL: usize = 2;

fn program() -> PathBuf {
    PathBuf::from("/usr/bin/python3").canonicalize().unwrap()
}

fn python_of(program: &Path, script: &str) -> RunSpec {
    let files = vec![SourceFile { path: "main.py".to_owned(), content: script.to_owned().into() }];
    RunSpec { files, ..spec(&[program.to_str().unwrap(), "main.py"]) }
}

fn python(script: &str) -> RunSpec {
    python_of(&program(), script)
}

/// A sandbox in which Pythons wait, and the helper that made them.
struct Waiting {
    harness: Harness,
    helper: u32,
}

impl Waiting {
    async fn new() -> Waiting {
        Waiting::of(&program(), Vec::new()).await
    }

    async fn of(program: &Path, readable: Vec<PathBuf>) -> Waiting {
        let harness = Harness::with(|config| {
            config.prepare = vec![program.to_owned()];
            config.readable = readable;
            config.pool = POOL;
        });
        assert_eq!(harness.sandbox.prepared(), 0, "nothing waits before it is known that it could be used");
        let run = harness.start(python_of(program, "import time; time.sleep(1000)")).await;
        assert!(!run.started().prepared);
        let helper = parent(parent(run.started().pid.unwrap()).unwrap()).unwrap();
        drop(run);
        let waiting = Waiting { harness, helper };
        waiting.settle().await;
        waiting
    }

    /// Until one waits in each sandbox.
    async fn settle(&self) {
        until("interpreters should wait", || self.harness.sandbox.prepared() == POOL).await;
    }

    /// Runs it, and says whether an interpreter had waited for it.
    async fn run(&self, spec: RunSpec) -> (Finished, bool) {
        self.settle().await;
        let run = self.harness.start(spec).await;
        let prepared = run.started().prepared;
        (finish(run).await, prepared)
    }

    async fn run_prepared(&self, spec: RunSpec) -> Finished {
        let (finished, prepared) = self.run(spec).await;
        assert!(prepared, "it should have had an interpreter that waited");
        finished
    }

    /// The interpreters that wait.
    fn processes(&self) -> Vec<u32> {
        waiting(self.helper)
    }
}

fn waiting(helper: u32) -> Vec<u32> {
    let below = |pid: &u32| parent(*pid).and_then(parent) == Some(helper);
    let waits = |pid: &u32| environment_has(*pid, "PYTHONPATH=/.runmesh") && is_alive(*pid);
    processes().into_iter().filter(below).filter(waits).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interpreter_that_waited_is_as_one_just_started() {
    if crate::AVOID.namespaces {
        return;
    }
    let mut compared = 0;
    for (program, readable) in pythons().await {
        let plain = Harness::with(|config| config.readable = readable.clone());
        // A folder of root's home can't be shown by a helper that is another user.
        if !plain.sandbox.refusals().is_empty() {
            continue;
        }
        compared += 1;
        let waiting = Waiting::of(&program, readable).await;
        for probe in probes(&program) {
            let expected = plain.run(probe.clone()).await;
            let finished = waiting.run_prepared(probe.clone()).await;
            let script = text(&probe.files[0].content);
            let (stdout, stderr) = (text(&finished.stdout), text(&finished.stderr));
            for (line, wanted) in stdout.lines().zip(text(&expected.stdout).lines()) {
                assert_eq!(line, wanted, "{} {script}", program.display());
            }
            assert_eq!(stdout, text(&expected.stdout), "{} {script}", program.display());
            assert_eq!(stderr, text(&expected.stderr), "{} {script}", program.display());
            assert_eq!(finished.outcome.ending, expected.outcome.ending, "{} {script}", program.display());
            // What is missing is told with the names of this sandbox's own folders.
            let held = |finished: &Finished| {
                let lines = finished.outcome.receipt.iter();
                lines
                    .map(|line| (line.limit, line.level, line.enforced.clone(), line.mechanism.clone()))
                    .collect::<Vec<_>>()
            };
            assert_eq!(held(&finished), held(&expected));
        }
    }
    assert!(compared > 0, "there should be a Python that can be run");
}

#[tokio::test]
async fn no_two_runs_share_an_interpreter() {
    if crate::AVOID.namespaces {
        return;
    }
    let waiting = Waiting::new().await;
    let script = "import builtins, os, random, sys\n\
        found = getattr(builtins, 'mark', 'clean'), getattr(sys, 'mark', 'clean'), os.path.exists('/tmp/mark')\n\
        print(found, hash('text'), random.random())\n\
        builtins.mark = sys.mark = 'dirty'\nopen('/tmp/mark', 'w')\nos.environ['PYTHONMARK'] = 'dirty'\ninput()\n";
    let mut seen = BTreeSet::new();
    for number in 0..4 {
        waiting.settle().await;
        let before = waiting.processes();
        assert_eq!(before.len(), POOL);
        let run = waiting.harness.start(RunSpec { stdin: "\n".into(), ..python(script) }).await;
        let pid = run.started().pid.unwrap();
        assert!(run.started().prepared && before.contains(&pid), "{pid} should be one of {before:?}");
        let finished = finish(run).await;
        assert_exited(&finished, 0);
        let words = text(&finished.stdout);
        let random =
            words.strip_prefix("('clean', 'clean', False) ").unwrap_or_else(|| panic!("run {number}: {words}"));
        for one in random.split_whitespace() {
            assert!(seen.insert(one.to_owned()), "{one} was there before run {number}");
        }
        assert!(seen.insert(pid.to_string()), "{pid} was there before run {number}");
        assert!(!is_alive(pid));
    }
}

#[tokio::test]
async fn only_a_run_that_would_come_to_the_same_point_has_one() {
    let waits = !crate::AVOID.namespaces;
    let harness = Harness::with(|config| config.prepare = vec![program()]);
    let script = "import sys; print(sys.argv)";
    let other_file = |path: &str| {
        let mut spec = python(script);
        spec.files.push(SourceFile { path: path.to_owned(), content: "".into() });
        spec
    };
    let variable = |name: &str, value: &str| {
        let environment = [(name.to_owned(), value.to_owned())].into();
        RunSpec { environment, ..python(script) }
    };
    let mut little = python(script);
    little.limits.memory_bytes = Some(48 << 20);
    let mut renamed = python(script);
    renamed.files[0].path = "other.py".to_owned();
    renamed.command[1] = "other.py".to_owned();
    let mut option = python(script);
    option.command.insert(1, "-u".to_owned());
    let mut by_folder = python(script);
    by_folder.command[1] = "./main.py".to_owned();
    let long = RunSpec { environment: [("LONG".to_owned(), "x".repeat(70_000))].into(), ..python(script) };
    for (spec, prepared) in [
        (variable("GREETING", "hello"), true),
        (variable("PYTHONHASHSEED", "0"), false),
        (variable("LANG", "C"), false),
        (variable("HOME", "/tmp"), false),
        (other_file(".local/lib/x"), false),
        (other_file("x.local/lib/x"), true),
        (little, false),
        (renamed, false),
        (option, false),
        (by_folder, false),
        (long, false),
        (bash("echo \"['main.sh']\""), false),
        (python(script), true),
    ] {
        // Each time those for the usual start wait.
        assert_exited(&harness.run(python("print('usual')")).await, 0);
        let settled = || harness.sandbox.ready() == POOL && harness.sandbox.prepared() == if waits { POOL } else { 0 };
        until("the pool should be full again", settled).await;
        let (command, variables) = (spec.command.clone(), spec.environment.keys().cloned().collect::<Vec<_>>());
        let run = harness.start(spec).await;
        assert_eq!(run.started().prepared, prepared && waits, "{command:?} {variables:?}");
        let finished = finish(run).await;
        assert_exited(&finished, 0);
        let name = command.iter().find(|part| part.ends_with(".py") || part.ends_with(".sh")).unwrap();
        assert_eq!(text(&finished.stdout), format!("['{name}']\n"));
    }
}

#[tokio::test]
async fn one_that_is_no_use_leaves_nothing_to_the_script_that_comes_instead() {
    if crate::AVOID.namespaces {
        return;
    }
    let waiting = Waiting::new().await;
    let list = "for one in /proc/[0-9]*; do read -r name < $one/comm; echo $name; done; ls /tmp | wc -l";
    let mut spec = bash(list);
    // The first process of the sandbox is not counted.
    spec.limits.processes = Some(3);
    let before = waiting.processes();
    let (finished, prepared) = waiting.run(spec.clone()).await;
    assert_exited(&finished, 0);
    assert!(!prepared);
    assert_eq!(
        text(&finished.stdout),
        "sandbox-init
bash
0
"
    );
    until("it should be gone", || before.iter().any(|pid| !is_alive(*pid))).await;
    if !waiting.harness.sandbox.cgroup_folders().is_empty() {
        let alone = Harness::new().run(spec).await.outcome.usage.peak_memory_bytes.unwrap();
        let peak = finished.outcome.usage.peak_memory_bytes.unwrap();
        assert!(peak < alone + (2 << 20), "{peak} bytes with it, {alone} without");
    }
}

#[tokio::test]
async fn one_that_died_or_hangs_is_not_missed() {
    if crate::AVOID.namespaces {
        return;
    }
    let waiting = Waiting::new().await;
    for signal in [Signal::KILL, Signal::STOP] {
        waiting.settle().await;
        let all = waiting.processes();
        assert_eq!(all.len(), POOL);
        for pid in &all {
            kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
        }
        until("they should be hit", || all.iter().all(|pid| !is_alive(*pid) || is_stopped(*pid))).await;
        let (finished, prepared) = waiting.run(python("print('here')")).await;
        assert_exited(&finished, 0);
        assert!(!prepared, "it should have been started plainly");
        assert_eq!(
            (&*finished.stdout, &*finished.stderr),
            (
                &b"here
"[..],
                &b""[..]
            )
        );
        // The next ones are as before.
        waiting.harness.run(python("print('here')")).await;
        until("those should be gone", || all.iter().all(|pid| !is_alive(*pid))).await;
        assert_eq!(
            waiting.run_prepared(python("print('there')")).await.stdout,
            b"there
"
        );
    }
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

#[tokio::test]
async fn what_ends_a_script_ends_one_that_had_waited() {
    if crate::AVOID.namespaces {
        return;
    }
    let waiting = Waiting::new().await;
    let plain = Harness::new();
    let limited = |script: &str, limit: fn(&mut runmesh_runner::Limits)| {
        let mut spec = python(script);
        limit(&mut spec.limits);
        spec
    };
    let specs = [
        limited(
            "x = []
while True: x.append(bytearray(1 << 20))",
            |limits| limits.memory_bytes = Some(96 << 20),
        ),
        limited("while True: pass", |limits| limits.cpu_time = Some(Duration::from_secs(1))),
        limited("while True: print('x' * 1000)", |limits| limits.output_bytes = 100_000),
        limited(
            "import time
time.sleep(1000)",
            |limits| limits.wall_time = Duration::from_secs(1),
        ),
        limited(
            "import os
while True: os.fork()",
            |limits| limits.processes = Some(10),
        ),
        limited("open('x', 'wb').write(bytes(2 << 20))", |limits| limits.file_bytes = Some(1 << 20)),
        limited("open('x', 'wb').write(bytes(9 << 20))", |limits| limits.disk_bytes = Some(8 << 20)),
        limited(
            "import resource
for name in ['NOFILE', 'CPU', 'FSIZE', 'CORE']:
                 kind = getattr(resource, 'RLIMIT_' + name)
                 soft, hard = resource.getrlimit(kind)
                 assert hard >= 0, name
                 try: resource.setrlimit(kind, (soft, hard + 1))
                 except ValueError: print(name, 'holds')
",
            |limits| {
                limits.cpu_time = Some(Duration::from_secs(20));
                limits.file_bytes = Some(1 << 20);
            },
        ),
    ];
    for spec in specs {
        let expected = plain.run(spec.clone()).await.outcome;
        let finished = waiting.run_prepared(spec.clone()).await;
        let ending = &finished.outcome.ending;
        let words = format!("{ending:?}, not {:?}: {}", expected.ending, text(&spec.files[0].content));
        assert_eq!(std::mem::discriminant(ending), std::mem::discriminant(&expected.ending), "{words}");
        match &ending {
            Ending::Exited(0) => assert_eq!(text(&finished.stdout).lines().count(), 4, "{words}"),
            Ending::Exited(code) => assert_eq!(expected.ending, Ending::Exited(*code), "{words}"),
            Ending::TimedOut => {
                let wall = finished.outcome.usage.wall;
                assert!(wall >= Duration::from_secs(1), "{wall:?}: the time before it woke does not count");
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn those_that_wait_end_with_their_sandboxes() {
    if crate::AVOID.namespaces {
        return;
    }
    let waiting = Waiting::new().await;
    let all = waiting.processes();
    assert_eq!(all.len(), POOL);
    drop(waiting);
    assert_eq!(all.into_iter().filter(|pid| is_alive(*pid)).collect::<Vec<_>>(), [0; 0]);
}

#[tokio::test]
async fn an_interpreter_that_does_not_come_to_wait_is_left_alone() {
    // Runs scripts, but knows nothing of waiting.
    let program = PathBuf::from("/bin/bash").canonicalize().unwrap();
    let harness = Harness::with(|config| config.prepare = vec![program.clone()]);
    let mut spec = bash("echo fine");
    spec.command[0] = program.to_str().unwrap().to_owned();
    for attempt in 1..4 {
        let finished = harness.run(RunSpec { attempt, ..spec.clone() }).await;
        assert_exited(&finished, 0);
        assert_eq!(
            finished.stdout,
            b"fine
"
        );
        until("the pool should be full", || harness.sandbox.ready() == 2).await;
        assert_eq!(harness.sandbox.prepared(), 0);
    }
}
