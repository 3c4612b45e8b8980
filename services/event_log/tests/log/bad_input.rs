//! What is not acceptable is refused with the name of the field.

use prost_types::Timestamp;
use runmesh_proto::{
    event::EventFilter,
    event_log::{
        DeleteEventRequest, ExportEventsRequest, GetEventRequest, GetEventStatsRequest, QueryEventsRequest,
        TailEventsRequest, event_log_service_server::EventLogService as _,
    },
};
use tonic::{Code, Request, Response, Status};

use crate::bed::Bed;

fn refused<T>(result: Result<Response<T>, Status>, field: &str) {
    let status = result.err().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
    assert!(status.message().starts_with(&format!("{field}: ")), "{field}: {}", status.message());
}

#[tokio::test]
async fn a_filter_is_checked_by_every_method_that_has_one() {
    let bed = Bed::new().await;
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let filters = [
        ("filter.event_types[1]", EventFilter { event_types: vec![1, 4711], ..Default::default() }),
        ("filter.event_types[0]", EventFilter { event_types: vec![0], ..Default::default() }),
        ("filter.exclude_event_types[0]", EventFilter { exclude_event_types: vec![-1], ..Default::default() }),
        (
            "filter.exclude_event_types",
            EventFilter { event_types: vec![1], exclude_event_types: vec![1], ..Default::default() },
        ),
        ("filter.until", EventFilter { from: time(10), until: time(10), ..Default::default() }),
        ("filter.from", EventFilter { from: time(-1), ..Default::default() }),
        ("filter.event_ids[0]", EventFilter { event_ids: vec!["x".into()], ..Default::default() }),
        ("filter.text", EventFilter { text: "x".repeat(1_001), ..Default::default() }),
        (
            "filter.aggregate_id",
            EventFilter { execution_id: "a".into(), aggregate_id: "b".into(), ..Default::default() },
        ),
    ];
    for (field, filter) in filters {
        let filter = Some(filter);
        let (service, filter) = (&bed.service, || filter.clone());
        refused(
            service.query_events(Request::new(QueryEventsRequest { filter: filter(), ..Default::default() })).await,
            field,
        );
        refused(
            service
                .get_event_stats(Request::new(GetEventStatsRequest { filter: filter(), ..Default::default() }))
                .await,
            field,
        );
        refused(
            service.export_events(Request::new(ExportEventsRequest { filter: filter(), ..Default::default() })).await,
            field,
        );
        refused(
            service.tail_events(Request::new(TailEventsRequest { filter: filter(), ..Default::default() })).await,
            field,
        );
    }
}

#[tokio::test]
async fn each_other_field_is_checked_too() {
    let bed = Bed::new().await;
    let service = &bed.service;
    for page_size in [-1, 1_001] {
        refused(
            service.query_events(Request::new(QueryEventsRequest { page_size, ..Default::default() })).await,
            "page_size",
        );
    }
    let order_by = "position".to_owned();
    refused(
        service.query_events(Request::new(QueryEventsRequest { order_by, ..Default::default() })).await,
        "order_by",
    );
    for top_users in [-1, 1_001] {
        refused(
            service.get_event_stats(Request::new(GetEventStatsRequest { top_users, ..Default::default() })).await,
            "top_users",
        );
    }
    refused(
        service.export_events(Request::new(ExportEventsRequest { format: 7, ..Default::default() })).await,
        "format",
    );
    for cursor in ["x", "-1", "01", "1.5", "18446744073709551616"] {
        let cursor = cursor.to_owned();
        refused(service.tail_events(Request::new(TailEventsRequest { cursor, ..Default::default() })).await, "cursor");
    }
    let id = runmesh_events::EventId::new().to_string();
    for (field, filter) in [
        ("filter.until", EventFilter { until: Some(Timestamp { seconds: 10, nanos: 0 }), ..Default::default() }),
        ("filter.event_ids", EventFilter { event_ids: vec![id.clone()], ..Default::default() }),
    ] {
        let filter = Some(filter);
        refused(service.tail_events(Request::new(TailEventsRequest { filter, ..Default::default() })).await, field);
    }
    for event_id in ["", "17"] {
        let event_id = event_id.to_owned();
        refused(service.get_event(Request::new(GetEventRequest { event_id })).await, "event_id");
    }
    let whole = DeleteEventRequest { event_id: id.clone(), actor: "ann".into(), reason: "why".into() };
    for (field, request) in [
        ("event_id", DeleteEventRequest { event_id: "17".into(), ..whole.clone() }),
        ("actor", DeleteEventRequest { actor: " ".into(), ..whole.clone() }),
        ("reason", DeleteEventRequest { reason: String::new(), ..whole.clone() }),
        ("reason", DeleteEventRequest { reason: "x".repeat(1_001), ..whole.clone() }),
    ] {
        refused(service.delete_event(Request::new(request)).await, field);
    }
    let status = service.get_event(Request::new(GetEventRequest { event_id: id })).await.err().unwrap();
    assert_eq!(status.code(), Code::NotFound);
    let status = service.delete_event(Request::new(whole)).await.err().unwrap();
    assert_eq!(status.code(), Code::NotFound);
    assert!(bed.all().await.is_empty(), "nothing was stored");
}
