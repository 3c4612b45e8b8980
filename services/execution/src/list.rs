//! ListExecutions.

use prost::Message as _;
use runmesh_events::from_timestamp;
use runmesh_proto::execution::{Execution, ExecutionState, ListExecutionsRequest, ListExecutionsResponse};
use runmesh_rpc::{Violation, page_token};
use runmesh_store::{IndexValue, PageQuery, StoreError};

use crate::{
    document::{BY_CREATED, BY_STATE},
    error::ExecutionError,
    service::ExecutionService,
};

const DEFAULT_PAGE: usize = 50;
/// How many documents one call looks at to fill a page.
const SCAN: usize = 5_000;

pub(crate) async fn list(
    service: &ExecutionService,
    request: ListExecutionsRequest,
) -> Result<ListExecutionsResponse, ExecutionError> {
    let mut query = query(&request)?;
    let wanted = query.limit;
    let filters = filters(&request);
    query.after = page_token::decode(&request.page_token, &filters).ok_or_else(bad_token)?;
    let documents = service.summaries().live().await?;
    let mut executions = Vec::new();
    let mut looked_at = 0;
    loop {
        query.limit = wanted - executions.len();
        let page = documents.page(query.clone()).await.map_err(|error| match error {
            // The only part of the query that comes from the client unchecked.
            StoreError::Invalid(_) if !request.page_token.is_empty() => bad_token(),
            error => error.into(),
        })?;
        looked_at += page.documents.len();
        let found = page.documents.into_iter().map(|versioned| versioned.document.0);
        executions.extend(found.filter(|execution| matches(execution, &request)));
        query.after = page.next;
        if query.after.is_none() || executions.len() == wanted || looked_at >= SCAN {
            break;
        }
    }
    let next_page_token = page_token::encode(query.after, &filters);
    Ok(ListExecutionsResponse { executions, next_page_token })
}

fn query(request: &ListExecutionsRequest) -> Result<PageQuery, ExecutionError> {
    let mut violations = Vec::new();
    let limit = page_token::size(request.page_size, DEFAULT_PAGE).unwrap_or_else(|violation| {
        violations.push(violation);
        DEFAULT_PAGE
    });
    if ExecutionState::try_from(request.state).is_err() {
        violations.push(Violation::new("state", "is not a state that is known here"));
    }
    let mut bound = |field: &str, time: &Option<prost_types::Timestamp>| {
        let time = time.as_ref()?;
        let known = from_timestamp(time);
        if known.is_none() {
            violations.push(Violation::new(field, "is not a time from 1970 to 9999"));
        }
        known.map(IndexValue::from)
    };
    let at_least = bound("created_after", &request.created_after);
    let less_than = bound("created_before", &request.created_before);
    if !violations.is_empty() {
        return Err(ExecutionError::Invalid(violations));
    }
    let (index, equal) = match request.state {
        0 => (BY_CREATED, Vec::new()),
        state => (BY_STATE, vec![i64::from(state).into()]),
    };
    Ok(PageQuery { index, equal, at_least, less_than, descending: true, limit, after: None })
}

fn matches(execution: &Execution, request: &ListExecutionsRequest) -> bool {
    let Some(spec) = &execution.spec else { return false };
    (request.language.is_empty() || spec.language == request.language)
        && request.labels.iter().all(|label| match label.split_once('=') {
            Some((key, value)) => spec.labels.get(key).is_some_and(|found| found == value),
            None => spec.labels.contains_key(label),
        })
}

fn bad_token() -> ExecutionError {
    ExecutionError::field("page_token", "is not one that this list gave out with the same filters")
}

/// The same for the same filters. The page's size may change from page to page.
fn filters(request: &ListExecutionsRequest) -> Vec<u8> {
    ListExecutionsRequest { page_size: 0, page_token: String::new(), ..request.clone() }.encode_to_vec()
}
