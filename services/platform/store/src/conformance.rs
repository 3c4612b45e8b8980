//! The suite that every store passes.
//!
//! A backend implements [`Harness`] in an integration test and calls [`store_suite!`](crate::store_suite) with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc, reason = "these are tests")]

pub mod appends;
pub mod claims;
pub mod documents;
pub mod follows;
pub mod leases;
pub mod pages;
pub mod read_models;
pub mod reads;
mod samples;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{DocumentStore, EventStore};
pub use samples::{Job, OldJob, append, event, event_of, jobs, sequences};

/// How long a case may take.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A store under test. Dropping it removes all that it made.
#[async_trait]
pub trait Harness: Send + Sync + Sized + 'static {
    /// An empty store whose events have to be published.
    async fn new() -> Self;

    /// Its events.
    fn events(&self) -> Arc<dyn EventStore>;

    /// Its documents.
    fn documents(&self) -> Arc<dyn DocumentStore>;

    /// The same store after the process was started again.
    async fn reopen(self) -> Self;

    /// Whether the database behind the store refuses an event id that another aggregate has.
    async fn event_ids(&self) -> EventIds {
        EventIds::Refused
    }
}

/// What a database does about an event id that another aggregate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventIds {
    /// It refuses it.
    Refused,
    /// It takes it, as a stand-in for a database may that knows unique indexes and does not enforce all of them.
    Taken {
        /// Whether the store has declared a unique index over them all the same.
        declared: bool,
    },
}

/// Runs one case.
pub async fn run(case: impl Future<Output = ()>) {
    tokio::time::timeout(PATIENCE, case).await.expect("the case came to no end");
}

/// A test for each case of the suite, over a [`Harness`].
#[macro_export]
macro_rules! store_suite {
    ($harness:ty) => {
        $crate::store_suite! { $harness =>
            appends::sequences_start_at_one_and_have_no_holes,
            appends::an_append_elsewhere_is_a_conflict_and_adds_nothing,
            appends::any_sequence_may_be_expected,
            appends::an_append_without_events_or_aggregate_is_invalid,
            appends::an_append_behind_a_document_needs_it,
            appends::a_repeated_append_adds_nothing,
            appends::an_id_of_another_event_is_refused_with_its_batch,
            appends::an_id_of_another_aggregate_is_refused,
            appends::what_is_recorded_is_what_was_given,
            appends::concurrent_appends_leave_no_hole_and_no_duplicate,
            appends::concurrent_appends_that_expect_a_sequence_have_one_winner,
            reads::an_aggregate_is_read_in_pages_and_by_type,
            reads::a_scan_filters_by_type_aggregate_and_time,
            reads::nothing_that_was_recorded_is_behind_the_newest_position,
            reads::a_scan_back_is_the_scan_reversed,
            reads::a_replaced_payload_leaves_the_rest_as_it_was,
            reads::what_is_not_marked_is_unpublished,
            reads::a_deleted_aggregate_is_gone_and_others_are_not,
            reads::everything_survives_a_restart,
            follows::followers_see_exactly_the_log,
            follows::a_follower_goes_on_after_any_cut,
            follows::followers_of_a_deleted_log_are_told,
            follows::a_wake_tells_of_what_was_appended,
            documents::a_document_is_written_read_and_removed,
            documents::a_write_from_another_revision_is_refused,
            documents::one_of_many_writers_from_one_revision_wins,
            documents::documents_are_counted_by_value,
            documents::documents_survive_a_restart,
            documents::a_document_made_again_does_not_come_back_to_a_revision,
            documents::counts_follow_the_documents,
            documents::older_documents_are_given_the_fields_of_a_new_index,
            documents::documents_are_removed_some_at_a_time,
            read_models::a_read_model_is_built_beside_the_one_in_use,
            read_models::a_rebuild_goes_on_after_a_crash,
            read_models::of_two_rebuilds_one_waits_for_the_other,
            pages::pages_go_through_everything_once_in_order,
            pages::bounds_and_equal_prefixes_select,
            pages::a_page_goes_on_where_it_ended_though_documents_come_and_go,
            pages::queries_without_meaning_are_invalid,
            claims::a_due_document_is_claimed_once,
            claims::concurrent_claims_share_nothing,
            claims::a_lease_that_is_over_is_claimed_again_and_fences_its_holder,
            leases::one_of_many_gets_a_lease,
            leases::a_lease_is_renewed_and_kept_from_others,
            leases::a_lease_that_ran_out_is_taken_over_and_its_holder_told,
            leases::a_lease_given_back_is_free_at_once,
            leases::leases_that_ran_out_are_found_by_their_prefix,
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
