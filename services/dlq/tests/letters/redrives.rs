//! Redrives.

use std::{
    collections::BTreeSet,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use futures::TryStreamExt as _;
use runmesh_bus::{
    LetterState,
    conformance::{TOPIC, TOPIC_2, record, until},
};
use runmesh_events::EventType;
use runmesh_proto::dlq::{
    CancelRedriveRequest, DeadLetterFilter, GetRedriveRequest, ListRedrivesRequest, PauseRedriveRequest,
    PlanRedriveRequest, Redrive, RedrivePlan, RedriveState, ResumeRedriveRequest, StartRedriveRequest,
    WatchRedriveRequest, dead_letter_service_server::DeadLetterService as _, watch_redrive_response::Item,
};
use runmesh_store::PageQuery;
use tonic::{Code, Request, Status};

use crate::mesh::Mesh;

/// A mesh with so many parked letters.
async fn parked(count: usize) -> Mesh {
    let mesh = Mesh::failing().await;
    mesh.fails.permanent.store(true, Ordering::SeqCst);
    mesh.publish((0..count).map(|number| record(TOPIC, &format!("order-{number}"), 1)).collect()).await;
    until("all are letters", || async {
        mesh.letters().await.count_by("by_state").await.unwrap().iter().map(|(_, n)| n).sum::<u64>() == count as u64
    })
    .await;
    mesh
}

fn filter() -> Option<DeadLetterFilter> {
    Some(DeadLetterFilter { groups: vec!["shop".into()], ..Default::default() })
}

async fn plan(mesh: &Mesh) -> RedrivePlan {
    let request = PlanRedriveRequest { filter: filter(), rate: 10.0 };
    mesh.service.plan_redrive(Request::new(request)).await.unwrap().into_inner().plan.unwrap()
}

async fn start(mesh: &Mesh, request: StartRedriveRequest) -> Result<Redrive, Status> {
    let request = StartRedriveRequest { actor: "ann".into(), reason: "it is mended".into(), ..request };
    mesh.service.start_redrive(Request::new(request)).await.map(|started| started.into_inner().redrive.unwrap())
}

async fn get(mesh: &Mesh, id: &str) -> Redrive {
    let request = GetRedriveRequest { redrive_id: id.to_owned() };
    mesh.service.get_redrive(Request::new(request)).await.unwrap().into_inner().redrive.unwrap()
}

async fn until_state(mesh: &Mesh, id: &str, state: RedriveState) -> Redrive {
    until("the redrive is as it should be", || async { get(mesh, id).await.state() == state }).await;
    get(mesh, id).await
}

/// The plan says what there is, and pins it: what comes later is not part of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_delivers_what_was_planned_and_no_more() {
    let mut mesh = parked(300).await;
    let plan = plan(&mesh).await;
    assert_eq!((plan.count, plan.affected_aggregates, plan.samples.len()), (300, 300, 5));
    assert_eq!(plan.topics, [("execution_started".to_owned(), 300)].into());
    assert_eq!((plan.targets[0].group.as_str(), plan.targets[0].outside_effects), ("shop", true));
    assert_eq!(plan.duration.unwrap().seconds, 30);
    let later = mesh.bury(record(TOPIC_2, "order-1", 2)).await;
    mesh.recover();
    mesh.run();
    let request = StartRedriveRequest { plan_token: plan.plan_token.clone(), ..Default::default() };
    let redrive = start(&mesh, request.clone()).await.unwrap();
    let done = until_state(&mesh, &redrive.redrive_id, RedriveState::Completed).await;
    assert_eq!((done.delivered, done.skipped, done.resolved, done.failed), (300, 0, 300, 0));
    assert_eq!((done.actor.as_str(), done.ended_at.is_some()), ("ann", true));
    assert_eq!(mesh.get(&later.id).await.state, LetterState::Parked);
    // Each was handled once more.
    let seen = mesh.probe.seen();
    assert_eq!(seen.len(), 300 + 1 + 300);
    assert_eq!(seen.iter().map(|(order, _)| order).collect::<BTreeSet<_>>().len(), 300);
    assert_eq!(mesh.told(EventType::DlqMessageRetried).await.len(), 300);
    // The same call again is the same redrive.
    assert_eq!(start(&mesh, request).await.unwrap(), done);
    let listed = mesh.service.list_redrives(Request::new(ListRedrivesRequest::default())).await.unwrap();
    assert_eq!(listed.into_inner().redrives, [done]);
    mesh.stop().await;
}

/// Letters that can't be told of for the moment are delivered later, and count once, whatever came behind them meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_leaves_out_nothing_that_fails_for_the_moment() {
    let mut mesh = parked(400).await;
    mesh.recover();
    mesh.fails.untold.store(2, Ordering::SeqCst);
    mesh.run();
    let plan_token = plan(&mesh).await.plan_token;
    let id = start(&mesh, StartRedriveRequest { plan_token, ..Default::default() }).await.unwrap().redrive_id;
    let done = until_state(&mesh, &id, RedriveState::Completed).await;
    assert_eq!(mesh.fails.untold.load(Ordering::SeqCst), 0, "it has failed");
    assert_eq!((done.delivered, done.skipped, done.failed), (400, 0, 0));
    until("all are handled", || async { get(&mesh, &id).await.resolved == 400 }).await;
    assert_eq!(mesh.told(EventType::DlqMessageRetried).await.len(), 400);
    mesh.stop().await;
}

