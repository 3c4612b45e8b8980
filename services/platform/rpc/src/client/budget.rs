//! How many calls may be made again, so that servers in trouble do not get more calls, but fewer.

use std::sync::{Mutex, PoisonError};

/// A bucket of tokens: each call puts in a share of one, each further attempt takes one out.
///
/// Over any time the further attempts are at most the share of the calls, and as many as the bucket holds.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    share: f64,
    most: f64,
    tokens: Mutex<f64>,
}

impl RetryBudget {
    /// A full bucket.
    pub(crate) fn new(share: f64, most: u32) -> Self {
        let most = f64::from(most);
        Self { share, most, tokens: Mutex::new(most) }
    }

    /// A call was made.
    pub(crate) fn deposit(&self) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        // A bucket that holds nothing would lose every share of a token.
        *tokens = (*tokens + self.share).min(self.most.max(1.0));
    }

    /// Takes a token for a further attempt, if there is one.
    pub(crate) fn withdraw(&self) -> bool {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let has_one = *tokens >= 1.0;
        if has_one {
            *tokens -= 1.0;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_calls_can_be_made_again_and_a_burst() {
        let budget = RetryBudget::new(0.25, 3);
        let mut taken = 0;
        for _ in 0..100 {
            budget.deposit();
            taken += usize::from(budget.withdraw());
        }
        assert_eq!(taken, 3 + 24, "the first deposits find the bucket full");
    }

    #[test]
    fn an_empty_bucket_fills_by_calls_alone() {
        let budget = RetryBudget::new(0.5, 0);
        assert!(!budget.withdraw());
        budget.deposit();
        assert!(!budget.withdraw());
        budget.deposit();
        assert!(budget.withdraw());
        assert!(!budget.withdraw());
    }
}
