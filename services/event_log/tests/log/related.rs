//! One event, and what is related to it.

use runmesh_proto::{
    event::{DlqMessageReceived, ExecutionAccepted, ExecutionRequested},
    event_log::{EventDetail, GetEventRequest, event_log_service_server::EventLogService as _},
};
use tonic::Request;

use crate::bed::{Bed, chain, effect, event, output};

async fn get(bed: &Bed, event_id: impl ToString) -> EventDetail {
    let request = GetEventRequest { event_id: event_id.to_string() };
    bed.service.get_event(Request::new(request)).await.unwrap().into_inner().detail.unwrap()
}

fn ids(events: &[runmesh_proto::event_log::LoggedEvent]) -> Vec<&str> {
    events.iter().map(|logged| logged.event.as_ref().unwrap().event_id.as_str()).collect()
}

#[tokio::test]
async fn an_event_has_its_cause_its_effects_and_its_correlation() {
    let bed = Bed::new().await;
    let events = chain(vec![
        ExecutionRequested { script: "caf\u{e9}".into(), ..Default::default() }.into(),
        ExecutionAccepted::default().into(),
        output("a", b"one"),
    ]);
    let second = effect(&events[1], output("a", b"two"));
    let letter = effect(&events[1], DlqMessageReceived::default());
    bed.append("a", events.clone()).await;
    bed.append("other", vec![event(output("other", b"")), event(output("other", b""))]).await;
    bed.append("letter", vec![letter.clone()]).await;
    bed.append("a", vec![second.clone()]).await;
    let [first, accepted, third] = [0, 1, 2].map(|index: usize| events[index].event_id.to_string());
    let (second, letter) = (second.event_id.to_string(), letter.event_id.to_string());

    let detail = get(&bed, &accepted).await;
    let logged = detail.logged_event.as_ref().unwrap();
    assert_eq!((logged.position, logged.topic.as_str()), (2, "execution_accepted"));
    assert_eq!(ids(detail.cause.as_slice()), [&first]);
    assert_eq!(ids(&detail.effects), [&third, &letter, &second]);
    assert_eq!(ids(&detail.correlated), [&first, &third, &letter, &second]);
    assert!(!detail.effects_truncated && !detail.correlated_truncated && detail.deletion.is_none());
    let json: serde_json::Value = serde_json::from_str(&detail.event_json).unwrap();
    assert_eq!((&json["eventId"], json["executionAccepted"].is_object()), (&accepted.as_str().into(), true));

    let detail = get(&bed, &first).await;
    assert!(detail.cause.is_none() && ids(&detail.effects) == [&accepted]);
    // From another log, what began the correlation is found too.
    let detail = get(&bed, &letter).await;
    assert_eq!(ids(detail.cause.as_slice()), [&accepted]);
    assert_eq!(ids(&detail.correlated), [&first, &accepted, &third, &second]);
    assert!(detail.effects.is_empty());
}

#[tokio::test]
async fn of_many_the_first_ones_are_told_and_that_there_are_more() {
    let bed = Bed::new().await;
    let first = event(ExecutionRequested::default());
    let effects: Vec<_> = (0..150).map(|_| effect(&first, output("a", b"x"))).collect();
    bed.append("a", vec![first.clone()]).await;
    bed.append("a", effects.clone()).await;
    let detail = get(&bed, first.event_id).await;
    let wanted: Vec<String> = effects[..100].iter().map(|effect| effect.event_id.to_string()).collect();
    assert_eq!((ids(&detail.effects).len(), ids(&detail.effects)), (100, wanted.iter().map(String::as_str).collect()));
    assert!(detail.effects_truncated && detail.correlated_truncated);
}
