//! ListExecutions.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use prost::Message as _;
use runmesh_events::from_timestamp;
use runmesh_proto::execution::{Execution, ExecutionState, ListExecutionsRequest, ListExecutionsResponse};
use runmesh_rpc::Violation;
use runmesh_store::{IndexValue, PageQuery, StoreError};
use serde::{Deserialize, Serialize};

use crate::{
    document::{BY_CREATED, BY_STATE},
    error::ExecutionError,
    service::ExecutionService,
};

const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: i32 = 1_000;
/// How many documents one call looks at to fill a page.
const SCAN: usize = 5_000;

/// Where a page ended, and which filters it had.
#[derive(Serialize, Deserialize)]
struct Token {
    after: String,
    filters: u64,
}

pub(crate) async fn list(
    service: &ExecutionService,
    request: ListExecutionsRequest,
) -> Result<ListExecutionsResponse, ExecutionError> {
    let mut query = query(&request)?;
    let wanted = query.limit;
    let filters = fingerprint(&request);
    query.after = page_token(&request.page_token, filters)?;
    let mut executions = Vec::new();
    let mut looked_at = 0;
    loop {
        query.limit = wanted - executions.len();
        let page = service.documents().page(query.clone()).await.map_err(|error| match error {
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
    let next_page_token = query
        .after
        .map(|after| serde_json::to_vec(&Token { after, filters }).unwrap_or_default())
        .map(|token| BASE64_URL_SAFE_NO_PAD.encode(token))
        .unwrap_or_default();
    Ok(ListExecutionsResponse { executions, next_page_token })
}

fn query(request: &ListExecutionsRequest) -> Result<PageQuery, ExecutionError> {
    let mut violations = Vec::new();
    let limit = match request.page_size {
        0 => DEFAULT_PAGE,
        size @ 1..=MAX_PAGE => usize::try_from(size).unwrap_or(DEFAULT_PAGE),
        size => {
            violations.push(Violation::new("page_size", format!("is {size}; it has to be from 0 to {MAX_PAGE}")));
            DEFAULT_PAGE
        }
    };
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

fn page_token(text: &str, filters: u64) -> Result<Option<String>, ExecutionError> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| bad_token())?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|_| bad_token())?;
    if token.filters == filters { Ok(Some(token.after)) } else { Err(bad_token()) }
}

/// The same for the same filters. The page's size may change from page to page.
fn fingerprint(request: &ListExecutionsRequest) -> u64 {
    let filters = ListExecutionsRequest { page_size: 0, page_token: String::new(), ..request.clone() };
    let mut hasher = DefaultHasher::new();
    filters.encode_to_vec().hash(&mut hasher);
    hasher.finish()
}
