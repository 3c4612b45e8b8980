//! One process of the mesh, kept running.

use std::{path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long a process may take until it is ready. It may have to wait for the lease of an earlier run.
const START: Duration = Duration::from_secs(60);

/// How long a process may take to end in an orderly way.
const END: Duration = Duration::from_secs(30);

/// How long to wait before a process that ended is started again.
const AGAIN: Duration = Duration::from_millis(500);

/// The variable that says where the gateway listens.
pub(super) const HTTP_LISTEN: &str = "RUNMESH_HTTP__LISTEN";

/// How to start a process.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) variables: Vec<(String, String)>,
}

/// What a process prints when it is ready.
#[derive(Deserialize)]
struct Ready {
    grpc: String,
    http: Option<String>,
}

/// A process that runs.
pub(super) struct Process {
    plan: Plan,
    child: Child,
    pid: u32,
    // Closed, it tells the process to end, also where this one is killed.
    stdin: Option<ChildStdin>,
    // Read for ever: the process must not wait for its reader.
    _stdout: Lines<BufReader<ChildStdout>>,
    ready: Ready,
}

impl Process {
    /// Starts a process and waits until it is ready.
    pub(super) async fn start(plan: Plan) -> anyhow::Result<Self> {
        Self::start_at(plan, "127.0.0.1:0").await
    }

    async fn start_at(plan: Plan, grpc: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(&plan.program)
            .args(&plan.arguments)
            .args(["--grpc", grpc])
            .envs(plan.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't start {}", plan.name))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("{} has no pipes", plan.name);
        };
        let name = plan.name.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("{name:<13} {line}");
            }
        });
        let mut stdout = BufReader::new(stdout).lines();
        let line = timeout(START, stdout.next_line())
            .await
            .with_context(|| format!("{} was not ready in {} s", plan.name, START.as_secs()))??
            .with_context(|| format!("{} ended before it was ready", plan.name))?;
        let ready = serde_json::from_str(&line).with_context(|| format!("{} said {line:?}", plan.name))?;
        let pid = child.id().unwrap_or_default();
        Ok(Self { plan, child, pid, stdin: Some(stdin), _stdout: stdout, ready })
    }

    pub(super) fn name(&self) -> &str {
        &self.plan.name
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// The address of its gRPC server.
    pub(super) fn grpc(&self) -> &str {
        &self.ready.grpc
    }

    /// The address of its gateway.
    pub(super) fn http(&self) -> Option<&str> {
        self.ready.http.as_deref()
    }

    /// Starts it again at the same address whenever it ends, and tells; until `ended`, when it is ended in an orderly way.
    pub(super) async fn supervise(mut self, restarted: Arc<dyn Fn(&Self) + Send + Sync>, ended: CancellationToken) {
        loop {
            tokio::select! {
                () = ended.cancelled() => break,
                status = self.child.wait() => match status {
                    Ok(status) => tracing::warn!(process = self.plan.name, %status, "ended by itself"),
                    Err(error) => tracing::warn!(process = self.plan.name, %error, "can't be waited for"),
                },
            }
            let Some(again) = ended.run_until_cancelled(self.start_again()).await else { return };
            self = again;
            restarted(&self);
        }
        drop(self.stdin.take());
        if timeout(END, self.child.wait()).await.is_err() {
            tracing::warn!(process = self.plan.name, "did not end in time; killed");
            let _ = self.child.kill().await;
        }
    }

    async fn start_again(self) -> Self {
        let Self { mut plan, ready, .. } = self;
        if let Some(http) = ready.http.as_deref().and_then(|http| http.strip_prefix("http://")) {
            plan.variables.retain(|(name, _)| name != HTTP_LISTEN);
            plan.variables.push((HTTP_LISTEN.to_owned(), http.to_owned()));
        }
        loop {
            sleep(AGAIN).await;
            match Self::start_at(plan.clone(), &ready.grpc).await {
                Ok(process) => return process,
                Err(error) => eprintln!("{:<13} can't be started again: {error:#}; trying again", plan.name),
            }
        }
    }
}
