//! A store that processes share.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use runmesh_bus::{EmbeddedBus, KnownGroup};
use runmesh_event_log::{Dependencies, EventLogService, Verifier};
use runmesh_events::AggregateId;
use runmesh_proto::event_log::{
    DeleteEventRequest, GetEventRequest, QueryEventsRequest, TailEventsRequest,
    event_log_service_server::EventLogService as _, tail_events_response::Item,
};
use runmesh_servers::MongoLike;
use runmesh_store::{EventStore, Expected, MongoStore, SqliteStore, mongodb::MongoConfig, sqlite::SqliteConfig};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::bed::{event, output, positions};

const PATIENCE: Duration = Duration::from_secs(60);

async fn open(server: &MongoLike, name: &str) -> MongoStore {
    let mut config = MongoConfig { publisher: name.to_owned(), ..MongoConfig::new(server.uri()) };
    // The test server takes one message at a time.
    config.operation_timeout = Duration::from_secs(60);
    MongoStore::open(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_other_processes_record_is_shown_once_and_in_order() {
    let server = tokio::task::spawn_blocking(MongoLike::start).await.unwrap().unwrap();
    let (own, other) = (open(&server, "own").await, open(&server, "other").await);
    let folder = tempfile::tempdir().unwrap();
    let bus = SqliteStore::open(&SqliteConfig::new(folder.path().join("bus.db"))).unwrap();
    let dependencies = Dependencies {
        store: Arc::new(own.clone()),
        documents: Arc::new(own.clone()),
        bus: Arc::new(EmbeddedBus::new(bus)),
        groups: Arc::new(Vec::<KnownGroup>::new()),
    };
    let verifier = Verifier::build(dependencies).await.unwrap();
    let service = EventLogService::build(verifier, CancellationToken::new()).await.unwrap();
    let request = Request::new(TailEventsRequest::default());
    let mut tail = service.tail_events(request).await.unwrap().into_inner();
    let first = timeout(PATIENCE, tail.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(first.item, Some(Item::Progress(_))));

    let mut recorded = Vec::new();
    for number in 0..10 {
        let store: &dyn EventStore = if number % 2 == 0 { &own } else { &other };
        let log = AggregateId::from(format!("log-{}", number % 3));
        let events = vec![event(output("x", b"data")), event(output("x", b"more"))];
        let appended = store.append(&log, Expected::Any, events).await.unwrap();
        recorded.extend(appended.events.iter().map(|event| event.event_id.clone()));
    }
    let mut seen = Vec::new();
    let mut last = 0;
    while seen.len() < recorded.len() {
        let message = timeout(PATIENCE, tail.next()).await.unwrap().unwrap().unwrap();
        let Some(Item::Event(logged)) = message.item else { continue };
        assert!(logged.position > last && message.cursor == logged.position.to_string());
        last = logged.position;
        seen.push(logged.event.unwrap().event_id);
    }
    assert_eq!(seen, recorded);
    // Pages, one event, and a deletion are the same there.
    let request = QueryEventsRequest { page_size: 7, ..Default::default() };
    let page = service.query_events(Request::new(request)).await.unwrap().into_inner();
    assert!(page.events.len() == 7 && positions(&page.events)[0] == last && !page.next_page_token.is_empty());
    let request = DeleteEventRequest { event_id: seen[3].clone(), actor: "ann".into(), reason: "a secret".into() };
    service.delete_event(Request::new(request)).await.unwrap();
    let request = GetEventRequest { event_id: seen[3].clone() };
    let detail = service.get_event(Request::new(request)).await.unwrap().into_inner().detail.unwrap();
    assert_eq!(detail.deletion.map(|deletion| deletion.actor).as_deref(), Some("ann"));
    let found = other.get(&seen[3].parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(found.event.payload, Some(output("x", b"")));
}
