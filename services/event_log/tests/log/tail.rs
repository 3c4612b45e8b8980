//! Events as they are recorded.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use runmesh_proto::{
    event::{EventFilter, EventType, PodCreated},
    event_log::{
        TailEventsRequest, TailEventsResponse, event_log_service_server::EventLogService as _,
        tail_events_response::Item,
    },
};
use tokio::time::timeout;
use tonic::{Code, Request, Status};

use crate::bed::{Bed, event, of_types, output};

const PATIENCE: Duration = Duration::from_secs(60);

type Stream = std::pin::Pin<Box<dyn futures::Stream<Item = Result<TailEventsResponse, Status>> + Send>>;

async fn tail(bed: &Bed, filter: Option<EventFilter>, cursor: &str) -> Stream {
    let request = TailEventsRequest { filter, cursor: cursor.to_owned() };
    bed.service.tail_events(Request::new(request)).await.unwrap().into_inner()
}

async fn next(stream: &mut Stream) -> Result<TailEventsResponse, Status> {
    timeout(PATIENCE, stream.next()).await.unwrap().unwrap()
}

/// The position of the next event; how far it is said to be is passed over.
async fn next_event(stream: &mut Stream) -> u64 {
    loop {
        let message = next(stream).await.unwrap();
        if let Some(Item::Event(event)) = message.item {
            assert_eq!(message.cursor, event.position.to_string());
            return event.position;
        }
    }
}

#[tokio::test]
async fn a_tail_begins_now_or_after_any_event_and_has_a_cursor_at_once() {
    let bed = Bed::new().await;
    bed.execution().await;
    let mut from_now = tail(&bed, None, "").await;
    let first = next(&mut from_now).await.unwrap();
    assert_eq!((first.cursor.as_str(), matches!(first.item, Some(Item::Progress(_)))), ("5", true));
    let mut from_start = tail(&bed, None, "0").await;
    assert_eq!(next(&mut from_start).await.unwrap().cursor, "0");
    for position in 1..=5 {
        assert_eq!(next_event(&mut from_start).await, position);
    }
    let waiting = tokio::spawn(async move { (next_event(&mut from_now).await, next_event(&mut from_start).await) });
    bed.execution().await;
    assert_eq!(timeout(PATIENCE, waiting).await.unwrap().unwrap(), (6, 6));
    // The cursor of a message without an event is as good as one with.
    let mut again = tail(&bed, None, &first.cursor).await;
    assert_eq!(next_event(&mut again).await, 6);
}

#[tokio::test]
async fn a_tail_shows_what_its_filter_means_alone() {
    let bed = Bed::new().await;
    let mut created = tail(&bed, of_types(&[EventType::PodCreated]), "").await;
    let text = Some(EventFilter { text: "needle".into(), ..Default::default() });
    let mut needles = tail(&bed, text, "").await;
    for _ in 0..12 {
        bed.append("log", (0..1_000).map(|_| event(output("x", b"hay"))).collect()).await;
    }
    let pod = PodCreated { pod_name: "Needle".into(), ..Default::default() };
    bed.append("log", vec![event(pod)]).await;
    assert_eq!(next_event(&mut created).await, 12_001);
    // Who waits for something rare is told how far it is.
    let mut cursors = Vec::new();
    let found = loop {
        let message = next(&mut needles).await.unwrap();
        match message.item {
            Some(Item::Event(event)) => break event.position,
            _ => cursors.push(message.cursor.parse::<u64>().unwrap()),
        }
    };
    assert_eq!((found, cursors[0]), (12_001, 0));
    assert!(cursors.len() > 1 && cursors.is_sorted(), "{cursors:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_cut_a_tail_goes_on_with_the_next_event() {
    let bed = Arc::new(Bed::new().await);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let bed = Arc::clone(&bed);
            tokio::spawn(async move {
                for number in 0..100 {
                    let events = (0..=number % 7).map(|_| event(output("x", b"data"))).collect();
                    bed.append(&format!("log-{writer}"), events).await;
                }
            })
        })
        .collect();
    let (mut seen, mut cursor, mut cuts) = (Vec::new(), "0".to_owned(), 0);
    // 14 times 1 + 2 + … + 7, and 1 + 2, for each writer.
    let count = 4 * (14 * 28 + 3);
    while seen.len() < count {
        let mut stream = tail(&bed, None, &cursor).await;
        for _ in 0..=cuts % 60 {
            if seen.len() < count {
                seen.push(next_event(&mut stream).await);
            }
        }
        cursor = seen.last().map_or(cursor, ToString::to_string);
        cuts += 1;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let all: Vec<u64> = bed.all().await.iter().map(|stored| stored.position.0).collect();
    assert_eq!(seen, all);
    assert!(cuts > 10);
}

#[tokio::test]
async fn a_shutdown_ends_it_with_unavailable() {
    let bed = Bed::new().await;
    let mut stream = tail(&bed, None, "").await;
    next(&mut stream).await.unwrap();
    let waiting = tokio::spawn(async move { next(&mut stream).await });
    bed.shutdown.cancel();
    let status = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}
