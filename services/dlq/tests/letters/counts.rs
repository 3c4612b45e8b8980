//! Lists, groups of failures, numbers, exports.

use std::sync::atomic::Ordering;

use futures::TryStreamExt as _;
use runmesh_bus::conformance::{TOPIC, TOPIC_2, record, until};
use runmesh_events::EventType;
use runmesh_proto::dlq::{
    DeadLetter, DeadLetterFilter, DeadLetterState, DiscardDeadLettersRequest, ExportDeadLettersRequest,
    GetDlqStatsRequest, ListDeadLettersRequest, ListFailureGroupsRequest,
    dead_letter_service_server::DeadLetterService as _,
};
use tonic::{Code, Request};

use crate::mesh::Mesh;

async fn list(mesh: &Mesh, filter: DeadLetterFilter, page_size: i32) -> Vec<DeadLetter> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            ListDeadLettersRequest { filter: Some(filter.clone()), page_size, page_token, ..Default::default() };
        let page = mesh.service.list_dead_letters(Request::new(request)).await.unwrap().into_inner();
        assert!(page_size == 0 || page.dead_letters.len() <= usize::try_from(page_size).unwrap());
        all.extend(page.dead_letters);
        if page.next_page_token.is_empty() {
            return all;
        }
        page_token = page.next_page_token;
    }
}