/// The first ones fail again: the rest is left alone, until an operator says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_fails_stops_the_redrive() {
    let mut mesh = parked(100).await;
    mesh.run();
    let plan_token = plan(&mesh).await.plan_token;
    let request = StartRedriveRequest { plan_token, canary: 7, canary_failures: 2, ..Default::default() };
    let id = start(&mesh, request).await.unwrap().redrive_id;
    let stopped = until_state(&mesh, &id, RedriveState::Stopped).await;
    assert_eq!((stopped.delivered, stopped.failed, stopped.resolved), (7, 7, 0));
    assert!(stopped.note.contains("7 of the first 7 failed"), "{}", stopped.note);
    assert_eq!(mesh.probe.seen().len(), 107);
    mesh.recover();
    let resume = ResumeRedriveRequest { redrive_id: id.clone(), actor: "ann".into(), reason: "now it works".into() };
    mesh.service.resume_redrive(Request::new(resume)).await.unwrap();
    let done = until_state(&mesh, &id, RedriveState::Completed).await;
    assert_eq!((done.delivered, done.resolved, done.failed), (100, 93, 7));
    mesh.stop().await;
}

/// A redrive is paused, goes on after a restart only when it is told to, and is cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_is_paused_resumed_and_cancelled() {
    let mut mesh = parked(500).await;
    mesh.recover();
    mesh.run();
    let plan_token = plan(&mesh).await.plan_token;
    let id =
        start(&mesh, StartRedriveRequest { plan_token, rate: 100.0, ..Default::default() }).await.unwrap().redrive_id;
    until("some are delivered", || async { get(&mesh, &id).await.delivered > 10 }).await;
    let (actor, reason) = ("bob".to_owned(), "lunch".to_owned());
    let pause = PauseRedriveRequest { redrive_id: id.clone(), actor: actor.clone(), reason: reason.clone() };
    let paused = mesh.service.pause_redrive(Request::new(pause)).await.unwrap().into_inner().redrive.unwrap();
    assert_eq!((paused.state(), paused.note.as_str()), (RedriveState::Paused, "paused by bob: lunch"));
    mesh = mesh.restart().await;
    mesh.run();
    until("what was under way is handled", || async {
        let redrive = get(&mesh, &id).await;
        redrive.resolved == redrive.delivered
    })
    .await;
    let before = get(&mesh, &id).await;
    assert!(before.state() == RedriveState::Paused && before.delivered < 500, "{before:?}");
    let resume = ResumeRedriveRequest { redrive_id: id.clone(), actor: actor.clone(), reason: reason.clone() };
    mesh.service.resume_redrive(Request::new(resume)).await.unwrap();
    until("it goes on", || async { get(&mesh, &id).await.delivered > before.delivered }).await;
    let cancel = CancelRedriveRequest { redrive_id: id.clone(), actor: actor.clone(), reason: reason.clone() };
    mesh.service.cancel_redrive(Request::new(cancel)).await.unwrap();
    let pause = PauseRedriveRequest { redrive_id: id.clone(), actor, reason };
    let refused = mesh.service.pause_redrive(Request::new(pause)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let cancelled = get(&mesh, &id).await;
    assert!(cancelled.state() == RedriveState::Cancelled && cancelled.ended_at.is_some());
    mesh.stop().await;
}

/// Progress is kept some times a second, and so is behind after a crash: what carries the mark of the redrive is counted as
/// delivered, is not delivered by it again, and what was not published is published by the worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_marked_is_delivered_once() {
    let mut mesh = parked(200).await;
    mesh.recover();
    let plan_token = plan(&mesh).await.plan_token;
    let letters = mesh.letters().await;
    let query = PageQuery { index: "by_time", limit: 70, descending: true, ..Default::default() };
    let long_ago = SystemTime::now() - Duration::from_secs(60);
    let marked = letters.page(query).await.unwrap().documents.into_iter();
    let marked: Vec<_> = marked
        .map(|found| (found.document.sent("it is mended", Some(&plan_token), long_ago), found.revision))
        .collect();
    assert!(letters.update_many(&marked).await.iter().all(Result::is_ok));
    mesh.run();
    let id = start(&mesh, StartRedriveRequest { plan_token, ..Default::default() }).await.unwrap().redrive_id;
    let done = until_state(&mesh, &id, RedriveState::Completed).await;
    assert_eq!((done.delivered, done.skipped, done.resolved, done.failed), (200, 0, 200, 0));
    assert_eq!(mesh.probe.seen().len(), 200 + 200);
    assert_eq!(mesh.told(EventType::DlqMessageRetried).await.len(), 200);
    mesh.stop().await;
}

