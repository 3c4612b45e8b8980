//! Files: written by one replay, read by another.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use runmesh_bus::conformance::{TOPIC, sample};
use runmesh_events::{Event, EventType, from_timestamp, json, to_timestamp};
use runmesh_proto::replay::{
    CreateReplayRequest, FileTarget, GroupTarget, ReplayOptions, ReplaySpec, ReplayState, TopicsTarget,
    replay_spec::Target,
};

use crate::mesh::{Mesh, WILLING, of_types};

fn creating(spec: ReplaySpec) -> CreateReplayRequest {
    CreateReplayRequest { spec: Some(spec), ..Default::default() }
}

fn to_file() -> ReplaySpec {
    ReplaySpec { all: true, target: Some(Target::File(FileTarget {})), ..Default::default() }
}

/// What is written to a file is, event for event and byte for byte, what comes out of it, also where it is no text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_gives_back_what_was_written_to_it() {
    let mesh = Mesh::new().await;
    let events = mesh.fill(120).await;
    let written = mesh.replay(creating(to_file())).await;
    assert_eq!((written.progress.unwrap().sent, written.file_name), (360, format!("{}.ndjson", written.replay_id)));
    let text =
        std::fs::read_to_string(mesh.folder.path().join("replays").join(format!("{}.ndjson", written.replay_id)));
    let lines: Vec<String> = text.unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 360);
    for (line, event) in lines.iter().zip(&events) {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((json["eventId"].as_str(), json["userId"].as_str()), (Some(&*event.event_id), Some("j\u{f6}rg")));
    }
    // Out of the file, into another one, and to a group.
    let copied = mesh.replay(creating(ReplaySpec { all: false, source_file: written.replay_id.clone(), ..to_file() }));
    let copied = copied.await;
    let read = |id: &str| std::fs::read(mesh.folder.path().join("replays").join(format!("{id}.ndjson"))).unwrap();
    assert_eq!(read(&copied.replay_id), read(&written.replay_id));
    let target = Some(Target::Group(GroupTarget { group: WILLING.to_string() }));
    let source_file = format!("{}.ndjson", written.replay_id);
    let sent = mesh.replay(creating(ReplaySpec { source_file, target, ..Default::default() })).await;
    let progress = sent.progress.unwrap();
    assert_eq!((progress.matched, progress.sent, progress.skipped), (360, 240, 120));
    mesh.until_done().await;
    let by_id: BTreeMap<_, _> = events.iter().map(|event| (event.event_id.clone(), event)).collect();
    let (replayed, _) = mesh.replayed(WILLING);
    assert_eq!(replayed.len(), 240);
    for (event, _) in replayed {
        assert_eq!(event, **by_id.get(&event.event_id).unwrap());
    }
    // Those with bytes go by the topics.
    let filter = of_types(&[EventType::ExecutionOutput]);
    let target = Some(Target::Topics(TopicsTarget::default()));
    let spec = ReplaySpec { filter, source_file: written.replay_id, target, ..Default::default() };
    let sent = mesh.replay(creating(spec)).await;
    assert_eq!(sent.progress.unwrap().sent, 120);
    let extent = mesh.bus.extents(&[EventType::ExecutionOutput]).await.unwrap()[0];
    let records = mesh.bus.read(extent.lane, extent.first, extent.next).await.unwrap();
    let records: Vec<_> = futures::TryStreamExt::try_collect(records).await.unwrap();
    let replayed: Vec<_> = records.iter().filter(|one| one.header("runmesh-replay").is_some()).collect();
    assert_eq!(replayed.len(), 120);
    for record in replayed {
        let event = record.event().unwrap();
        assert_eq!(event, **by_id.get(&event.event_id).unwrap());
    }
    mesh.stop().await;
}

/// A line that is no event ends the replay, with its place, or is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_line_ends_the_replay_or_is_left_out() {
    let mesh = Mesh::new().await;
    let line = |number| json::of(json::EVENT, &sample(TOPIC, "a", number));
    let folder = mesh.folder.path().join("replays");
    std::fs::create_dir_all(&folder).unwrap();
    let text = format!("{}\n\nnot an event\n{}\n{{\"eventId\":\"x\"}}\n{}", line(1), line(2), line(3));
    std::fs::write(folder.join("mixed.ndjson"), &text).unwrap();
    let spec = |skip_errors| ReplaySpec {
        source_file: "mixed.ndjson".into(),
        target: Some(Target::Topics(TopicsTarget::default())),
        options: Some(ReplayOptions { skip_errors, ..Default::default() }),
        ..Default::default()
    };
    let id = mesh.begin(creating(spec(false))).await;
    let failed = mesh.until_state(&id, ReplayState::Failed).await;
    assert_eq!((failed.progress.unwrap().sent, failed.errors.len()), (1, 1));
    let place = text.find("not an event").unwrap() + "not an event\n".len();
    assert_eq!(failed.errors[0].place, i64::try_from(place).unwrap());
    assert!(failed.note.contains("is no event"), "{}", failed.note);
    // It goes on with that line, and fails again; what was sent is not sent again.
    mesh.resume(&id).await.unwrap();
    let failed = mesh.until_state(&id, ReplayState::Failed).await;
    assert_eq!(failed.progress.unwrap().sent, 1);
    let done = mesh.replay(creating(spec(true))).await;
    let progress = done.progress.unwrap();
    assert_eq!((progress.sent, progress.failed, done.errors.len()), (3, 2, 2));
    mesh.stop().await;
}

/// Once by the real clock: 1.2 s of gaps, three times as fast, take 0.4 s. A machine may be busy, so there are several goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gaps_are_kept_in_real_time() {
    const GAP: Duration = Duration::from_millis(150);
    const SPEED: f64 = 3.0;
    let mesh = Mesh::new().await;
    let folder = mesh.folder.path().join("replays");
    std::fs::create_dir_all(&folder).unwrap();
    let (mut at, mut lines) = (std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000), String::new());
    for number in 1..=9 {
        let event = Event { occurred_at: Some(to_timestamp(at)), ..sample(TOPIC, &format!("log-{number}"), 1) };
        lines.push_str(&json::of(json::EVENT, &event));
        lines.push('\n');
        at += GAP;
    }
    std::fs::write(folder.join("gaps.ndjson"), lines).unwrap();
    let spec = ReplaySpec {
        source_file: "gaps.ndjson".into(),
        target: Some(Target::Group(GroupTarget { group: WILLING.to_string() })),
        options: Some(ReplayOptions { speed: SPEED, ..Default::default() }),
        ..Default::default()
    };
    let wanted = GAP.as_secs_f64() * 8.0 / SPEED;
    let mut found = Vec::new();
    for _ in 0..5 {
        let id = mesh.replay(creating(spec.clone())).await.replay_id;
        mesh.until_done().await;
        let of_replay = |(event, delivery): (Arc<Event>, runmesh_bus::Delivery)| {
            assert!(from_timestamp(event.occurred_at.as_ref().unwrap()).is_some());
            (delivery.header("runmesh-replay") == Some(&id)).then_some(delivery.timestamp)
        };
        let mut sent: Vec<_> = mesh.replayed(WILLING).0.into_iter().filter_map(of_replay).collect();
        sent.sort();
        assert_eq!(sent.len(), 9);
        let took = sent[8].duration_since(sent[0]).unwrap().as_secs_f64();
        assert!(took >= wanted * 0.95, "too fast: {took} s for {wanted} s");
        found.push(took);
        if took <= wanted * 1.05 {
            mesh.stop().await;
            return;
        }
    }
    panic!("too slow: {found:?} s for {wanted} s");
}
