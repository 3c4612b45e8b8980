//! The suite that every bus passes: of the bus itself, and of the consumer groups on top of it.
//!
//! A backend implements [`Harness`] in an integration test and calls [`bus_suite!`](crate::bus_suite) with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc, reason = "these are tests")]

pub mod failures;
pub mod groups;
pub mod inspection;
pub mod letters;
mod probe;
pub mod progress;
pub mod records;
mod samples;
mod store;
pub mod subscriptions;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use runmesh_store::{DocumentStore, Documents};

use crate::{Bus, Consumer, DeadLetter, Record};
pub use probe::{Probe, Running, start};
pub use samples::{TOPIC, TOPIC_2, key_beside, record, sample, sample_time};
pub use store::FailingDocuments;

/// How long a case may take, and how long it waits for what has to happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A bus under test. Dropping it removes all that it made.
#[async_trait]
pub trait Harness: Send + Sync + Sized + 'static {
    /// A bus whose topics exist and are empty.
    async fn new() -> Self;

    /// The bus.
    fn bus(&self) -> Arc<dyn Bus>;

    /// Where dead letters are kept.
    fn documents(&self) -> Arc<dyn DocumentStore>;

    /// The same bus after the process was started again.
    async fn reopen(self) -> Self;

    /// The size of a value that is too large for the bus.
    fn too_large(&self) -> usize;

    /// A consumer on the bus.
    async fn consumer(&self) -> Consumer {
        Consumer::new(self.bus(), self.documents()).await.unwrap()
    }

    /// The dead letters.
    async fn dead_letters(&self) -> Documents<DeadLetter> {
        Documents::open(self.documents()).await.unwrap()
    }
}

/// Publishes records.
pub(crate) async fn publish(bus: &dyn Bus, records: Vec<Record>) {
    for result in bus.publish(records).await {
        result.unwrap();
    }
}

/// Runs one case.
pub async fn run(case: impl Future<Output = ()>) {
    tokio::time::timeout(PATIENCE * 2, case).await.expect("the case came to no end");
}

/// Waits for something to happen.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("did not happen: {what}"),
    }
}

/// Waits until a condition holds that can only be asked for.
pub async fn until<F>(what: &str, mut holds: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, wait).await;
}

/// A test for each case of the suite, over a [`Harness`].
#[macro_export]
macro_rules! bus_suite {
    ($harness:ty) => {
        $crate::bus_suite! { $harness =>
            records::records_of_a_key_arrive_in_order,
            records::headers_key_and_time_survive,
            records::an_unknown_topic_is_an_error,
            records::a_large_record_travels_and_a_larger_one_is_refused_alone,
            subscriptions::a_new_group_starts_at_the_earliest,
            subscriptions::each_group_gets_everything,
            subscriptions::only_what_was_not_committed_is_delivered_again,
            subscriptions::a_next_that_was_dropped_loses_nothing,
            subscriptions::an_idle_subscription_wakes_at_once,
            subscriptions::lag_counts_what_was_not_committed,
            inspection::what_was_published_can_be_read_from_beside,
            inspection::a_reading_can_be_given_up,
            inspection::a_groups_place_is_where_it_goes_on,
            inspection::a_new_group_can_begin_at_the_end_and_a_known_one_stays_where_it_is,
            progress::an_unfinished_record_holds_the_commit_back,
            progress::a_shutdown_closes_the_gaps_between_what_was_begun,
            progress::keys_run_in_parallel_and_each_in_order,
            progress::a_shutdown_finishes_and_commits_what_is_in_hand,
            progress::a_crash_delivers_again_what_was_not_finished,
            groups::a_redrive_reaches_only_its_group,
            groups::a_replay_is_skipped_unless_opted_in,
            groups::a_replay_for_one_group_reaches_it_alone,
            failures::a_permanent_error_becomes_one_dead_letter,
            failures::a_dead_letter_is_durable_before_its_offset_is_committed,
            failures::a_dead_letter_that_can_not_be_kept_is_tried_again,
            failures::a_transient_error_is_tried_again_in_place,
            failures::an_outage_of_everything_leaves_no_letter,
            failures::an_exhausted_transient_error_is_kept_with_each_attempt,
            failures::what_is_no_event_of_the_topic_is_kept_as_raw_bytes,
            failures::a_panic_becomes_a_dead_letter,
            letters::a_redrive_resolves_its_letter_once,
            letters::later_events_wait_behind_a_letter_where_order_is_kept,
            letters::an_outage_of_the_handler_pauses_the_group,
        }
    };
    ($harness:ty => $($module:ident::$case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::conformance::run($crate::conformance::$module::$case::<$harness>()).await;
            }
        )+
    };
}