/// What is in hand when a redrive is cancelled is delivered and counted, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_redrive_says_how_far_it_came() {
    let mut mesh = parked(600).await;
    mesh.recover();
    mesh.run();
    let plan_token = plan(&mesh).await.plan_token;
    let id =
        start(&mesh, StartRedriveRequest { plan_token, rate: 75.0, ..Default::default() }).await.unwrap().redrive_id;
    until("some are delivered", || async { get(&mesh, &id).await.delivered > 10 }).await;
    let cancel = CancelRedriveRequest { redrive_id: id.clone(), actor: "bob".into(), reason: "enough".into() };
    mesh.service.cancel_redrive(Request::new(cancel)).await.unwrap();
    mesh.stop().await;
    mesh = mesh.restart().await;
    until("what was delivered is handled", || async {
        let redrive = get(&mesh, &id).await;
        redrive.resolved == redrive.delivered
    })
    .await;
    let cancelled = get(&mesh, &id).await;
    assert!(cancelled.state() == RedriveState::Cancelled && cancelled.delivered < 600, "{cancelled:?}");
    let told = mesh.told(EventType::DlqMessageRetried).await.len();
    assert_eq!(i64::try_from(told).unwrap(), cancelled.delivered);
    mesh.stop().await;
}

/// A watch shows how it goes, then the end; a resume after the end shows nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_the_redrive() {
    let mut mesh = parked(50).await;
    mesh.recover();
    mesh.run();
    let plan_token = plan(&mesh).await.plan_token;
    let id =
        start(&mesh, StartRedriveRequest { plan_token, rate: 10.0, ..Default::default() }).await.unwrap().redrive_id;
    let watch = async |cursor: String| {
        let request = WatchRedriveRequest { redrive_id: id.clone(), cursor };
        let stream = mesh.service.watch_redrive(Request::new(request)).await.unwrap().into_inner();
        stream.try_collect::<Vec<_>>().await.unwrap()
    };
    let shown = watch(String::new()).await;
    assert!(shown.len() > 2, "{}", shown.len());
    let last = shown.last().unwrap();
    let Some(Item::End(end)) = &last.item else { panic!("{last:?}") };
    assert_eq!(end.redrive.as_ref().unwrap().resolved, 50);
    assert!(watch(last.cursor.clone()).await.is_empty());
    mesh.stop().await;
}

/// The cap is kept, though more could be done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_that_changed_since_the_plan_are_left_alone() {
    let mut mesh = parked(10).await;
    mesh.recover();
    let plan_token = plan(&mesh).await.plan_token;
    mesh.run();
    let query = PageQuery { index: "by_time", limit: 10, ..Default::default() };
    let one = mesh.letters().await.page(query).await.unwrap().documents.remove(0).document;
    let retry = runmesh_proto::dlq::RetryDeadLettersRequest {
        dead_letter_ids: vec![one.id.clone()],
        actor: "ann".into(),
        reason: "first".into(),
    };
    mesh.service.retry_dead_letters(Request::new(retry)).await.unwrap();
    mesh.until(&one.id, |letter| letter.state == LetterState::Resolved).await;
    let id = start(&mesh, StartRedriveRequest { plan_token, ..Default::default() }).await.unwrap().redrive_id;
    let done = until_state(&mesh, &id, RedriveState::Completed).await;
    assert_eq!((done.delivered, done.skipped, done.resolved), (9, 1, 9));
    assert_eq!(mesh.probe.seen().len(), 20);
    tokio::time::timeout(Duration::from_secs(60), mesh.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_a_redrive_is_refused() {
    let mesh = parked(1).await;
    for (request, field) in [
        (PlanRedriveRequest::default(), "filter"),
        (PlanRedriveRequest { filter: Some(DeadLetterFilter::default()), rate: 1.0 }, "filter"),
        (PlanRedriveRequest { filter: filter(), rate: -1.0 }, "rate"),
        (PlanRedriveRequest { filter: filter(), rate: f64::NAN }, "rate"),
    ] {
        let refused = mesh.service.plan_redrive(Request::new(request)).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().starts_with(field), "{refused:?}");
    }
    let plan_token = plan(&mesh).await.plan_token;
    for (request, field) in [
        (StartRedriveRequest::default(), "plan_token"),
        (StartRedriveRequest { plan_token: "x".into(), ..Default::default() }, "plan_token"),
        (StartRedriveRequest { plan_token: plan_token.clone(), canary: -1, ..Default::default() }, "canary"),
        (StartRedriveRequest { plan_token, canary: 3, canary_failures: 3, ..Default::default() }, "canary_failures"),
    ] {
        let refused = start(&mesh, request).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().starts_with(field), "{refused:?}");
    }
    let request = GetRedriveRequest { redrive_id: "x".into() };
    assert_eq!(mesh.service.get_redrive(Request::new(request)).await.unwrap_err().code(), Code::NotFound);
}
