//! ListSagas.

use prost::Message as _;
use runmesh_events::AggregateId;
use runmesh_proto::saga::{ListSagasRequest, ListSagasResponse, Saga, SagaState};
use runmesh_rpc::{Violation, page_token};
use runmesh_store::{PageQuery, StoreError};

use crate::{
    document::{BY_CREATED, BY_STATE},
    error::SagaError,
    service::SagaService,
};

const DEFAULT_PAGE: usize = 50;
/// How many documents one call looks at to fill a page.
const SCAN: usize = 5_000;

pub(crate) async fn list(service: &SagaService, request: ListSagasRequest) -> Result<ListSagasResponse, SagaError> {
    let mut query = query(&request)?;
    let wanted = query.limit;
    let filters = ListSagasRequest { page_size: 0, page_token: String::new(), ..request.clone() }.encode_to_vec();
    query.after = page_token::decode(&request.page_token, &filters).ok_or_else(bad_token)?;
    let mut sagas = Vec::new();
    let mut looked_at = 0;
    loop {
        query.limit = wanted - sagas.len();
        let page = service.documents().page(query.clone()).await.map_err(|error| match error {
            // The only part of the query that comes from the client unchecked.
            StoreError::Invalid(_) if !request.page_token.is_empty() => bad_token(),
            error => error.into(),
        })?;
        looked_at += page.documents.len();
        for found in page.documents {
            let saga = found.document.saga;
            if request.user_id.is_empty() || saga.user_id == request.user_id {
                sagas.extend(now(service, saga).await?.filter(|saga| has_state(saga, &request)));
            }
        }
        query.after = page.next;
        if query.after.is_none() || sagas.len() == wanted || looked_at >= SCAN {
            break;
        }
    }
    Ok(ListSagasResponse { sagas, next_page_token: page_token::encode(query.after, &filters) })
}

/// The saga as it is: one that has ended is as its document has it, one that has not is as its log has it. `None`: it was
/// deleted.
async fn now(service: &SagaService, kept: Saga) -> Result<Option<Saga>, StoreError> {
    if kept.ended_at.is_some() {
        return Ok(Some(kept));
    }
    let view = service.load(&AggregateId::from(kept.execution_id)).await?.view();
    Ok(view.exists().then(|| view.summary()))
}

fn has_state(saga: &Saga, request: &ListSagasRequest) -> bool {
    request.states.is_empty() || request.states.contains(&saga.state)
}

fn query(request: &ListSagasRequest) -> Result<PageQuery, SagaError> {
    let mut violations = Vec::new();
    let limit = page_token::size(request.page_size, DEFAULT_PAGE).unwrap_or_else(|violation| {
        violations.push(violation);
        DEFAULT_PAGE
    });
    for (place, state) in request.states.iter().enumerate() {
        if matches!(SagaState::try_from(*state), Err(_) | Ok(SagaState::Unspecified)) {
            violations.push(Violation::new(format!("states[{place}]"), "is not a state that is known here"));
        }
    }
    if !violations.is_empty() {
        return Err(SagaError::Invalid(violations));
    }
    // A document has only the state that the saga began with until it ends.
    let mut kept = request.states.iter().map(|state| match SagaState::try_from(*state) {
        Ok(SagaState::Compensating) => SagaState::Running as i32,
        _ => *state,
    });
    let (index, equal) = match kept.next() {
        Some(first) if kept.all(|state| state == first) => (BY_STATE, vec![i64::from(first).into()]),
        _ => (BY_CREATED, Vec::new()),
    };
    Ok(PageQuery { index, equal, descending: true, limit, ..PageQuery::default() })
}

fn bad_token() -> SagaError {
    SagaError::field("page_token", "is not one that this list gave out with the same filters")
}
