//! The life of a replay: pauses, an end, lists, watches, and its removal.

use std::time::{Duration, SystemTime};

use futures::TryStreamExt as _;
use runmesh_bus::conformance::until;
use runmesh_events::{from_timestamp, to_timestamp};
use runmesh_proto::replay::{
    CancelReplayRequest, CleanupReplaysRequest, CreateReplayRequest, DeleteReplayRequest, FileTarget,
    ListReplaysRequest, ReplayOptions, ReplaySpec, ReplayState, TopicsTarget, WatchReplayRequest,
    replay_service_server::ReplayService as _, replay_spec::Target, watch_replay_response::Item,
};
use tonic::{Code, Request};

use crate::mesh::{Mesh, WILLING};

fn topics(options: ReplayOptions) -> CreateReplayRequest {
    let target = Some(Target::Topics(TopicsTarget::default()));
    let spec = ReplaySpec { all: true, target, options: Some(options), ..Default::default() };
    CreateReplayRequest { spec: Some(spec), ..Default::default() }
}

/// A pause holds, a resume sends the rest and nothing twice, and the record tells who did what.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_is_paused_and_resumed_without_a_gap_or_a_repetition() {
    let mesh = Mesh::new().await;
    mesh.fill(100).await;
    let id = mesh.begin(topics(ReplayOptions { rate: 40.0, ..Default::default() })).await;
    until("some are sent", || async { mesh.get(&id).await.progress.unwrap().sent > 20 }).await;
    let paused = mesh.pause(&id).await.unwrap();
    assert_eq!((paused.state(), paused.note.as_str()), (ReplayState::Paused, "paused by bob: lunch"));
    // What was on its way is counted too, and then nothing moves.
    let count = async || (mesh.replayed(WILLING).0.len(), mesh.get(&id).await.progress.unwrap().sent);
    until("it has come to rest", || async {
        let before = count().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        before == count().await
    })
    .await;
    let before = mesh.get(&id).await;
    assert!(before.progress.as_ref().unwrap().sent < 300 && before.remaining.is_none(), "{before:?}");
    mesh.resume(&id).await.unwrap();
    let done = mesh.until_state(&id, ReplayState::Completed).await;
    let progress = done.progress.unwrap();
    assert_eq!((progress.sent, progress.scanned, progress.takeovers, done.note.as_str()), (300, 300, 1, ""));
    mesh.until_done().await;
    assert_eq!(mesh.replayed(WILLING).0.len(), 200);
    let told: Vec<_> = done.operations.iter().map(|one| (one.operation.as_str(), one.actor.as_str())).collect();
    let wanted = [("CreateReplay", "ann"), ("StartReplay", "bob"), ("PauseReplay", "bob"), ("ResumeReplay", "bob")];
    assert_eq!(told, wanted);
    mesh.stop().await;
}

/// A replay that is cancelled sends nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_is_cancelled() {
    let mesh = Mesh::new().await;
    mesh.fill(100).await;
    let id = mesh.begin(topics(ReplayOptions { rate: 30.0, ..Default::default() })).await;
    until("some are sent", || async { mesh.get(&id).await.progress.unwrap().sent > 10 }).await;
    let request = CancelReplayRequest { replay_id: id.clone(), actor: "ann".into(), reason: "enough".into() };
    let cancelled = mesh.service.cancel_replay(Request::new(request)).await.unwrap().into_inner().replay.unwrap();
    assert_eq!((cancelled.state(), cancelled.note.as_str()), (ReplayState::Cancelled, "cancelled by ann: enough"));
    assert!(cancelled.ended_at.is_some());
    mesh.stop().await;
}

