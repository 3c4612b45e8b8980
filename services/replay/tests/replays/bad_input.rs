//! What is refused, with the status and the field.

use std::time::Duration;

use prost_types::Timestamp;
use runmesh_events::{EventType, to_timestamp};
use runmesh_proto::{
    event::EventFilter,
    execution::Limits,
    replay::{
        CancelReplayRequest, CleanupReplaysRequest, CreateReplayRequest, DeleteReplayRequest,
        ExportShadowReportRequest, FileTarget, GetReplayRequest, GetShadowReportRequest, GroupTarget,
        ListReplaysRequest, PreviewReplayRequest, ProjectionTarget, ReplayOptions, ReplaySpec, ReplayState,
        RerunOptions, ShadowTarget, StartReplayRequest, TopicsTarget, WatchReplayRequest,
        replay_service_server::ReplayService as _, replay_spec::Target,
    },
};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::mesh::{Mesh, SHY, WILLING, ago, of_types};

/// The fields that a status is about.
fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let bad = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    let unmet = details.precondition_failure().map(|unmet| unmet.violations.clone()).unwrap_or_default();
    bad.into_iter().map(|one| one.field).chain(unmet.into_iter().map(|one| one.subject)).collect()
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

fn to_file() -> ReplaySpec {
    ReplaySpec { all: true, target: Some(Target::File(FileTarget {})), ..Default::default() }
}

