//! ListDeadLetters and GetDeadLetter.

use prost::Message as _;
use runmesh_bus::DeadLetter;
use runmesh_proto::dlq::{DeadLetterDetail, ListDeadLettersRequest, ListDeadLettersResponse};
use runmesh_rpc::{Violation, page_token};
use runmesh_store::{StoreError, Versioned};

use crate::{error::DlqError, filter::Selection, service::Inner, view};

/// The number of entries of a page.
pub(crate) const DEFAULT_PAGE: usize = 50;

/// How many letters one call looks at to fill a page.
const SCAN: usize = 4_000;

/// How many letters one read brings at least.
const READ: usize = 128;

pub(crate) async fn list(inner: &Inner, request: ListDeadLettersRequest) -> Result<ListDeadLettersResponse, DlqError> {
    let mut violations = Vec::new();
    let wanted = page_token::size(request.page_size, DEFAULT_PAGE).unwrap_or_else(|violation| {
        violations.push(violation);
        DEFAULT_PAGE
    });
    let descending = match request.order_by.as_str() {
        "" | "last_failed_at desc" => true,
        "last_failed_at" => false,
        _ => {
            violations.push(Violation::new("order_by", "is neither \"last_failed_at desc\" nor \"last_failed_at\""));
            true
        }
    };
    let selection = Selection::parse(request.filter.as_ref(), false).unwrap_or_else(|wrong| {
        violations.extend(wrong);
        Selection::default()
    });
    let filters = ListDeadLettersRequest { page_size: 0, page_token: String::new(), ..request.clone() }.encode_to_vec();
    let after = page_token::decode(&request.page_token, &filters).unwrap_or_else(|| {
        violations.push(bad_token());
        None
    });
    if !violations.is_empty() {
        return Err(DlqError::Invalid(violations));
    }
    let mut query = selection.query(wanted, descending);
    query.after = after;
    let (mut dead_letters, mut looked_at) = (Vec::new(), 0);
    loop {
        // Where much is passed over, small reads would be many; where a page is about full, a large one is in vain.
        query.limit = (wanted - dead_letters.len()).max(if looked_at > wanted { READ } else { 1 });
        let (found, next) = selection.page(&inner.letters, &query).await.map_err(|error| match error {
            // The only part of the query that comes from the client unchecked.
            StoreError::Invalid(_) if !request.page_token.is_empty() => DlqError::Invalid(vec![bad_token()]),
            error => error.into(),
        })?;
        // As many as were asked for, unless it was the last page.
        looked_at += query.limit;
        dead_letters.extend(found.iter().map(|found| view::letter(&found.document)));
        query.after = next;
        if query.after.is_none() || dead_letters.len() >= wanted || looked_at >= SCAN {
            break;
        }
    }
    Ok(ListDeadLettersResponse { dead_letters, next_page_token: page_token::encode(query.after, &filters) })
}

fn bad_token() -> Violation {
    Violation::new("page_token", "is not one that this list gave out with the same filters")
}

pub(crate) async fn get(inner: &Inner, id: &str) -> Result<DeadLetterDetail, DlqError> {
    if id.is_empty() {
        return Err(DlqError::field("dead_letter_id", "is missing"));
    }
    Ok(view::detail(&inner.letter(id).await?.document))
}

impl Inner {
    /// The letter of this id, which has to be there.
    pub(crate) async fn letter(&self, id: &str) -> Result<Versioned<DeadLetter>, DlqError> {
        let found = self.letters.documents().get(id).await?;
        found.ok_or_else(|| DlqError::NotFound("dead letter", id.to_owned()))
    }
}
