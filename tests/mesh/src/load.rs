//! A load of executions that goes on while things break.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use runmesh_proto::execution::{CreateExecutionRequest, ExecutionSpec, ExecutionState};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{Client, Transcript, bash};

/// How many executions are asked for at a time.
const CALLERS: usize = 4;

/// How long a call may be refused for the moment before that is a failure.
const REFUSED: Duration = Duration::from_secs(120);

/// How long an execution may take to end once the load was stopped.
const END: Duration = Duration::from_secs(180);

/// Scripts with the exit codes that they have: short and longer, with and without output.
const SCRIPTS: [(&str, i32); 5] = [
    ("echo done", 0),
    ("for i in 1 2 3; do echo $i; sleep 0.05; done", 0),
    ("exit 3", 3),
    ("sleep 0.4; echo late", 0),
    ("head -c 20000 /dev/zero | tr '\\0' x", 0),
];

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    client: Client,
    stop: CancellationToken,
    callers: JoinSet<anyhow::Result<()>>,
    accepted: Arc<Mutex<BTreeSet<String>>>,
}

impl Load {
    /// Starts a load with this client.
    pub fn start(client: &Client) -> Self {
        let (stop, accepted) = (CancellationToken::new(), Arc::default());
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (client, stop, accepted) = (client.clone(), stop.clone(), Arc::clone(&accepted));
            callers.spawn(async move {
                let mut number = caller;
                while !stop.is_cancelled() {
                    let (script, _) = SCRIPTS[number % SCRIPTS.len()];
                    let id = surely_launch(&client, bash(script), &format!("load-{caller}-{number}")).await?;
                    lock(&accepted).insert(id);
                    number += 1;
                    sleep(Duration::from_millis(50)).await;
                }
                Ok(())
            });
        }
        Self { client: client.clone(), stop, callers, accepted }
    }

    /// How many executions were accepted so far.
    pub fn accepted(&self) -> usize {
        lock(&self.accepted).len()
    }

    /// Waits until so many more executions were accepted.
    ///
    /// # Errors
    /// When a caller failed, or none is accepted for long.
    pub async fn more(&mut self, count: usize) -> anyhow::Result<()> {
        let (target, since) = (self.accepted() + count, Instant::now());
        while self.accepted() < target {
            if let Some(ended) = self.callers.try_join_next() {
                ended??;
                bail!("a caller has ended");
            }
            ensure!(since.elapsed() < REFUSED, "{} of {target} executions were accepted", self.accepted());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Stops asking and waits for the end of every execution. Returns how many there were.
    ///
    /// # Errors
    /// When one does not end, or its log is not whole, or it ended in a way that nothing explains.
    pub async fn finish(mut self) -> anyhow::Result<usize> {
        self.stop.cancel();
        while let Some(ended) = self.callers.join_next().await {
            ended??;
        }
        let accepted = lock(&self.accepted).clone();
        for id in &accepted {
            let transcript = timeout(END, surely_follow(&self.client, id))
                .await
                .with_context(|| format!("{id} does not end"))?
                .with_context(|| format!("following {id}"))?;
            let end = transcript.complete().with_context(|| format!("the log of {id}: {:?}", transcript.types()))?;
            // A runner that was killed takes its scripts with it; that is told, not hidden.
            let fine = matches!(end.state(), ExecutionState::Completed | ExecutionState::Failed);
            ensure!(fine, "{id} ended as {end:?}");
        }
        Ok(accepted.len())
    }
}

fn lock(set: &Mutex<BTreeSet<String>>) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the same call may succeed later.
fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::ResourceExhausted
    )
}

/// Asks for a run until it is accepted. The request's id makes sure that there is one.
async fn surely_launch(client: &Client, spec: ExecutionSpec, request_id: &str) -> anyhow::Result<String> {
    let since = Instant::now();
    loop {
        let mut request =
            tonic::Request::new(CreateExecutionRequest { request_id: request_id.to_owned(), spec: Some(spec.clone()) });
        request.set_timeout(Duration::from_secs(20));
        match client.executions.clone().create_execution(request).await {
            Ok(response) => {
                let execution = response.into_inner().execution.context("a response without the execution")?;
                return Ok(execution.execution_id);
            }
            Err(status) if is_transient(status.code()) && since.elapsed() < REFUSED => {
                sleep(Duration::from_millis(200)).await;
            }
            Err(status) => bail!("CreateExecution: {status:?}"),
        }
    }
}

/// Watches an execution to its end, from the last cursor again whenever the watch is cut.
async fn surely_follow(client: &Client, execution_id: &str) -> anyhow::Result<Transcript> {
    let mut seen = Transcript::default();
    loop {
        let cursor = seen.cursors().last().copied().unwrap_or_default().to_owned();
        let mut watch = match client.watch(execution_id, &cursor).await {
            Ok(watch) => watch,
            Err(status) if is_transient(status.code()) => {
                sleep(Duration::from_millis(200)).await;
                continue;
            }
            Err(status) => bail!("WatchExecution: {status:?}"),
        };
        loop {
            match watch.next().await {
                Ok(Some(message)) => seen.messages.push(message),
                Ok(None) if seen.complete().is_ok() => return Ok(seen),
                Ok(None) | Err(_) => break,
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}
