//! Counts of names, of which there may be any number, in bounded space.

use std::collections::HashMap;

use runmesh_proto::event_log::EventNameCount;

/// How many names are counted at the same time.
const NAMES: usize = 10_000;

/// Counts of names: exact while there are no more than [`NAMES`]; beyond, by the algorithm of Misra and Gries, each is too low
/// by one in [`NAMES`] of all at most, so that none of the frequent ones is lost.
#[derive(Debug, Default)]
pub(super) struct Names {
    counts: HashMap<String, i64>,
    are_estimates: bool,
}

impl Names {
    /// Counts a name, unless it is empty.
    pub(super) fn add(&mut self, name: &str) {
        if name.is_empty() {
            return;
        }
        if let Some(count) = self.counts.get_mut(name) {
            *count += 1;
        } else if self.counts.len() < NAMES {
            self.counts.insert(name.to_owned(), 1);
        } else {
            self.are_estimates = true;
            self.counts.retain(|_, count| {
                *count -= 1;
                *count > 0
            });
        }
    }

    /// Whether counts may be too low.
    pub(super) fn are_estimates(&self) -> bool {
        self.are_estimates
    }

    /// The most frequent ones.
    pub(super) fn most(self, limit: usize) -> Vec<EventNameCount> {
        let mut counts: Vec<(String, i64)> = self.counts.into_iter().collect();
        counts.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
        counts.truncate(limit);
        counts.into_iter().map(|(name, count)| EventNameCount { name, count }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_names_are_counted_exactly_and_none_is_not_a_name() {
        let mut names = Names::default();
        for name in ["b", "a", "", "b", "c", "a", "b"] {
            names.add(name);
        }
        assert!(!names.are_estimates());
        let most: Vec<(String, i64)> = names.most(2).into_iter().map(|one| (one.name, one.count)).collect();
        assert_eq!(most, [("b".to_owned(), 3), ("a".to_owned(), 2)]);
    }

    #[test]
    fn of_any_number_of_names_the_frequent_ones_are_kept() {
        let mut names = Names::default();
        for number in 0..100_000 {
            names.add(&format!("rare-{number}"));
            if number % 10 == 0 {
                names.add("frequent");
            }
        }
        assert!(names.are_estimates() && names.counts.len() <= NAMES);
        let most = names.most(1);
        assert_eq!(most[0].name, "frequent");
        // 110,000 in all: too low by 11 at most.
        assert!((10_000 - 11..=10_000).contains(&most[0].count), "{}", most[0].count);
    }
}
