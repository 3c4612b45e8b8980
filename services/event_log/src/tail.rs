//! TailEvents: events as they are recorded.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_stream::try_stream;
use futures::Stream;
use runmesh_events::{Catalog, EventType};
use runmesh_proto::event_log::{TailEventsRequest, TailEventsResponse, TailProgress, tail_events_response::Item};
use runmesh_rpc::{Violation, status};
use runmesh_store::{EventSelection, EventStore, Position, StoreError};
use tokio::time::sleep;
use tonic::Status;

use crate::{
    error::{EventLogError, selection},
    reading::{self, Reader},
    service::Inner,
    view,
};

/// Where the store is shared: how long an event may take from the time in its position to the moment in which it can be
/// read. The longest that a write may take, and what clocks may differ. What is younger is shown later.
const SETTLED: Duration = Duration::from_secs(12);

/// How often it is looked for events there.
const LOOK: Duration = Duration::from_millis(500);

/// After how many events that are not meant the reader is told how far it is.
const TOLD: usize = 10_000;

pub(crate) async fn tail(
    inner: Arc<Inner>,
    request: TailEventsRequest,
) -> Result<impl Stream<Item = Result<TailEventsResponse, Status>> + Send, EventLogError> {
    let (selection, cursor) = parse(&request).map_err(EventLogError::Invalid)?;
    // Before the first read: what is appended in between is in the read, or wakes it.
    let types = selection.scan().types.clone();
    let wake = inner.store.live().wake_on(if types.is_empty() { all_types() } else { &types });
    let start = match cursor {
        Some(position) => position,
        None => settled_end(&*inner.store).await?,
    };
    let is_shared = inner.store.is_shared();
    Ok(try_stream! {
        let mut reader = Reader::new(Arc::clone(&inner.store), Arc::new(selection), start);
        yield progress(start);
        let mut passed = 0;
        loop {
            let until = is_shared.then(settled_at);
            match reader.next(Position(u64::MAX), until).await.map_err(EventLogError::from)? {
                Some(read) => {
                    passed += read.looked_at.0;
                    let last = read.events.last().map(|stored| stored.position);
                    for stored in &read.events {
                        let item = Some(Item::Event(view::logged(stored)));
                        yield TailEventsResponse { cursor: stored.position.0.to_string(), item };
                        passed = 0;
                    }
                    if passed >= TOLD && last != Some(read.reached) {
                        yield progress(read.reached);
                        passed = 0;
                    }
                }
                None => {
                    let pause = async {
                        if is_shared {
                            sleep(LOOK).await;
                        } else {
                            wake.woken().await;
                        }
                    };
                    if inner.shutdown.run_until_cancelled(pause).await.is_none() {
                        Err(status::shutting_down())?;
                    }
                }
            }
            if inner.shutdown.is_cancelled() {
                Err(status::shutting_down())?;
            }
        }
    })
}

/// What is asked for, and after which place. `None`: from now on.
fn parse(request: &TailEventsRequest) -> Result<(EventSelection, Option<Position>), Vec<Violation>> {
    let mut violations = Vec::new();
    let filter = request.filter.clone().unwrap_or_default();
    let selection = selection(&filter, &mut violations);
    if !filter.event_ids.is_empty() {
        violations.push(Violation::new("filter.event_ids", "has no meaning for events that are still to come"));
    }
    if filter.until.is_some() {
        violations.push(Violation::new("filter.until", "has no meaning for events that are still to come"));
    }
    let cursor = match request.cursor.as_str() {
        "" => None,
        text => {
            let position = text.parse().ok().filter(|number: &u64| number.to_string() == text);
            if position.is_none() {
                violations.push(Violation::new("cursor", "is not a position"));
            }
            position.map(Position)
        }
    };
    if violations.is_empty() { Ok((selection, cursor)) } else { Err(violations) }
}

fn progress(position: Position) -> TailEventsResponse {
    TailEventsResponse { cursor: position.0.to_string(), item: Some(Item::Progress(TailProgress {})) }
}

fn settled_at() -> SystemTime {
    SystemTime::now() - SETTLED
}

/// The place from which a tail that begins now goes on: nothing will appear before it any more.
async fn settled_end(store: &dyn EventStore) -> Result<Position, StoreError> {
    if !store.is_shared() {
        return reading::newest(store).await;
    }
    let filter = runmesh_store::Filter { until: Some(settled_at()), ..Default::default() };
    let newest = store.scan_back(&filter, Position(u64::MAX), 1).await?;
    Ok(newest.first().map_or(Position(0), |stored| stored.position))
}

fn all_types() -> &'static [EventType] {
    static ALL: std::sync::LazyLock<Vec<EventType>> =
        std::sync::LazyLock::new(|| Catalog::get().event_types().collect());
    &ALL
}
