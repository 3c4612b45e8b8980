//! What a preview says.

use runmesh_events::from_timestamp;
use runmesh_proto::{
    event::EventFilter,
    replay::{
        FileTarget, GroupTarget, PreviewReplayRequest, ReplayOptions, ReplayPreview, ReplaySpec, TopicsTarget,
        replay_service_server::ReplayService as _, replay_spec::Target,
    },
};
use tonic::Request;

use crate::mesh::{BOLD, LATE, Mesh, SHY, WILLING};

async fn preview(mesh: &Mesh, spec: ReplaySpec) -> ReplayPreview {
    let request = PreviewReplayRequest { spec: Some(spec) };
    mesh.service.preview_replay(Request::new(request)).await.unwrap().into_inner().preview.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_counts_and_names_who_would_see_it_and_sends_nothing() {
    let mesh = Mesh::new().await;
    mesh.fill(400).await;
    mesh.until_done().await;
    let options = ReplayOptions { rate: 100.0, max_events: 1_000, ..Default::default() };
    let target = Some(Target::Topics(TopicsTarget::default()));
    let spec = ReplaySpec { all: true, target, options: Some(options), ..Default::default() };
    let seen = preview(&mesh, spec.clone()).await;
    assert_eq!((seen.count, seen.to_send, seen.scanned, seen.complete), (1_200, 1_000, 1_200, true));
    let types: Vec<_> = seen.types.iter().map(|one| (one.topic.as_str(), one.count)).collect();
    assert_eq!(types, [("execution_output", 400), ("execution_started", 400), ("pod_created", 400)]);
    assert_eq!(seen.hours.iter().map(|hour| hour.count).sum::<i64>(), 1_200);
    assert!(seen.hours.len() <= 2 && seen.hours[0].hour.unwrap().seconds % 3_600 == 0);
    assert!((5..=10).contains(&seen.samples.len()) && seen.samples[0].aggregate_id == "log-0");
    let groups: Vec<_> = seen.groups.iter().map(|one| (one.group.as_str(), one.count, one.outside_effects)).collect();
    let expected = [(WILLING, 800, false), (BOLD, 400, true), (LATE, 800, false)];
    assert_eq!(groups, expected.map(|(group, count, effects)| (group.as_str(), count, effects)));
    assert_eq!(seen.refusing_groups, [SHY.as_str()]);
    assert_eq!(seen.duration.unwrap().seconds, 10);

    // By the speed: the time from the first to the last, in so many parts.
    let options = ReplayOptions { speed: 0.5, ..Default::default() };
    let timed = preview(&mesh, ReplaySpec { options: Some(options), ..spec.clone() }).await;
    let (first, last) = (timed.first_at.unwrap(), timed.last_at.unwrap());
    let length = from_timestamp(&last).unwrap().duration_since(from_timestamp(&first).unwrap()).unwrap();
    let duration = runmesh_events::from_duration(&timed.duration.unwrap()).unwrap();
    assert!((duration.as_secs_f64() - length.as_secs_f64() * 2.0).abs() < 1e-3, "{duration:?} {length:?}");

    let target = Some(Target::Group(GroupTarget { group: BOLD.to_string() }));
    let alone = preview(&mesh, ReplaySpec { target, options: None, ..spec.clone() }).await;
    assert_eq!((alone.count, alone.to_send, alone.duration, alone.groups.len()), (1_200, 400, None, 1));
    let target = Some(Target::File(FileTarget {}));
    let filter = Some(EventFilter { aggregate_id: "log-3".into(), ..Default::default() });
    let file = preview(&mesh, ReplaySpec { all: false, filter, target, ..Default::default() }).await;
    assert_eq!((file.count, file.groups.len(), file.refusing_groups.len()), (3, 0, 0));
    mesh.until_done().await;
    assert_eq!(mesh.replayed(WILLING).0.len(), 0);
    mesh.stop().await;
}