/// A watch shows how it goes, then the end; after the end there is nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_the_replay() {
    let mesh = Mesh::new().await;
    mesh.fill(40).await;
    let id = mesh.begin(topics(ReplayOptions { rate: 10.0, ..Default::default() })).await;
    let watch = async |cursor: String| {
        let request = WatchReplayRequest { replay_id: id.clone(), cursor };
        let stream = mesh.service.watch_replay(Request::new(request)).await.unwrap().into_inner();
        stream.try_collect::<Vec<_>>().await.unwrap()
    };
    let shown = watch(String::new()).await;
    let mut sent = -1;
    let (end, rest) = shown.split_last().unwrap();
    assert!(rest.len() > 2, "{}", rest.len());
    for message in rest {
        let Some(Item::Replay(replay)) = &message.item else { panic!("{message:?}") };
        let progress = replay.progress.as_ref().unwrap();
        assert!(progress.sent >= sent && (0.0..=1.0).contains(&progress.fraction));
        sent = progress.sent;
    }
    let Some(Item::End(last)) = &end.item else { panic!("{end:?}") };
    assert_eq!(last.replay.as_ref().unwrap().state(), ReplayState::Completed);
    // From the last but one, there is the end; from the end, nothing.
    assert_eq!(watch(rest.last().unwrap().cursor.clone()).await, std::slice::from_ref(end));
    assert_eq!(watch(end.cursor.clone()).await, []);
    mesh.stop().await;
}

/// The same request is the same replay; another with its id is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_twice_makes_one_replay() {
    let mesh = Mesh::new().await;
    mesh.fill(1).await;
    let request = CreateReplayRequest { request_id: "one".into(), ..topics(ReplayOptions::default()) };
    let first = mesh.create(request.clone()).await.unwrap();
    mesh.start(&first.replay_id).await.unwrap();
    let again = mesh.create(request.clone()).await.unwrap();
    assert_eq!(again.replay_id, first.replay_id);
    let other =
        CreateReplayRequest { request_id: "one".into(), ..topics(ReplayOptions { rate: 1.0, ..Default::default() }) };
    assert_eq!(mesh.create(other).await.unwrap_err().code(), Code::AlreadyExists);
    let anew = mesh.create(topics(ReplayOptions::default())).await.unwrap();
    assert_ne!(anew.replay_id, first.replay_id);
    mesh.stop().await;
}

/// Lists begin with the newest and come in pages; what ended is removed with its file, and what did not is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replays_are_listed_and_cleaned_up() {
    let mesh = Mesh::new().await;
    mesh.fill(5).await;
    let spec = ReplaySpec { all: true, target: Some(Target::File(FileTarget {})), ..Default::default() };
    let request = CreateReplayRequest { spec: Some(spec), ..Default::default() };
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(mesh.replay(request.clone()).await.replay_id);
    }
    ids.push(mesh.create(request.clone()).await.unwrap().replay_id);
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListReplaysRequest { page_size: 2, page_token };
        let page = mesh.service.list_replays(Request::new(request)).await.unwrap().into_inner();
        assert!(page.replays.len() <= 2);
        listed.extend(page.replays.into_iter().map(|replay| replay.replay_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ids.iter().rev().cloned().collect::<Vec<_>>());
    let file = |id: &str| mesh.folder.path().join("replays").join(format!("{id}.ndjson"));
    let (actor, reason) = ("ann".to_owned(), "old".to_owned());
    let delete = DeleteReplayRequest { replay_id: ids[0].clone(), actor: actor.clone(), reason: reason.clone() };
    assert!(file(&ids[0]).exists());
    mesh.service.delete_replay(Request::new(delete)).await.unwrap();
    assert!(!file(&ids[0]).exists());
    let cleanup = async |before: SystemTime| {
        let (actor, reason) = (actor.clone(), reason.clone());
        let request = CleanupReplaysRequest { ended_before: Some(to_timestamp(before)), actor, reason };
        mesh.service.cleanup_replays(Request::new(request)).await.unwrap().into_inner().removed
    };
    let third = from_timestamp(&mesh.get(&ids[2]).await.ended_at.unwrap()).unwrap();
    assert_eq!(cleanup(third).await, 1);
    assert!(!file(&ids[1]).exists() && file(&ids[2]).exists());
    assert_eq!(cleanup(SystemTime::now()).await, 2);
    let left = mesh.service.list_replays(Request::new(ListReplaysRequest::default())).await.unwrap().into_inner();
    assert_eq!(left.replays.iter().map(|replay| &replay.replay_id).collect::<Vec<_>>(), [&ids[4]]);
    mesh.stop().await;
}
