//! A script that runs: the handle for its owner, and the other end for the backend that supervises it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{Chunk, Ending, Outcome, Started, Usage};

/// What the owner of a run wants of it. It only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Demand {
    /// Let it run.
    #[default]
    Run,
    /// End it: politely at first.
    Cancel,
    /// End it at once: nobody waits for it any more.
    Kill,
}

/// A script that runs. Dropping it kills the script and removes what was made for it.
#[derive(Debug)]
pub struct Run {
    started: Started,
    output: mpsc::Receiver<Chunk>,
    outcome: oneshot::Receiver<Outcome>,
    cleaned: oneshot::Receiver<()>,
    canceller: Canceller,
}

/// The supervising backend's end of a [`Run`].
#[derive(Debug)]
pub struct RunSide {
    /// Takes the output. Full: the script must wait. Closed: nobody wants the output any more.
    pub output: mpsc::Sender<Chunk>,
    /// What the owner wants.
    pub demand: watch::Receiver<Demand>,
    /// Takes the outcome, after `output` has been dropped.
    pub outcome: oneshot::Sender<Outcome>,
    /// Dropped once everything that was made for the script is gone.
    pub cleaned: oneshot::Sender<()>,
}

/// Cancels a run. Can be cloned and kept anywhere; harmless after the end.
#[derive(Clone, Debug)]
pub struct Canceller(Arc<watch::Sender<Demand>>);

impl Canceller {
    /// Asks for the end of the script: SIGTERM, a grace period, SIGKILL. Returns at once; the outcome tells.
    pub fn cancel(&self) {
        self.demand(Demand::Cancel);
    }

    fn demand(&self, demand: Demand) {
        self.0.send_if_modified(|current| {
            let grows = demand > *current;
            *current = demand.max(*current);
            grows
        });
    }
}

impl Run {
    /// Makes a run and the end of it that its backend keeps. At most `buffer` chunks wait for the owner.
    pub fn new(started: Started, buffer: usize) -> (Run, RunSide) {
        let (output_tx, output) = mpsc::channel(buffer.max(1));
        let (outcome_tx, outcome) = oneshot::channel();
        let (cleaned_tx, cleaned) = oneshot::channel();
        let (demand_tx, demand) = watch::channel(Demand::Run);
        let canceller = Canceller(Arc::new(demand_tx));
        let side = RunSide { output: output_tx, demand, outcome: outcome_tx, cleaned: cleaned_tx };
        (Run { started, output, outcome, cleaned, canceller }, side)
    }

    /// What is known since the start.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// The next piece of output; `None` once all of it has been given and the script has ended. A script that writes
    /// faster than this is called waits. Cancel-safe.
    pub async fn next_chunk(&mut self) -> Option<Chunk> {
        self.output.recv().await
    }

    /// A handle that cancels this run.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Waits for the end. Output that was not taken by then is discarded, so take it first: see [`Run::next_chunk`]. What
    /// was made for the script may be there for a moment longer: see [`Run::cleaned`].
    pub async fn outcome(&mut self) -> Outcome {
        self.output.close();
        (&mut self.outcome).await.unwrap_or_else(|_| Outcome {
            ending: Ending::Failed { reason: "the supervision of the script ended before the script".to_owned() },
            usage: Usage::default(),
            receipt: Vec::new(),
            collected: Vec::new(),
        })
    }

    /// Waits until everything that was made for the script is gone.
    pub async fn cleaned(mut self) {
        // Nothing is ever sent: the other end is dropped.
        let _ = (&mut self.cleaned).await;
    }

    /// Waits for the end, and until everything that was made for the script is gone.
    pub async fn wait(mut self) -> Outcome {
        let outcome = self.outcome().await;
        self.cleaned().await;
        outcome
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.canceller.demand(Demand::Kill);
    }
}
