//! QueryEvents.

use std::sync::Arc;

use prost::Message as _;
use runmesh_proto::event_log::{QueryEventsRequest, QueryEventsResponse};
use runmesh_rpc::{Violation, page_token};
use runmesh_store::{EventSelection, Position, StoreError, Stored};

use crate::{
    error::{EventLogError, selection},
    reading,
    service::Inner,
    view,
};

/// The number of entries of a page.
const DEFAULT_PAGE: usize = 50;

/// How many events one call looks at to fill a page, and how many bytes of them.
const LOOK: (usize, usize) = (20_000, 64 << 20);

/// How many events one read brings where much is passed over.
const READ: usize = 1_000;

/// How many events the first read brings at most, when nothing is known of how large they are.
const FIRST_READ: usize = 200;

/// How many bytes of events one read should bring at most, about.
const READ_BYTES: usize = 8 << 20;

/// How many bytes of events a page has at most; it always has one event.
const PAGE_BYTES: usize = 2 << 20;

struct Query {
    selection: Arc<EventSelection>,
    newest_first: bool,
    wanted: usize,
    /// Where the page before ended.
    beyond: Position,
}

pub(crate) async fn query(inner: &Inner, request: QueryEventsRequest) -> Result<QueryEventsResponse, EventLogError> {
    let filters = QueryEventsRequest { page_size: 0, page_token: String::new(), ..request.clone() }.encode_to_vec();
    let query = Query::parse(&request, &filters)?;
    let (events, next) =
        if query.selection.ids().is_empty() { query.page(inner).await? } else { query.page_of_ids(inner).await? };
    Ok(QueryEventsResponse {
        events: events.iter().map(view::logged).collect(),
        next_page_token: page_token::encode(next.map(|place| place.0.to_string()), &filters),
    })
}

impl Query {
    fn parse(request: &QueryEventsRequest, filters: &[u8]) -> Result<Self, EventLogError> {
        let mut violations = Vec::new();
        let wanted = page_token::size(request.page_size, DEFAULT_PAGE).unwrap_or_else(|violation| {
            violations.push(violation);
            DEFAULT_PAGE
        });
        let newest_first = match request.order_by.as_str() {
            "" | "recorded_at desc" => true,
            "recorded_at" => false,
            _ => {
                violations.push(Violation::new("order_by", "is neither \"recorded_at desc\" nor \"recorded_at\""));
                true
            }
        };
        let filter = request.filter.clone().unwrap_or_default();
        let selection = selection(&filter, &mut violations);
        let start = Position(if newest_first { u64::MAX } else { 0 });
        let place = page_token::decode(&request.page_token, filters);
        let beyond = place.and_then(|place| place.map_or(Some(start), |text| text.parse().ok().map(Position)));
        if beyond.is_none() {
            let words = "is not one that this list gave out with the same filter and order";
            violations.push(Violation::new("page_token", words));
        }
        match beyond {
            Some(beyond) if violations.is_empty() => {
                Ok(Self { selection: Arc::new(selection), newest_first, wanted, beyond })
            }
            _ => Err(EventLogError::Invalid(violations)),
        }
    }

    /// A page, and the place that the next one begins beyond. `None`: there is no next one.
    async fn page(&self, inner: &Inner) -> Result<(Vec<Stored>, Option<Position>), StoreError> {
        let (mut found, mut beyond) = (Vec::new(), self.beyond);
        let (mut events, mut bytes) = (0, 0);
        loop {
            // Where much is passed over, small reads would be many; where a page is about full, a large one is in vain; where
            // events are large, a few are enough.
            let size = (self.wanted - found.len()).max(if events > self.wanted { READ } else { 1 });
            let fitting = (READ_BYTES * events).checked_div(bytes).unwrap_or(FIRST_READ);
            let size = size.min(fitting.max(1));
            let (store, filter) = (&inner.store, self.selection.scan());
            let page = match self.newest_first {
                true => store.scan_back(filter, beyond, size).await?,
                false => store.scan(filter, beyond, size).await?,
            };
            let is_last = page.len() < size;
            beyond = page.last().map_or(beyond, |last| last.position);
            let (meant, looked_at) = reading::select(Arc::clone(&self.selection), page).await?;
            (events, bytes) = (events + looked_at.0, bytes + looked_at.1);
            found.extend(meant);
            if let Some(last) = cut(&mut found, self.wanted) {
                return Ok((found, Some(last)));
            }
            if is_last {
                return Ok((found, None));
            }
            if found.len() >= self.wanted || events >= LOOK.0 || bytes >= LOOK.1 {
                return Ok((found, Some(beyond)));
            }
        }
    }

    async fn page_of_ids(&self, inner: &Inner) -> Result<(Vec<Stored>, Option<Position>), StoreError> {
        let mut found = reading::by_ids(&*inner.store, &self.selection).await?;
        if self.newest_first {
            found.reverse();
            found.retain(|stored| stored.position < self.beyond);
        } else {
            found.retain(|stored| stored.position > self.beyond);
        }
        let next = cut(&mut found, self.wanted);
        Ok((found, next))
    }
}

/// Leaves what a page may have. Returns the place of the last event if something had to go. Of events with one position all
/// stay, or none.
fn cut(found: &mut Vec<Stored>, wanted: usize) -> Option<Position> {
    let mut bytes = 0;
    let fits = found.iter().take(wanted).take_while(|stored| {
        bytes += stored.event.encoded_len();
        bytes <= PAGE_BYTES
    });
    let kept = fits.count().max(1);
    let last = found.get(kept - 1)?.position;
    let kept = kept + found[kept..].iter().take_while(|stored| stored.position == last).count();
    let is_cut = kept < found.len();
    found.truncate(kept);
    is_cut.then_some(last)
}
