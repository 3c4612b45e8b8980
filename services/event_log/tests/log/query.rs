//! Events in pages.

use runmesh_events::{from_timestamp, to_timestamp};
use runmesh_proto::{
    event::{EventFilter, EventType},
    event_log::QueryEventsRequest,
};
use tonic::Code;

use crate::bed::{Bed, event, of_types, output, positions};

#[tokio::test]
async fn pages_go_through_all_events_once_in_either_order() {
    let bed = Bed::new().await;
    for _ in 0..20 {
        bed.execution().await;
    }
    let all: Vec<u64> = bed.all().await.iter().map(|stored| stored.position.0).collect();
    let reversed: Vec<u64> = all.iter().rev().copied().collect();
    for (order_by, wanted) in [("", &reversed), ("recorded_at desc", &reversed), ("recorded_at", &all)] {
        for page_size in [0, 1, 7, 100, 1_000] {
            let request = QueryEventsRequest { page_size, order_by: order_by.into(), ..Default::default() };
            let (events, _) = bed.pages(request).await;
            assert_eq!(&positions(&events), wanted, "{order_by} by {page_size}");
        }
    }
    let first = bed.query(QueryEventsRequest { page_size: 1, ..Default::default() }).await.unwrap();
    assert_eq!((first.events[0].topic.as_str(), first.events.len()), ("saga_completed", 1));
    assert_eq!(first.events[0].event.as_ref(), bed.all().await.last().map(|stored| &*stored.event));
}

#[tokio::test]
async fn each_condition_of_the_filter_is_kept_to() {
    let bed = Bed::new().await;
    bed.execution().await;
    let execution = bed.execution().await;
    let mut other = event(output("x", b"only here"));
    other.producer = "other".into();
    bed.append("x", vec![other.clone()]).await;
    let id = execution[0].aggregate_id.clone();
    let at = |index: usize| execution[index].occurred_at.as_ref().and_then(from_timestamp).map(to_timestamp);
    let filters = [
        (of_types(&[EventType::ExecutionRequested]).unwrap(), 2),
        (EventFilter { exclude_event_types: vec![EventType::ExecutionOutput.into()], ..Default::default() }, 8),
        (EventFilter { execution_id: id.clone(), ..Default::default() }, 5),
        (EventFilter { aggregate_id: id, ..of_types(&[EventType::ExecutionOutput]).unwrap() }, 1),
        (EventFilter { user_id: "ann".into(), ..Default::default() }, 10),
        (EventFilter { producer: "other".into(), ..Default::default() }, 1),
        (EventFilter { correlation_id: execution[0].correlation_id.clone(), ..Default::default() }, 5),
        (
            EventFilter {
                from: at(0),
                until: at(0).map(|at| prost_types::Timestamp { seconds: at.seconds + 60, ..at }),
                ..Default::default()
            },
            6,
        ),
        (EventFilter { text: "ONLY here".into(), ..Default::default() }, 1),
        (
            EventFilter {
                event_ids: vec![execution[3].event_id.clone(), other.event_id.to_string()],
                ..Default::default()
            },
            2,
        ),
        (
            EventFilter {
                event_ids: vec![execution[3].event_id.clone()],
                producer: "other".into(),
                ..Default::default()
            },
            0,
        ),
    ];
    for (filter, count) in filters {
        for page_size in [1, 50] {
            let request = QueryEventsRequest { filter: Some(filter.clone()), page_size, ..Default::default() };
            let (events, _) = bed.pages(request).await;
            assert_eq!(events.len(), count, "{filter:?}");
            assert!(positions(&events).is_sorted_by(|one, two| one > two), "{filter:?}");
        }
    }
}

#[tokio::test]
async fn what_is_rare_is_found_over_short_pages_and_none_is_without_bound() {
    let bed = Bed::new().await;
    for batch in 0..25 {
        let events = (0..1_000).map(|number| event(output("x", format!("{batch}/{number}").as_bytes()))).collect();
        bed.append(&format!("log-{batch}"), events).await;
    }
    let filter = Some(EventFilter { text: "0/999".into(), ..Default::default() });
    let request = QueryEventsRequest { filter, ..Default::default() };
    let first = bed.query(request.clone()).await.unwrap();
    assert!(!first.next_page_token.is_empty(), "it has not looked at all");
    let (events, pages) = bed.pages(request).await;
    // 0/999, 10/999 and 20/999.
    assert_eq!((events.len(), pages > 1), (3, true));
    // A page of large events is short.
    for _ in 0..5 {
        bed.append("large", vec![event(output("x", &vec![7; 1 << 20]))]).await;
    }
    let filter = Some(EventFilter { aggregate_id: "large".into(), ..Default::default() });
    let (events, pages) = bed.pages(QueryEventsRequest { filter, ..Default::default() }).await;
    assert_eq!((events.len(), pages), (5, 5), "two have more than 2 MiB with what else they say");
}

#[tokio::test]
async fn a_token_is_good_for_its_own_query_alone() {
    let bed = Bed::new().await;
    bed.execution().await;
    let first = bed.query(QueryEventsRequest { page_size: 2, ..Default::default() }).await.unwrap();
    for request in [
        QueryEventsRequest {
            page_token: first.next_page_token.clone(),
            order_by: "recorded_at".into(),
            ..Default::default()
        },
        QueryEventsRequest {
            page_token: first.next_page_token.clone(),
            filter: of_types(&[EventType::PodFailed]),
            ..Default::default()
        },
        QueryEventsRequest { page_token: "nonsense".into(), ..Default::default() },
    ] {
        let status = bed.query(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("page_token: "), "{}", status.message());
    }
    // The size may change.
    let next = QueryEventsRequest { page_token: first.next_page_token, page_size: 3, ..Default::default() };
    assert_eq!(bed.query(next).await.unwrap().events.len(), 3);
}
