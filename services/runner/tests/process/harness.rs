//! A sandbox in a folder of its own, and short ways to run something in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use runmesh_runner::{
    Chunk, Ending, HelperCommand, Limits, Outcome, OutputStream, ProcessConfig, ProcessSandbox, Run, RunSpec, Sandbox,
    SourceFile,
};

/// Long enough for whatever a test waits for, on any machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Harness {
    pub(crate) sandbox: ProcessSandbox,
    // Removed after the sandbox is gone.
    _root: tempfile::TempDir,
}

/// Everything that a run gave.
pub(crate) struct Finished {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) outcome: Outcome,
}

impl Harness {
    pub(crate) fn new() -> Harness {
        Harness::with(|_| {})
    }

    pub(crate) fn with(configure: impl FnOnce(&mut ProcessConfig)) -> Harness {
        let root = tempfile::tempdir().unwrap();
        let mut config = ProcessConfig { helper: helper(), ..ProcessConfig::new(root.path().join("runs")) };
        config.avoid = crate::AVOID;
        configure(&mut config);
        Harness { sandbox: ProcessSandbox::open(config).unwrap(), _root: root }
    }

    pub(crate) async fn start(&self, spec: RunSpec) -> Run {
        self.sandbox.start(spec).await.unwrap()
    }

    pub(crate) async fn run(&self, spec: RunSpec) -> Finished {
        finish(self.start(spec).await).await
    }

    /// The working folder of a run that has started, as this process reaches it.
    pub(crate) fn work(&self, run: &Run) -> PathBuf {
        let pid = run.started().pid.unwrap();
        match self.folders().as_slice() {
            [folder] => folder.join("work"),
            [] => Path::new("/proc").join(pid.to_string()).join("root/work"),
            more => panic!("which of {more:?}?"),
        }
    }

    /// The working folders that are there.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.sandbox.root()).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
    }
}

/// The program that makes the sandboxes of these tests.
pub(crate) fn helper() -> HelperCommand {
    let elsewhere = std::env::var_os(crate::ordinary::HELPER_VARIABLE);
    HelperCommand {
        program: elsewhere.unwrap_or_else(|| env!("CARGO_BIN_EXE_sandbox-helper").into()).into(),
        arguments: vec![runmesh_runner::SANDBOX_HELPER_ARGUMENT.into()],
    }
}

pub(crate) fn spec(command: &[&str]) -> RunSpec {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    RunSpec {
        execution_id: format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
        attempt: 1,
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        files: Vec::new(),
        stdin: "".into(),
        environment: BTreeMap::new(),
        limits: Limits { wall_time: Duration::from_secs(60), output_bytes: 64 * 1024 * 1024, ..Limits::default() },
        part: String::new(),
        strict: false,
        collect: None,
    }
}

pub(crate) fn bash(script: &str) -> RunSpec {
    RunSpec {
        files: vec![SourceFile { path: "main.sh".to_owned(), content: script.to_owned().into() }],
        ..spec(&["/bin/bash", "main.sh"])
    }
}

/// Takes all output, checks that the offsets have no hole, and waits for the end.
pub(crate) async fn finish(mut run: Run) -> Finished {
    let work = async {
        let (mut stdout, mut stderr, mut chunks) = (Vec::new(), Vec::new(), Vec::new());
        // Where the output begins that has not been taken yet.
        let mut starts = [None, None];
        while let Some(chunk) = run.next_chunk().await {
            let stream = match chunk.stream {
                OutputStream::Stdout => &mut stdout,
                OutputStream::Stderr => &mut stderr,
            };
            assert!(!chunk.data.is_empty() && chunk.data.len() <= 64 * 1024);
            let start = &mut starts[chunk.stream as usize];
            assert_eq!(chunk.offset, *start.get_or_insert(chunk.offset) + stream.len() as u64);
            stream.extend_from_slice(&chunk.data);
            chunks.push(chunk);
        }
        let outcome = run.wait().await;
        for (count, start, stream) in [
            (outcome.usage.stdout_bytes, starts[OutputStream::Stdout as usize], &stdout),
            (outcome.usage.stderr_bytes, starts[OutputStream::Stderr as usize], &stderr),
        ] {
            assert_eq!(count, start.unwrap_or(count) + stream.len() as u64);
        }
        Finished { stdout, stderr, chunks, outcome }
    };
    tokio::time::timeout(PATIENCE, work).await.expect("the run should end")
}

/// The next piece of output as text, which must come soon.
pub(crate) async fn next_text(run: &mut Run) -> String {
    let chunk = tokio::time::timeout(PATIENCE, run.next_chunk()).await.expect("output should come");
    String::from_utf8(chunk.expect("there should be output").data.to_vec()).unwrap()
}

pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether a process is there and not a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !matches!(stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]), Some(b'Z' | b'X') | None)
}

/// Whether a process of this group is alive.
pub(crate) fn group_is_alive(group: u32) -> bool {
    processes().into_iter().filter(|pid| is_alive(*pid)).any(|pid| group_of(pid) == Some(group))
}

fn group_of(pid: u32) -> Option<u32> {
    field(pid, 2)
}

/// The parent of a process that is there.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    field(pid, 1)
}

/// A number of a process, counted from its state.
fn field(pid: u32, place: usize) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(place)?.parse().ok()
}

pub(crate) fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Whether a process has this text in its environment.
pub(crate) fn environment_has(pid: u32, text: &str) -> bool {
    let environment = std::fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).unwrap_or_default();
    String::from_utf8_lossy(&environment).split('\0').any(|variable| variable == text)
}

/// The mark of a run's processes.
pub(crate) fn mark(spec: &RunSpec) -> String {
    format!("RUNMESH_EXECUTION_ID={}", spec.execution_id)
}

/// The processes that have a mark.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    processes().into_iter().filter(|pid| environment_has(*pid, mark)).collect()
}

#[track_caller]
pub(crate) fn assert_exited(finished: &Finished, code: i32) {
    let stderr = String::from_utf8_lossy(&finished.stderr);
    assert_eq!(finished.outcome.ending, Ending::Exited(code), "stderr: {stderr}");
}
