//! A node that goes away and comes back.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tonic::{Code, Status};

use super::serve::Stop;

/// How long a node that went away is waited for, and the pause between two looks.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(60);
const RECONNECT_PAUSE: Duration = Duration::from_millis(300);

/// How long an answer has to last for the node to be there, whether or not there was something to say.
const STEADY: Duration = Duration::from_secs(5);

/// How long a node that is away is waited for.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// When it is given up. `None`: it is there.
    give_up: Option<Instant>,
    /// Since when it answers.
    answers: Option<Instant>,
}

impl Patience {
    /// Whether the node is only away, and not for too long: the patience begins when it is first missed.
    pub(super) fn may_return(&mut self, status: &Status) -> bool {
        status.code() == Code::Unavailable && self.lasts()
    }

    /// The node has said that it goes away. Whether it is waited for.
    fn lasts(&mut self) -> bool {
        if self.answers.take().is_some_and(|since| since.elapsed() >= STEADY) {
            self.is_there();
        }
        Instant::now() < *self.give_up.get_or_insert_with(|| Instant::now() + RECONNECT_PATIENCE)
    }

    /// The node answers. It may go away again before it has said anything.
    pub(super) fn answers(&mut self) {
        self.answers = Some(Instant::now());
    }

    /// The node is there.
    pub(super) fn is_there(&mut self) {
        self.give_up = None;
    }

    /// Waits a little before a node that is away is asked again. `false`: the user asked to stop meanwhile.
    pub(super) async fn pause(&self, stop: &mut Stop) -> bool {
        if self.give_up.is_none() {
            return true;
        }
        tokio::select! {
            () = sleep(RECONNECT_PAUSE) => true,
            () = stop.asked() => false,
        }
    }
}
