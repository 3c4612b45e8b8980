//! A sandbox in a folder of its own, and short ways to run something in it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
pub(crate) use runmesh_runner::conformance::{
    Finished, PATIENCE, assert_exited, bash, finish, finish_rest, limited, next_text, spec,
};
use runmesh_runner::{HelperCommand, Limit, Limits, ProcessConfig, ProcessSandbox, Run, RunSpec, Sandbox, conformance};

/// Names the version of cgroups that has to be used here, so that these tests don't make do without.
const CGROUPS_VARIABLE: &str = "MESH_TEST_CGROUPS";

pub(crate) struct Harness {
    pub(crate) sandbox: ProcessSandbox,
    // Removed after the sandbox is gone.
    _root: tempfile::TempDir,
}

impl Harness {
    pub(crate) fn new() -> Harness {
        Harness::with(|_| {})
    }

    pub(crate) fn with(configure: impl FnOnce(&mut ProcessConfig)) -> Harness {
        let root = tempfile::tempdir().unwrap();
        let mut config = ProcessConfig { helper: helper(), ..ProcessConfig::new(root.path().join("runs")) };
        config.avoid = crate::AVOID;
        // The machine may be slow: a script that obeys has to have the time for it.
        config.cancel_grace = Duration::from_secs(8);
        configure(&mut config);
        let avoids_cgroups = config.avoid.cgroups;
        let sandbox = ProcessSandbox::open(config).unwrap();
        if let Some(version) = std::env::var(CGROUPS_VARIABLE).ok().filter(|_| !avoids_cgroups) {
            let receipt = sandbox.receipt(&Limits::default());
            let line = receipt.iter().find(|line| line.limit == Limit::Memory).unwrap();
            assert!(line.mechanism.contains(&format!("cgroup v{version}")), "{line:?}");
        }
        Harness { sandbox, _root: root }
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

#[async_trait]
impl conformance::Harness for Harness {
    async fn new() -> Harness {
        Harness::new()
    }

    fn sandbox(&self) -> &dyn Sandbox {
        &self.sandbox
    }

    async fn left(&self, execution_id: &str) -> Vec<String> {
        let folders = self.folders().into_iter().map(|folder| folder.display().to_string());
        let processes = marked(&mark_of(execution_id)).into_iter();
        let prefix = format!("{execution_id}-");
        folders.filter(|path| path.contains(&prefix)).chain(processes.map(|pid| format!("process {pid}"))).collect()
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
    mark_of(&spec.execution_id)
}

fn mark_of(execution_id: &str) -> String {
    format!("RUNMESH_EXECUTION_ID={execution_id}")
}

/// The processes that have a mark.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    processes().into_iter().filter(|pid| environment_has(*pid, mark)).collect()
}
