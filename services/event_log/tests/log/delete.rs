//! Deleting what an event says.

use runmesh_events::{AggregateId, Payload};
use runmesh_proto::{
    event::{EventType, ExecutionOutput, ExecutionRequested, UserUpdated},
    event_log::{
        DeleteEventRequest, DeleteEventResponse, GetEventRequest, event_log_service_server::EventLogService as _,
    },
};
use runmesh_store::EventStore as _;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::bed::{Bed, event, output};

async fn delete(bed: &Bed, event_id: &str, actor: &str) -> Result<DeleteEventResponse, Status> {
    let request = DeleteEventRequest { event_id: event_id.into(), actor: actor.into(), reason: "a secret".into() };
    bed.service.delete_event(Request::new(request)).await.map(tonic::Response::into_inner)
}

async fn told(bed: &Bed) -> Vec<runmesh_proto::event::OperatorActionRecorded> {
    let events = bed.all().await;
    let told = events.iter().filter_map(|stored| match &stored.event.payload {
        Some(Payload::OperatorActionRecorded(told)) => Some(told.clone()),
        _ => None,
    });
    told.collect()
}

fn reason(status: &Status) -> String {
    assert_eq!(status.code(), Code::FailedPrecondition);
    status.get_details_error_info().unwrap().reason
}

#[tokio::test]
async fn what_it_says_goes_into_the_archive_and_its_place_stays() {
    let bed = Bed::new().await;
    let execution = bed.execution().await;
    let secret = &execution[1];
    let before = bed.all().await;
    let answer = delete(&bed, &secret.event_id, "ann").await.unwrap();
    let left = ExecutionOutput { execution_id: secret.aggregate_id.clone(), ..Default::default() };
    let wanted = runmesh_events::Event { payload: Some(left.into()), ..(**secret).clone() };
    let event = answer.event.unwrap();
    assert_eq!((event.position, event.event.as_ref()), (before[1].position.0, Some(&wanted)));
    let deletion = answer.deletion.unwrap();
    assert_eq!((deletion.actor.as_str(), deletion.reason.as_str()), ("ann", "a secret"));

    // All else is as it was, and the log has no hole.
    let after = bed.all().await;
    assert_eq!(after.len(), before.len() + 1);
    for (index, (one, two)) in before.iter().zip(&after).enumerate() {
        let same = one.position == two.position && (one.event == two.event) == (index != 1);
        assert!(same, "{index}");
    }
    let log = bed.store.read(&AggregateId::from(secret.aggregate_id.as_str()), 0, 10, &[]).await.unwrap();
    assert_eq!(log.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(*log[1], wanted);

    // It was archived as it was, and told of.
    let file = rusqlite::Connection::open(bed.file()).unwrap();
    let archived: Vec<u8> = file
        .query_row("SELECT body FROM doc_archived_events WHERE id = ?1", [&secret.event_id], |row| row.get(0))
        .unwrap();
    let archived: serde_json::Value = serde_json::from_slice(&archived).unwrap();
    let original = archived["event_json"].as_str().unwrap();
    assert_eq!(original, runmesh_events::json::of(runmesh_events::json::EVENT, &**secret));
    let told = told(&bed).await;
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].operation.as_str(), told[0].target.as_str()), ("DeleteEvent", secret.event_id.as_str()));
    assert_eq!((told[0].actor.as_str(), told[0].reason.as_str()), ("ann", "a secret"));
    assert!(told[0].request_json.contains(&secret.event_id));

    let request = GetEventRequest { event_id: secret.event_id.clone() };
    let detail = bed.service.get_event(Request::new(request)).await.unwrap().into_inner().detail.unwrap();
    assert_eq!(detail.deletion, Some(deletion));
    let request = GetEventRequest { event_id: execution[0].event_id.clone() };
    let detail = bed.service.get_event(Request::new(request)).await.unwrap().into_inner().detail.unwrap();
    assert_eq!(detail.deletion, None);
}

#[tokio::test]
async fn doing_it_again_changes_nothing_and_finishes_what_was_cut_short() {
    let bed = Bed::new().await;
    let execution = bed.execution().await;
    let id = &execution[0].event_id;
    let first = delete(&bed, id, "ann").await.unwrap();
    let before = bed.all().await;
    let again = delete(&bed, id, "bob").await.unwrap();
    assert_eq!(again, first, "the first one has done it");
    assert_eq!(bed.all().await.len(), before.len());
    // As after a crash between the archive and the log: the original is back, and nothing was told.
    let original = execution[0].payload.clone().unwrap();
    bed.store.replace_payload(&id.parse().unwrap(), original).await.unwrap();
    bed.store.delete_aggregate(&AggregateId::from("operator-actions")).await.unwrap();
    let request = GetEventRequest { event_id: id.clone() };
    let detail = bed.service.get_event(Request::new(request)).await.unwrap().into_inner().detail.unwrap();
    assert_eq!(detail.deletion, None, "it is not deleted yet");
    assert_eq!(delete(&bed, id, "bob").await.unwrap(), first);
    let told = told(&bed).await;
    assert_eq!((told.len(), told[0].actor.as_str()), (1, "ann"));
    let left = bed.store.get(&id.parse().unwrap()).await.unwrap().unwrap();
    let wanted = ExecutionRequested { execution_id: execution[0].aggregate_id.clone(), ..Default::default() };
    assert_eq!(left.event.payload, Some(wanted.into()));
}

#[tokio::test]
async fn what_is_still_needed_is_refused() {
    let bed = Bed::new().await;
    let request = event(ExecutionRequested { script: "x".into(), ..Default::default() });
    let open = bed.append("open", vec![request, event(output("open", b"x"))]).await;
    let status = delete(&bed, &open[1].event_id, "ann").await.unwrap_err();
    assert_eq!(reason(&status), "EXECUTION_NOT_ENDED");
    // A log of something else needs no end.
    let user = bed.append("user", vec![event(UserUpdated { user_id: "u".into(), ..Default::default() })]).await;
    delete(&bed, &user[0].event_id, "ann").await.unwrap();
    let all = bed.all().await;
    let told = all.iter().find(|stored| {
        stored.event.payload.as_ref().is_some_and(|payload| payload.event_type() == EventType::OperatorActionRecorded)
    });
    let status = delete(&bed, &told.unwrap().event.event_id, "ann").await.unwrap_err();
    assert_eq!(reason(&status), "EVENT_IS_KEPT");
    let kept = bed.store.get(&open[1].event_id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(*kept.event, *open[1]);
}
