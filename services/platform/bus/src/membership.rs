//! Whether a member of a group still is one, as far as the process can know.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::sleep;

/// How often a member that is in doubt is looked at again.
const LOOK: Duration = Duration::from_millis(10);

/// Says whether records that were delivered may be begun.
///
/// A process that stood still (a suspended machine, SIGSTOP, a starved container) goes on where it was, and knows of
/// nothing. Meanwhile its lanes may have become another member's. So a member is believed to be one only as long as its
/// last sign of life is younger than the group's patience with it; beyond that it waits until the backend has found out.
#[derive(Debug, Clone, Default)]
pub struct Membership {
    signs: Option<Arc<Signs>>,
}

impl Membership {
    /// A membership that nobody can take away.
    pub fn certain() -> Self {
        Self { signs: None }
    }

    /// Whether records may be begun now.
    pub fn is_certain(&self) -> bool {
        self.signs.as_ref().is_none_or(|signs| signs.are_fresh())
    }

    /// Waits until records may be begun.
    pub async fn confirmed(&self) {
        while !self.is_certain() {
            sleep(LOOK).await;
        }
    }
}

/// A member's signs of life, given by the backend.
#[derive(Debug)]
pub(crate) struct Signs {
    start: Instant,
    /// The last sign, in milliseconds after the start.
    last: AtomicU64,
    patience: Duration,
    /// The lanes were lost, and the consumer still has records of them.
    lost: AtomicBool,
}

impl Signs {
    /// `patience`: how old the last sign may be.
    pub(crate) fn new(patience: Duration) -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), last: AtomicU64::new(0), patience, lost: AtomicBool::new(false) })
    }

    pub(crate) fn membership(self: &Arc<Self>) -> Membership {
        Membership { signs: Some(Arc::clone(self)) }
    }

    fn age(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::SeqCst)))
    }

    fn are_fresh(&self) -> bool {
        !self.lost.load(Ordering::SeqCst) && self.age() < self.patience
    }

    /// A sign of life. `false`: it comes too late, and the membership has to be taken for lost.
    pub(crate) fn give(&self) -> bool {
        let in_time = self.age() < self.patience;
        if in_time {
            self.renew();
        }
        in_time
    }

    /// A sign of life, however late.
    pub(crate) fn renew(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::SeqCst);
    }

    /// The lanes are lost: nothing of them may be begun. From now on signs count again.
    pub(crate) fn lost(&self) {
        self.lost.store(true, Ordering::SeqCst);
        self.renew();
    }

    /// The consumer has nothing left of what was lost.
    pub(crate) fn let_go(&self) {
        self.lost.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_whose_sign_comes_too_late_is_in_doubt_until_it_has_let_go() {
        let signs = Signs::new(Duration::from_secs(3600));
        let membership = signs.membership();
        assert!(signs.give() && membership.is_certain());
        signs.lost();
        assert!(signs.give() && !membership.is_certain());
        signs.let_go();
        assert!(membership.is_certain());

        let signs = Signs::new(Duration::ZERO);
        assert!(!signs.membership().is_certain());
        assert!(!signs.give(), "what came too late does not count");
        assert!(Membership::certain().is_certain());
    }

    #[tokio::test]
    async fn who_is_in_doubt_waits() {
        let signs = Signs::new(Duration::from_secs(3600));
        signs.lost();
        let membership = signs.membership();
        let mut waiting = std::pin::pin!(membership.confirmed());
        assert!(tokio::time::timeout(LOOK * 5, &mut waiting).await.is_err());
        signs.let_go();
        waiting.await;
    }
}
