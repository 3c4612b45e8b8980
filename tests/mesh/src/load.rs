//! A load of executions that goes on while things break.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
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

/// How long an execution may take to end.
const END: Duration = Duration::from_secs(180);

/// Scripts with the exit codes that they have: short and longer, with and without output.
const SCRIPTS: [(&str, i32); 5] = [
    ("echo done", 0),
    ("for i in 1 2 3; do echo $i; sleep 0.05; done", 0),
    ("exit 3", 3),
    ("sleep 0.4; echo late", 0),
    ("head -c 20000 /dev/zero | tr '\\0' x", 0),
];

/// How many executions each caller leaves under way before it waits for the oldest: an outage piles up no more.
const UNDER_WAY: usize = 10;

/// How many executions of a bounded load may be accepted before somebody waits for [`Load::more`].
const AHEAD: usize = CALLERS * 3;

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    stop: CancellationToken,
    callers: JoinSet<anyhow::Result<()>>,
    counts: Arc<Counts>,
}

/// How many executions were accepted, and how many are to be before more are waited for.
#[derive(Debug)]
struct Counts {
    accepted: AtomicUsize,
    wanted: AtomicUsize,
}

impl Load {
    /// Starts a load with this client.
    pub fn start(client: &Client) -> Self {
        Self::of(client, usize::MAX)
    }

    /// Starts one for a test that takes minutes: it is never far ahead of what is waited for. Where a machine is slow such a test
    /// takes longer, and would have so many more executions that its store gets slower too.
    pub fn bounded(client: &Client) -> Self {
        Self::of(client, AHEAD)
    }

    fn of(client: &Client, wanted: usize) -> Self {
        let counts = Arc::new(Counts { accepted: AtomicUsize::new(0), wanted: AtomicUsize::new(wanted) });
        let (stop, mut callers) = (CancellationToken::new(), JoinSet::new());
        for caller in 0..CALLERS {
            callers.spawn(call(client.clone(), caller, stop.clone(), Arc::clone(&counts)));
        }
        Self { stop, callers, counts }
    }

    /// How many executions were accepted so far.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Waits until so many more executions were accepted.
    ///
    /// # Errors
    /// When a caller failed, or none is accepted for long.
    pub async fn more(&mut self, count: usize) -> anyhow::Result<()> {
        let (target, since) = (self.accepted() + count, Instant::now());
        // One without a bound stays so.
        self.counts.wanted.fetch_max(target + AHEAD, Ordering::Relaxed);
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
        Ok(self.accepted())
    }
}

/// Asks for one execution after another, and waits for the end of each.
async fn call(client: Client, caller: usize, stop: CancellationToken, counts: Arc<Counts>) -> anyhow::Result<()> {
    let (mut number, mut under_way) = (caller, VecDeque::new());
    while !stop.is_cancelled() {
        if counts.accepted.load(Ordering::Relaxed) >= counts.wanted.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(20)).await;
            continue;
        }
        let (script, exit_code) = SCRIPTS[number % SCRIPTS.len()];
        under_way
            .push_back((surely_launch(&client, bash(script), &format!("load-{caller}-{number}")).await?, exit_code));
        counts.accepted.fetch_add(1, Ordering::Relaxed);
        number += 1;
        if under_way.len() == UNDER_WAY
            && let Some((id, exit_code)) = under_way.pop_front()
        {
            surely_end(&client, &id, exit_code).await?;
        }
        sleep(Duration::from_millis(50)).await;
    }
    for (id, exit_code) in under_way {
        surely_end(&client, &id, exit_code).await?;
    }
    Ok(())
}

/// Waits for the end of an execution, which has to be as the script has it, or told of.
async fn surely_end(client: &Client, id: &str, exit_code: i32) -> anyhow::Result<()> {
    let transcript = timeout(END, surely_follow(client, id))
        .await
        .with_context(|| format!("{id} does not end"))?
        .with_context(|| format!("following {id}"))?;
    let end = transcript.complete().with_context(|| format!("the log of {id}: {:?}", transcript.types()))?;
    let fine = match end.state() {
        ExecutionState::Completed => exit_code == 0,
        // A runner that was killed takes its scripts with it; that is told, not hidden.
        ExecutionState::Failed => true,
        _ => false,
    };
    ensure!(fine, "{id} ended as {end:?}");
    Ok(())
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
