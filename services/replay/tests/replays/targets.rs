//! Topics and groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use runmesh_bus::{
    Delivery, Record,
    conformance::{TOPIC, TOPIC_2, until},
    header,
};
use runmesh_events::{Event, EventType};
use runmesh_proto::{
    event::EventFilter,
    replay::{CreateReplayRequest, GroupTarget, ReplayOptions, ReplaySpec, TopicsTarget, replay_spec::Target},
};

use crate::mesh::{BOLD, LATE, Mesh, SHY, WILLING, of_types};

fn topics(filter: Option<EventFilter>, options: ReplayOptions) -> CreateReplayRequest {
    let target = Some(Target::Topics(TopicsTarget::default()));
    let spec = ReplaySpec { all: filter.is_none(), filter, target, options: Some(options), ..Default::default() };
    CreateReplayRequest { spec: Some(spec), ..Default::default() }
}

fn ids(events: &[Arc<Event>], event_types: &[EventType]) -> BTreeSet<String> {
    let is_of = |event: &&Arc<Event>| event_types.contains(&event.payload.as_ref().unwrap().event_type());
    events.iter().filter(is_of).map(|event| event.event_id.clone()).collect()
}

/// Everything goes to its topic again, as it was, with a mark; groups that did not opt in do not see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_have_everything_again_and_only_groups_that_opted_in_see_it() {
    let mesh = Mesh::new().await;
    let events = mesh.fill(200).await;
    mesh.until_done().await;
    let options = ReplayOptions { preserve_timestamps: true, ..Default::default() };
    let done = mesh.replay(topics(None, options)).await;
    let progress = done.progress.unwrap();
    assert_eq!((progress.scanned, progress.matched, progress.sent), (600, 600, 600));
    assert_eq!((progress.skipped, progress.failed, progress.takeovers), (0, 0, 0));
    assert!((progress.fraction - 1.0).abs() < 1e-9 && done.ended_at.is_some());
    mesh.until_done().await;
    let (replayed, first) = mesh.replayed(WILLING);
    assert_eq!(first, 400);
    let seen: BTreeSet<_> = replayed.iter().map(|(event, _)| event.event_id.clone()).collect();
    assert_eq!((replayed.len(), seen), (400, ids(&events, &[TOPIC, TOPIC_2])));
    for (event, delivery) in &replayed {
        let mut wanted = Record::of(event).unwrap();
        wanted.headers.push((header::REPLAY.to_owned(), done.replay_id.clone().into()));
        assert_eq!((&delivery.key, &delivery.value, delivery.headers()), (&wanted.key, &wanted.value, wanted.headers));
        assert_eq!(delivery.timestamp, wanted.timestamp);
        assert_eq!(*event, *events.iter().find(|known| known.event_id == event.event_id).unwrap());
    }
    assert_eq!((mesh.replayed(BOLD).0.len(), mesh.replayed(SHY).0.len(), mesh.replayed(SHY).1), (200, 0, 400));
    mesh.stop().await;
}

/// The end of a replay is where the log ends when it starts: what it causes is no part of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_later_is_no_part_of_a_replay() {
    let mesh = Mesh::new().await;
    mesh.fill(20).await;
    let id = mesh.begin(topics(None, ReplayOptions { rate: 60.0, ..Default::default() })).await;
    for _ in 0..5 {
        mesh.fill(10).await;
    }
    let done = mesh.until_state(&id, runmesh_proto::replay::ReplayState::Completed).await;
    assert_eq!(done.progress.unwrap().sent, 60);
    mesh.stop().await;
}

/// A group alone gets what it reads; others, willing or not, pass over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_has_it_for_itself() {
    let mesh = Mesh::new().await;
    let events = mesh.fill(50).await;
    mesh.until_done().await;
    let target = Some(Target::Group(GroupTarget { group: BOLD.to_string() }));
    let spec = ReplaySpec { all: true, target, ..Default::default() };
    let done = mesh.replay(CreateReplayRequest { spec: Some(spec), ..Default::default() }).await;
    let progress = done.progress.unwrap();
    assert_eq!((progress.matched, progress.sent, progress.skipped), (150, 50, 100));
    mesh.until_done().await;
    let seen: BTreeSet<_> = mesh.replayed(BOLD).0.iter().map(|(event, _)| event.event_id.clone()).collect();
    assert_eq!(seen, ids(&events, &[TOPIC]));
    assert_eq!((mesh.replayed(WILLING).0.len(), mesh.replayed(SHY).0.len()), (0, 0));
    mesh.stop().await;
}

/// Conditions of a filter and options say what is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_and_options_say_what_is_sent() {
    let mesh = Mesh::new().await;
    let events = mesh.fill(30).await;
    let sent = async |request| mesh.replay(request).await.progress.unwrap().sent;
    let options = ReplayOptions::default();
    assert_eq!(sent(topics(of_types(&[TOPIC, TOPIC_2]), options)).await, 60);
    let one_log = EventFilter { execution_id: "log-7".into(), ..Default::default() };
    assert_eq!(sent(topics(Some(one_log), options)).await, 3);
    let by_id = EventFilter {
        event_ids: [5, 3, 80].map(|place: usize| events[place].event_id.clone()).into(),
        ..Default::default()
    };
    assert_eq!(sent(topics(Some(by_id), options)).await, 3);
    let none = EventFilter { user_id: "nobody".into(), ..Default::default() };
    assert_eq!(sent(topics(Some(none), options)).await, 0);
    assert_eq!(sent(topics(None, ReplayOptions { max_events: 7, batch_size: 3, ..options })).await, 7);
    let before = mesh.bus.extents(&[TOPIC]).await.unwrap()[0].next;
    assert_eq!(sent(topics(None, ReplayOptions { dry_run: true, ..options })).await, 90);
    assert_eq!(mesh.bus.extents(&[TOPIC]).await.unwrap()[0].next, before, "a dry run sends nothing");
    mesh.stop().await;
}

/// A group that came late and was given the past by a replay, while more happened, has the same in the end as one that was there
/// from the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_built_from_a_replay_equals_one_that_was_always_there() {
    let mut mesh = Mesh::new().await;
    mesh.fill(100).await;
    mesh.until_done().await;
    let late = mesh.join_late().await;
    let target = Some(Target::Group(GroupTarget { group: LATE.to_string() }));
    let spec = ReplaySpec { all: true, target, ..Default::default() };
    let done = mesh.replay(CreateReplayRequest { spec: Some(spec), ..Default::default() }).await;
    assert_eq!(done.progress.unwrap().sent, 200);
    // More of the same logs, and new ones.
    mesh.fill(150).await;
    mesh.until_done().await;
    until("the late group has finished", || async {
        let lag = mesh.bus.lag(LATE, &[TOPIC, TOPIC_2]).await.unwrap();
        lag.iter().all(|lag| lag.records == 0)
    })
    .await;
    // What a projection makes of it: of each log and topic all that it was given, in that order.
    let projection = |given: &[(Arc<Event>, Delivery)]| {
        let mut logs: BTreeMap<(Vec<u8>, i32), Vec<u8>> = BTreeMap::new();
        for (_, delivery) in given {
            let log = (delivery.key.to_vec(), delivery.event_type as i32);
            logs.entry(log).or_default().extend_from_slice(&delivery.value);
        }
        logs
    };
    let (from_replay, from_the_start) = (projection(&late.lock().unwrap()), projection(&mesh.given(WILLING)));
    assert_eq!(from_the_start.len(), 300);
    assert!(from_replay == from_the_start, "they differ");
    mesh.stop().await;
}
