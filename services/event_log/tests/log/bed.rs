//! A store with events, and the service over it.

use std::{path::PathBuf, sync::Arc};

use runmesh_bus::{EmbeddedBus, KnownGroup};
use runmesh_event_log::{Dependencies, EventLogService, Verifier};
use runmesh_events::{AggregateId, Event, EventId, ExecutionId, NewEvent, Payload, TraceParent};
use runmesh_proto::{
    event::{
        EventFilter, EventType, ExecutionCompleted, ExecutionOutput, ExecutionRequested, ResultStored, SagaCompleted,
    },
    event_log::{LoggedEvent, QueryEventsRequest, QueryEventsResponse, event_log_service_server::EventLogService as _},
};
use runmesh_store::{EventStore, Expected, Filter, Position, SqliteStore, Stored, sqlite::SqliteConfig};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

pub(crate) struct Bed {
    pub(crate) store: SqliteStore,
    pub(crate) service: EventLogService,
    pub(crate) shutdown: CancellationToken,
    folder: TempDir,
}

/// The service over a store.
pub(crate) async fn service(store: SqliteStore, shutdown: CancellationToken) -> EventLogService {
    let dependencies = Dependencies {
        store: Arc::new(store.clone()),
        documents: Arc::new(store.clone()),
        bus: Arc::new(EmbeddedBus::new(store)),
        groups: Arc::new(Vec::<KnownGroup>::new()),
    };
    EventLogService::build(Verifier::build(dependencies).await.unwrap(), shutdown).await.unwrap()
}

impl Bed {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("runmesh.db"))).unwrap();
        let shutdown = CancellationToken::new();
        let service = service(store.clone(), shutdown.clone()).await;
        Self { store, service, shutdown, folder }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("runmesh.db")
    }

    /// Appends to a log.
    pub(crate) async fn append(&self, log: &str, events: Vec<NewEvent>) -> Vec<Arc<Event>> {
        self.store.append(&AggregateId::from(log), Expected::Any, events).await.unwrap().events
    }

    /// Appends an execution of ann's with all that closes its log. Returns its events.
    pub(crate) async fn execution(&self) -> Vec<Arc<Event>> {
        let execution_id = ExecutionId::new().to_string();
        let mut events = chain(vec![
            ExecutionRequested { execution_id: execution_id.clone(), script: "print(1)".into(), ..Default::default() }
                .into(),
            output(&execution_id, b"caf\xc3\xa9\n\0\xff"),
            ExecutionCompleted { execution_id: execution_id.clone(), ..Default::default() }.into(),
            ResultStored { execution_id: execution_id.clone(), ..Default::default() }.into(),
            SagaCompleted { execution_id: execution_id.clone(), ..Default::default() }.into(),
        ]);
        events.iter_mut().for_each(|event| event.user_id = "ann".into());
        self.append(&execution_id, events).await
    }

    /// All events, in order.
    pub(crate) async fn all(&self) -> Vec<Stored> {
        self.store.scan(&Filter::default(), Position(0), 1_000_000).await.unwrap()
    }

    pub(crate) async fn query(&self, request: QueryEventsRequest) -> Result<QueryEventsResponse, Status> {
        self.service.query_events(Request::new(request)).await.map(tonic::Response::into_inner)
    }

    /// All pages of a query, and how many they were.
    pub(crate) async fn pages(&self, mut request: QueryEventsRequest) -> (Vec<LoggedEvent>, usize) {
        let (mut events, mut pages) = (Vec::new(), 0);
        loop {
            let page = self.query(request.clone()).await.unwrap();
            events.extend(page.events);
            pages += 1;
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return (events, pages);
            }
        }
    }
}

pub(crate) fn output(execution_id: &str, data: &[u8]) -> Payload {
    ExecutionOutput { execution_id: execution_id.to_owned(), data: data.to_vec().into(), ..Default::default() }.into()
}

/// A root event.
pub(crate) fn event(payload: impl Into<Payload>) -> NewEvent {
    NewEvent::root("test", "", &TraceParent::new_root(), payload)
}

/// An event that another one causes.
pub(crate) fn effect(cause: &NewEvent, payload: impl Into<Payload>) -> NewEvent {
    NewEvent {
        causation_id: cause.event_id.to_string(),
        correlation_id: cause.correlation_id.clone(),
        event_id: EventId::new(),
        ..event(payload)
    }
}

/// Events of which each causes the next.
pub(crate) fn chain(payloads: Vec<Payload>) -> Vec<NewEvent> {
    let mut events: Vec<NewEvent> = Vec::new();
    for payload in payloads {
        let next = match events.last() {
            None => event(payload),
            Some(cause) => effect(cause, payload),
        };
        events.push(next);
    }
    events
}

pub(crate) fn of_types(types: &[EventType]) -> Option<EventFilter> {
    Some(EventFilter { event_types: types.iter().map(|one| *one as i32).collect(), ..Default::default() })
}

/// The places of events.
pub(crate) fn positions(events: &[LoggedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.position).collect()
}
