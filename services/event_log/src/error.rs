//! What can go wrong, and the status that a client gets for it.

use std::time::Duration;

use runmesh_bus::BusError;
use runmesh_proto::event::EventFilter;
use runmesh_rpc::status::{self, Violation};
use runmesh_store::{EventSelection, InvalidField, StoreError};
use tonic::Status;

/// How long a client should wait before it tries again what may succeed later.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a verification came to no end. It says nothing about what it would have found.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store failed.
    #[error("can't verify: {0}")]
    Store(#[from] StoreError),
    /// The bus failed.
    #[error("can't verify: {0}")]
    Bus(#[from] BusError),
}

impl From<VerifyError> for Status {
    fn from(error: VerifyError) -> Self {
        let is_transient = match &error {
            VerifyError::Store(error) => error.is_transient(),
            VerifyError::Bus(error) => error.is_transient(),
        };
        if is_transient { status::unavailable(error.to_string(), RETRY_AFTER) } else { status::internal(&error) }
    }
}

/// An error of the service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventLogError {
    /// Fields of the request are not acceptable.
    #[error("the request is not acceptable")]
    Invalid(Vec<Violation>),
    /// There is no such event.
    #[error("there is no event {0}")]
    NotFound(String),
    /// It is not in a state in which this can be done: a reason as an identifier, and in words.
    #[error("{1}")]
    Precondition(&'static str, String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EventLogError {
    /// One field that is not acceptable.
    pub(crate) fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, description)])
    }
}

impl From<EventLogError> for Status {
    fn from(error: EventLogError) -> Self {
        let words = error.to_string();
        match error {
            EventLogError::Invalid(violations) => status::invalid_arguments(violations),
            EventLogError::NotFound(id) => status::not_found("event", &id),
            EventLogError::Precondition(reason, words) => status::failed_precondition(reason, words),
            EventLogError::Store(error) if error.is_transient() => status::unavailable(words, RETRY_AFTER),
            EventLogError::Store(error) => status::internal(&error),
        }
    }
}

/// What the filter of a request means. What is wrong with it is added to what is wrong with the request.
pub(crate) fn selection(filter: &EventFilter, violations: &mut Vec<Violation>) -> EventSelection {
    EventSelection::parse(filter).unwrap_or_else(|wrong| {
        let named = |wrong: InvalidField| Violation::new(format!("filter.{}", wrong.field), wrong.description);
        violations.extend(wrong.into_iter().map(named));
        EventSelection::default()
    })
}
