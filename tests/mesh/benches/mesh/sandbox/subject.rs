//! What is run, in each of the ways.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use runmesh_mesh_tests::Client;
use runmesh_proto::execution::{ExecutionSpec, ListRuntimesRequest};
use runmesh_runner::{Limits, RunSpec, SourceFile};
use tempfile::TempDir;
use tokio::process::Command;

/// The runtimes: the smallest program that there is, and Python.
pub(super) const REGISTRY: &str = r#"
[[language]]
name = "true"
display = "nothing"
package = "coreutils"
file_name = "main.txt"
extensions = ["txt"]
executables = ["true"]
version = ["--version"]
command = ["{program}", "{file}"]

[[language]]
name = "python"
display = "Python"
package = "python3"
file_name = "main.py"
extensions = ["py"]
executables = ["python3", "python3.#"]
version = ["--version"]
command = ["{program}", "{file}"]
prepared = "python"
prepared_since = "3.8"
"#;

pub(super) struct Subject {
    pub(super) name: &'static str,
    language: &'static str,
    script: &'static str,
    /// The program by its real path, and its arguments.
    command: Vec<String>,
    file_name: String,
    /// With the script, for those that run it bare.
    folder: TempDir,
}

impl Subject {
    pub(super) async fn all(client: &Client) -> anyhow::Result<[Self; 2]> {
        Ok([
            Self::of(client, "/bin/true", "true", "nothing\n").await?,
            Self::of(client, "python print", "python", "print(1)\n").await?,
        ])
    }

    async fn of(
        client: &Client,
        name: &'static str,
        language: &'static str,
        script: &'static str,
    ) -> anyhow::Result<Self> {
        let runtimes = client.executions.clone().list_runtimes(ListRuntimesRequest {}).await?.into_inner().runtimes;
        let fits = |runtime: &runmesh_proto::execution::Runtime| runtime.language == language && runtime.default;
        let runtime = runtimes.into_iter().find(fits).with_context(|| format!("there is no {language}"))?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join(&runtime.file_name), script)?;
        let command = runtime.command.iter().map(|part| part.replace("{file}", &runtime.file_name)).collect();
        Ok(Self { name, language, script, command, file_name: runtime.file_name, folder })
    }

    /// Whether its interpreter can be started in advance.
    pub(super) fn is_prepared(&self) -> bool {
        self.language == "python"
    }

    /// Its interpreter, by its real path.
    pub(super) fn program(&self) -> PathBuf {
        PathBuf::from(&self.command[0])
    }

    pub(super) fn bare(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).current_dir(self.folder.path());
        command
    }

    /// Isolated about as the sandbox does it, without cgroup, seccomp and Landlock.
    pub(super) fn in_bubblewrap(&self) -> Command {
        let mut wrapped = Command::new("bwrap");
        wrapped.args([
            "--unshare-all",
            "--die-with-parent",
            "--new-session",
            "--clearenv",
            "--ro-bind",
            "/usr",
            "/usr",
        ]);
        for link in ["bin", "lib", "lib64", "sbin"] {
            wrapped.args(["--symlink", &format!("usr/{link}"), &format!("/{link}")]);
        }
        wrapped.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
        wrapped.arg("--bind").arg(self.folder.path()).args(["/work", "--chdir", "/work"]);
        wrapped.args(["--cap-drop", "ALL", "--uid", "1000", "--gid", "1000", "--unshare-user", "--"]);
        wrapped.args(&self.command);
        wrapped
    }

    pub(super) fn spec(&self) -> RunSpec {
        RunSpec {
            execution_id: uuid::Uuid::now_v7().to_string(),
            attempt: 1,
            part: String::new(),
            command: self.command.clone(),
            files: vec![SourceFile { path: self.file_name.clone(), content: self.script.into() }],
            stdin: "".into(),
            environment: Default::default(),
            limits: Limits { wall_time: Duration::from_secs(10), cpu_millis: Some(1000), ..Limits::default() },
            strict: false,
            collect: None,
        }
    }

    pub(super) fn execution(&self) -> ExecutionSpec {
        ExecutionSpec { language: self.language.to_owned(), script: self.script.to_owned(), ..ExecutionSpec::default() }
    }
}