fn creating(spec: ReplaySpec) -> CreateReplayRequest {
    CreateReplayRequest { spec: Some(spec), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_replayed_is_refused_and_nothing_is_kept() {
    let mesh = Mesh::new().await;
    mesh.fill(2).await;
    let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let filtered = |filter: EventFilter| ReplaySpec { all: false, filter: Some(filter), ..to_file() };
    let map = |from: &str, to: &str| {
        let topic_map = [(from.to_owned(), to.to_owned())].into();
        ReplaySpec { target: Some(Target::Topics(TopicsTarget { topic_map })), ..to_file() }
    };
    let group = |name: &str| Some(Target::Group(GroupTarget { group: name.to_owned() }));
    let projection = |name: &str, spec: ReplaySpec| {
        let read_model = name.to_owned();
        ReplaySpec { target: Some(Target::Projection(ProjectionTarget { read_model })), ..spec }
    };
    let option = |options| ReplaySpec { options: Some(options), ..to_file() };
    for (spec, field) in [
        (ReplaySpec { all: false, ..to_file() }, "spec.filter"),
        (filtered(EventFilter { from: at(20), until: at(10), ..Default::default() }), "spec.filter.until"),
        (filtered(EventFilter { event_types: vec![4_711], ..Default::default() }), "spec.filter.event_types[0]"),
        (filtered(EventFilter { event_ids: vec!["x".into()], ..Default::default() }), "spec.filter.event_ids[0]"),
        (map("no_such_topic", "copies"), "spec.topics.topic_map[no_such_topic]"),
        (map("pod_created", "elsewhere"), "spec.topics.topic_map[pod_created]"),
        (option(ReplayOptions { speed: -1.0, ..Default::default() }), "spec.options.speed"),
        (option(ReplayOptions { speed: f64::INFINITY, ..Default::default() }), "spec.options.speed"),
        (option(ReplayOptions { rate: -1.0, ..Default::default() }), "spec.options.rate"),
        (option(ReplayOptions { batch_size: -1, ..Default::default() }), "spec.options.batch_size"),
        (option(ReplayOptions { max_events: -1, ..Default::default() }), "spec.options.max_events"),
        (option(ReplayOptions { retry_attempts: Some(-1), ..Default::default() }), "spec.options.retry_attempts"),
        (ReplaySpec { target: None, ..to_file() }, "spec.target"),
        (ReplaySpec { target: group(""), ..to_file() }, "spec.group.group"),
        (ReplaySpec { target: group("nobody"), ..to_file() }, "spec.group.group"),
        (
            ReplaySpec { target: group(WILLING.as_str()), ..filtered(of_types(&[EventType::PodFailed]).unwrap()) },
            "spec.group.group",
        ),
        (projection("", to_file()), "spec.projection.read_model"),
        (projection("nothing", to_file()), "spec.projection.read_model"),
        (projection("pods", ReplaySpec { all: false, ..to_file() }), "spec.filter"),
        (projection("pods", filtered(of_types(&[EventType::PodFailed]).unwrap())), "spec.filter"),
        (
            projection("pods", ReplaySpec { all: false, source_file: "a.ndjson".into(), ..to_file() }),
            "spec.source_file",
        ),
        (projection("pods", option(ReplayOptions { max_events: 5, ..Default::default() })), "spec.options.max_events"),
        (ReplaySpec { all: false, source_file: "../runmesh.db".into(), ..to_file() }, "spec.source_file"),
        (ReplaySpec { all: false, source_file: "gone.ndjson".into(), ..to_file() }, "spec.source_file"),
    ] {
        let refused = mesh.create(creating(spec.clone())).await.unwrap_err();
        assert_eq!((refused.code(), fields(&refused)), (Code::InvalidArgument, vec![field.to_owned()]), "{refused:?}");
        let preview = Request::new(PreviewReplayRequest { spec: Some(spec) });
        let refused = mesh.service.preview_replay(preview).await.unwrap_err();
        assert_eq!((refused.code(), fields(&refused)), (Code::InvalidArgument, vec![field.to_owned()]), "{refused:?}");
    }
    let refused = mesh.create(creating(ReplaySpec { target: group(SHY.as_str()), ..to_file() })).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "GROUP_TAKES_NO_REPLAYS"));
    assert_eq!(fields(&refused), ["spec.group.group"]);
    assert!(refused.message().contains(SHY.as_str()));
    let unsaid = mesh.service.create_replay(Request::new(creating(to_file()))).await.unwrap_err();
    assert_eq!(
        (unsaid.code(), fields(&unsaid)),
        (Code::InvalidArgument, vec!["actor".to_owned(), "reason".to_owned()])
    );
    let long = CreateReplayRequest { request_id: "x".repeat(129), ..creating(to_file()) };
    assert_eq!(fields(&mesh.create(long).await.unwrap_err()), ["request_id"]);
    let listed = mesh.service.list_replays(Request::new(ListReplaysRequest::default())).await.unwrap();
    assert!(listed.into_inner().replays.is_empty());
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_does_not_fit_the_state_is_a_failed_precondition() {
    let mesh = Mesh::new().await;
    mesh.fill(100).await;
    let refused = |result: Result<_, Status>, wanted: &str| {
        let status: Status = Result::<runmesh_proto::replay::Replay, _>::unwrap_err(result);
        assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, wanted), "{status:?}");
        assert_eq!(fields(&status), ["replay_id"]);
    };
    let slow = ReplaySpec { options: Some(ReplayOptions { rate: 20.0, ..Default::default() }), ..to_file() };
    let id = mesh.create(creating(slow)).await.unwrap().replay_id;
    refused(mesh.pause(&id).await, "REPLAY_CREATED");
    refused(mesh.resume(&id).await, "REPLAY_CREATED");
    mesh.start(&id).await.unwrap();
    refused(mesh.start(&id).await, "REPLAY_RUNNING");
    refused(mesh.resume(&id).await, "REPLAY_RUNNING");
    let (actor, why) = ("ann".to_owned(), "enough".to_owned());
    let delete = DeleteReplayRequest { replay_id: id.clone(), actor: actor.clone(), reason: why.clone() };
    let kept = mesh.service.delete_replay(Request::new(delete.clone())).await.unwrap_err();
    assert_eq!((kept.code(), reason(&kept).as_str()), (Code::FailedPrecondition, "REPLAY_RUNNING"));
    mesh.pause(&id).await.unwrap();
    refused(mesh.pause(&id).await, "REPLAY_PAUSED");
    let cancel = CancelReplayRequest { replay_id: id.clone(), actor: actor.clone(), reason: why.clone() };
    let cancel = async || {
        let done = mesh.service.cancel_replay(Request::new(cancel.clone())).await;
        done.map(|done| done.into_inner().replay.unwrap())
    };
    assert_eq!(cancel().await.unwrap().state(), ReplayState::Cancelled);
    refused(cancel().await, "REPLAY_CANCELLED");
    refused(mesh.resume(&id).await, "REPLAY_CANCELLED");
    let done = mesh.replay(creating(to_file())).await.replay_id;
    refused(mesh.pause(&done).await, "REPLAY_COMPLETED");
    mesh.service.delete_replay(Request::new(delete)).await.unwrap();
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_not_found_and_what_is_missing_is_named() {
    let mesh = Mesh::new().await;
    let get = async |id: &str| {
        let request = GetReplayRequest { replay_id: id.to_owned() };
        mesh.service.get_replay(Request::new(request)).await.unwrap_err()
    };
    assert_eq!((get("nothing").await.code(), get("").await.code()), (Code::NotFound, Code::InvalidArgument));
    assert_eq!(fields(&get("").await), ["replay_id"]);
    assert_eq!(mesh.start("nothing").await.unwrap_err().code(), Code::NotFound);
    let unsaid = StartReplayRequest { replay_id: "nothing".into(), ..Default::default() };
    let unsaid = mesh.service.start_replay(Request::new(unsaid)).await.unwrap_err();
    assert_eq!((unsaid.code(), fields(&unsaid)), (Code::InvalidArgument, vec!["actor".into(), "reason".into()]));
    let watch = WatchReplayRequest { replay_id: "nothing".into(), ..Default::default() };
    let watch = mesh.service.watch_replay(Request::new(watch)).await;
    assert_eq!(watch.err().unwrap().code(), Code::NotFound);
    let cleanup = async |ended_before| {
        let request = CleanupReplaysRequest { ended_before, actor: "ann".into(), reason: "old".into() };
        mesh.service.cleanup_replays(Request::new(request)).await.map(|done| done.into_inner().removed)
    };
    assert_eq!(fields(&cleanup(None).await.unwrap_err()), ["ended_before"]);
    assert_eq!(fields(&cleanup(Some(Timestamp { seconds: -1, nanos: 0 })).await.unwrap_err()), ["ended_before"]);
    assert_eq!(cleanup(Some(to_timestamp(ago(Duration::ZERO)))).await.unwrap(), 0);
    for request in [
        ListReplaysRequest { page_size: -1, ..Default::default() },
        ListReplaysRequest { page_token: "x".into(), ..Default::default() },
    ] {
        let status = mesh.service.list_replays(Request::new(request)).await.unwrap_err();
        assert_eq!((status.code(), fields(&status).len()), (Code::InvalidArgument, 1));
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reruns_and_reports_are_checked_too() {
    let mesh = Mesh::new().await;
    let shadow = |target: ShadowTarget| ReplaySpec { target: Some(Target::Shadow(target)), ..to_file() };
    let with = |options: RerunOptions| shadow(ShadowTarget { options: Some(options), ..Default::default() });
    let limits = |limits: Limits| with(RerunOptions { limits: Some(limits), ..Default::default() });
    for (spec, field) in [
        (with(RerunOptions { parallel: 65, ..Default::default() }), "spec.shadow.options.parallel"),
        (with(RerunOptions { parallel: -1, ..Default::default() }), "spec.shadow.options.parallel"),
        (limits(Limits { memory_bytes: -1, ..Default::default() }), "spec.shadow.options.limits.memory_bytes"),
        (
            limits(Limits { wall_time: Some(prost_types::Duration { seconds: -1, nanos: 0 }), ..Default::default() }),
            "spec.shadow.options.limits.wall_time",
        ),
        (shadow(ShadowTarget { slower: -1.0, ..Default::default() }), "spec.shadow.slower"),
        (shadow(ShadowTarget { larger: f64::NAN, ..Default::default() }), "spec.shadow.larger"),
    ] {
        let request = CreateReplayRequest { actor: "ann".into(), reason: "why".into(), ..creating(spec) };
        let status = mesh.service.create_replay(Request::new(request)).await.unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]), "{status:?}");
    }
    // This process has no way to the execution service.
    let request =
        CreateReplayRequest { actor: "ann".into(), reason: "why".into(), ..creating(shadow(ShadowTarget::default())) };
    let status = mesh.service.create_replay(Request::new(request)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "NO_EXECUTIONS"), "{status:?}");

    let request = CreateReplayRequest { actor: "ann".into(), reason: "why".into(), ..creating(to_file()) };
    let created = mesh.service.create_replay(Request::new(request)).await.unwrap().into_inner();
    let replay_id = created.replay.unwrap().replay_id;
    let report = async |request: GetShadowReportRequest| {
        mesh.service.get_shadow_report(Request::new(request)).await.unwrap_err()
    };
    let status = report(GetShadowReportRequest { replay_id: replay_id.clone(), ..Default::default() }).await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "NOT_A_SHADOW"), "{status:?}");
    let unknown = "0190b1f2-7d1e-7000-8000-000000000001".to_owned();
    let status = report(GetShadowReportRequest { replay_id: unknown, ..Default::default() }).await;
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let token = GetShadowReportRequest { replay_id: replay_id.clone(), page_token: "x".into(), ..Default::default() };
    assert_eq!(fields(&report(token).await), ["page_token"]);
    let size = GetShadowReportRequest { replay_id: replay_id.clone(), page_size: -1, ..Default::default() };
    assert_eq!(fields(&report(size).await), ["page_size"]);
    let request = ExportShadowReportRequest { replay_id, format: 9, ..Default::default() };
    let Err(status) = mesh.service.export_shadow_report(Request::new(request)).await else { panic!("accepted") };
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["format".to_owned()]), "{status:?}");
}