/// Seven letters on one topic, three on another; one of them is discarded.
async fn filled() -> Mesh {
    let mesh = Mesh::failing().await;
    mesh.fails.permanent.store(true, Ordering::SeqCst);
    let mut last = None;
    for number in 0..7 {
        last = Some(mesh.bury(record(TOPIC, &format!("order-{number}"), 1)).await);
    }
    for number in 0..3 {
        mesh.bury(record(TOPIC_2, &format!("order-{number}"), 2)).await;
    }
    let dead_letter_ids = vec![last.unwrap().id];
    let request = DiscardDeadLettersRequest { dead_letter_ids, actor: "ann".into(), reason: "void".into() };
    assert!(mesh.service.discard_dead_letters(Request::new(request)).await.unwrap().into_inner().results[0].ok);
    mesh
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_have_what_the_filter_says_in_pages() {
    let mesh = filled().await;
    for page_size in [0, 1, 2, 9] {
        let all = list(&mesh, DeadLetterFilter::default(), page_size).await;
        assert_eq!(all.len(), 9, "pages of {page_size}");
        let times: Vec<_> = all.iter().map(|letter| letter.last_failed_at.map(|at| (at.seconds, at.nanos))).collect();
        assert!(times.is_sorted_by(|a, b| a >= b), "the newest first");
    }
    let of = async |filter: DeadLetterFilter| list(&mesh, filter, 2).await.len();
    let started = vec![EventType::ExecutionStarted as i32];
    assert_eq!(of(DeadLetterFilter { event_types: started.clone(), ..Default::default() }).await, 6);
    let every = [DeadLetterState::Parked as i32, DeadLetterState::Discarded as i32];
    assert_eq!(of(DeadLetterFilter { states: every.to_vec(), event_types: started, ..Default::default() }).await, 7);
    assert_eq!(of(DeadLetterFilter { aggregate_id: "order-1".into(), ..Default::default() }).await, 2);
    assert_eq!(of(DeadLetterFilter { groups: vec!["shop".into()], ..Default::default() }).await, 9);
    assert_eq!(of(DeadLetterFilter { groups: vec!["other".into()], ..Default::default() }).await, 0);
    assert_eq!(of(DeadLetterFilter { text: "ORDER-2 can't".into(), ..Default::default() }).await, 2);
    let one = list(&mesh, DeadLetterFilter::default(), 1).await.remove(0);
    let from = DeadLetterFilter { failed_from: one.last_failed_at, ..Default::default() };
    assert_eq!(of(from).await, 1);
    assert_eq!(of(DeadLetterFilter { failed_until: one.last_failed_at, ..Default::default() }).await, 8);
    let ids = vec![one.dead_letter_id.clone(), "nobody".into()];
    assert_eq!(of(DeadLetterFilter { dead_letter_ids: ids, ..Default::default() }).await, 1);
    for (request, field) in [
        (ListDeadLettersRequest { page_size: -1, ..Default::default() }, "page_size"),
        (ListDeadLettersRequest { page_token: "x".into(), ..Default::default() }, "page_token"),
        (ListDeadLettersRequest { order_by: "name".into(), ..Default::default() }, "order_by"),
        (
            ListDeadLettersRequest {
                filter: Some(DeadLetterFilter { event_types: vec![9_999], ..Default::default() }),
                ..Default::default()
            },
            "filter.event_types[0]",
        ),
        (
            ListDeadLettersRequest {
                filter: Some(DeadLetterFilter { states: vec![0], ..Default::default() }),
                ..Default::default()
            },
            "filter.states[0]",
        ),
    ] {
        let refused = mesh.service.list_dead_letters(Request::new(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{}", refused.message());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_one_cause_are_one_group() {
    let mesh = filled().await;
    let ask = async |request: ListFailureGroupsRequest| {
        mesh.service.list_failure_groups(Request::new(request)).await.unwrap().into_inner()
    };
    let groups = ask(ListFailureGroupsRequest::default()).await.failure_groups;
    assert_eq!(groups.len(), 2);
    let first = &groups[0];
    assert_eq!((first.topic.as_str(), first.open, first.count), ("execution_started", 6, 7));
    assert_eq!((first.group.as_str(), first.hourly.len(), first.hourly.iter().sum::<i64>()), ("shop", 24, 7));
    assert!(first.error.starts_with("order order-") && !first.sample_id.is_empty());
    let (oldest, newest) = (first.first_failed_at.unwrap(), first.last_failed_at.unwrap());
    assert!((oldest.seconds, oldest.nanos) < (newest.seconds, newest.nanos));
    // In pages, and of one topic alone.
    let page = ask(ListFailureGroupsRequest { page_size: 1, ..Default::default() }).await;
    assert_eq!(page.failure_groups[0], *first);
    let request = ListFailureGroupsRequest { page_size: 1, page_token: page.next_page_token, ..Default::default() };
    let page = ask(request).await;
    assert_eq!((&page.failure_groups[0], page.next_page_token.as_str()), (&groups[1], ""));
    let request = ListFailureGroupsRequest { event_type: EventType::PodCreated as i32, ..Default::default() };
    assert_eq!(ask(request).await.failure_groups, [groups[1].clone()]);
    assert!(
        ask(ListFailureGroupsRequest { group: "other".into(), ..Default::default() }).await.failure_groups.is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_by_topic_and_state() {
    let mesh = filled().await;
    let stats = mesh.service.get_dlq_stats(Request::new(GetDlqStatsRequest {})).await.unwrap().into_inner();
    let numbers: Vec<_> = stats.topics.iter().map(|topic| (topic.topic.as_str(), topic.state(), topic.count)).collect();
    let expected = [
        ("execution_started", DeadLetterState::Parked, 6),
        ("execution_started", DeadLetterState::Discarded, 1),
        ("pod_created", DeadLetterState::Parked, 3),
    ];
    assert_eq!(numbers, expected);
    let parked = &stats.topics[0];
    assert!(parked.oldest_failed_at.is_some() && parked.newest_failed_at.is_some());
    assert_eq!((parked.mean_retries, parked.max_retries), (0.0, 0));
    assert!(stats.paused_groups.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_seen_in_the_numbers() {
    let mesh = Mesh::failing().await;
    mesh.publish((0..50).map(|number| record(TOPIC, &format!("order-{number}"), 1)).collect()).await;
    let stats = async || mesh.service.get_dlq_stats(Request::new(GetDlqStatsRequest {})).await.unwrap().into_inner();
    until("the group is paused", || async { !stats().await.paused_groups.is_empty() }).await;
    let paused = stats().await.paused_groups.remove(0);
    assert!(paused.group == "shop" && paused.error.contains("can't be shipped"), "{paused:?}");
    mesh.recover();
    until("it goes on", || async { stats().await.paused_groups.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_has_a_json_object_in_each_line() {
    let mesh = filled().await;
    let export = async |filter: DeadLetterFilter| {
        let request = ExportDeadLettersRequest { filter: Some(filter) };
        let stream = mesh.service.export_dead_letters(Request::new(request)).await.unwrap().into_inner();
        let bodies: Vec<_> = stream.try_collect().await.unwrap();
        assert!(!bodies.is_empty() && bodies.iter().all(|body| body.content_type == "application/x-ndjson"));
        let text = String::from_utf8(bodies.into_iter().flat_map(|body| body.data).collect()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>()
    };
    let lines = export(DeadLetterFilter::default()).await;
    assert_eq!(lines.len(), 9);
    for line in &lines {
        let event: serde_json::Value = serde_json::from_str(line["eventJson"].as_str().unwrap()).unwrap();
        assert_eq!(event["aggregateId"], line["deadLetter"]["aggregateId"]);
    }
    assert!(export(DeadLetterFilter { groups: vec!["other".into()], ..Default::default() }).await.is_empty());
}
