//! Letters as they change.

use std::{sync::atomic::Ordering, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _};
use runmesh_bus::conformance::{TOPIC, record, within};
use runmesh_proto::dlq::{
    DeadLetterState, WatchDeadLettersRequest, dead_letter_service_server::DeadLetterService as _,
    watch_dead_letters_response::Item,
};
use tonic::{Code, Request};

use crate::mesh::Mesh;

/// Each letter that changes is shown, also what changed between a cut and the resume, and nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_where_it_was_cut() {
    let mesh = Mesh::failing().await;
    mesh.fails.permanent.store(true, Ordering::SeqCst);
    let watch = async |cursor: String| {
        let request = WatchDeadLettersRequest { filter: None, cursor };
        mesh.service.watch_dead_letters(Request::new(request)).await.unwrap().into_inner()
    };
    let mut first = watch(String::new()).await;
    // It begins now: with its first look, which is under way once it is polled.
    let waiting = tokio::time::timeout(Duration::from_millis(10), first.next()).await;
    assert!(waiting.is_err());
    let one = mesh.bury(record(TOPIC, "order-1", 1)).await;
    let shown = within("the letter is shown", first.try_next()).await.unwrap().unwrap();
    let Some(Item::DeadLetter(letter)) = &shown.item else { panic!() };
    assert_eq!((letter.dead_letter_id.as_str(), letter.state()), (one.id.as_str(), DeadLetterState::Parked));
    drop(first);
    let two = mesh.bury(record(TOPIC, "order-2", 1)).await;
    let three = mesh.bury(record(TOPIC, "order-3", 1)).await;
    let rest: Vec<_> = within("both are shown", watch(shown.cursor).await.take(2).try_collect()).await.unwrap();
    let ids: Vec<_> = rest
        .iter()
        .map(|shown| match &shown.item {
            Some(Item::DeadLetter(letter)) => letter.dead_letter_id.as_str(),
            None => "",
        })
        .collect();
    assert_eq!(ids, [two.id.as_str(), three.id.as_str()]);
    let request = WatchDeadLettersRequest { filter: None, cursor: "x".into() };
    let refused = mesh.service.watch_dead_letters(Request::new(request)).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}
