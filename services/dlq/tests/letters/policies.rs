//! Policies that operators set.

use runmesh_bus::{
    LetterState,
    conformance::{TOPIC, TOPIC_2, record},
};
use runmesh_events::EventType;
use runmesh_proto::{
    dlq::{
        GetRetryPolicyRequest, ListRetryPoliciesRequest, ResetRetryPolicyRequest, RetryPolicy, SetRetryPolicyRequest,
        dead_letter_service_server::DeadLetterService as _,
    },
    event::event::Payload,
};
use tonic::{Code, Request};

use crate::mesh::Mesh;

fn set(event_type: EventType, group: &str, policy: RetryPolicy) -> SetRetryPolicyRequest {
    SetRetryPolicyRequest {
        event_type: event_type as i32,
        group: group.to_owned(),
        policy: Some(policy),
        actor: "ann".into(),
        reason: "too many letters".into(),
    }
}

fn manual() -> RetryPolicy {
    RetryPolicy { preset: "manual".into(), ..Default::default() }
}

/// What is set is in force at once, for the group or for all, over restarts, until it is taken back; each of that is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_in_force_once_it_is_set() {
    let mut mesh = Mesh::failing().await;
    let before = mesh.bury(record(TOPIC, "order-0", 1)).await;
    assert_eq!(before.state, LetterState::Scheduled);
    mesh.service.set_retry_policy(Request::new(set(TOPIC, "shop", manual()))).await.unwrap();
    mesh.service.set_retry_policy(Request::new(set(TOPIC_2, "other", manual()))).await.unwrap();
    mesh = mesh.restart().await;
    assert_eq!(mesh.bury(record(TOPIC, "order-1", 1)).await.state, LetterState::Parked);
    assert_eq!(mesh.bury(record(TOPIC_2, "order-2", 1)).await.state, LetterState::Scheduled);
    let get = async |mesh: &Mesh, group: &str| {
        let request = GetRetryPolicyRequest { event_type: TOPIC as i32, group: group.to_owned() };
        mesh.service.get_retry_policy(Request::new(request)).await.unwrap().into_inner().policy.unwrap()
    };
    let of_shop = get(&mesh, "shop").await;
    assert!(of_shop.overridden && of_shop.set_by == "ann" && of_shop.policy.unwrap().preset == "manual");
    assert!(!get(&mesh, "other").await.overridden);
    let listed = mesh.service.list_retry_policies(Request::new(ListRetryPoliciesRequest {})).await.unwrap();
    let listed = listed.into_inner().policies;
    assert_eq!(listed.iter().filter(|entry| entry.overridden).count(), 2);
    assert_eq!(listed.iter().filter(|entry| entry.group.is_empty()).count(), 60);
    let reset = ResetRetryPolicyRequest {
        event_type: TOPIC as i32,
        group: "shop".into(),
        actor: "bob".into(),
        reason: "it is over".into(),
    };
    let now = mesh.service.reset_retry_policy(Request::new(reset.clone())).await.unwrap().into_inner().policy.unwrap();
    assert!(!now.overridden);
    assert_eq!(mesh.service.reset_retry_policy(Request::new(reset)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(mesh.bury(record(TOPIC, "order-3", 1)).await.state, LetterState::Scheduled);
    let told = mesh.told(EventType::DlqOperationRecorded).await;
    let operations: Vec<_> = told
        .iter()
        .map(|event| match &event.payload {
            Some(Payload::DlqOperationRecorded(told)) => (told.operation.as_str(), told.actor.as_str()),
            _ => panic!(),
        })
        .collect();
    assert_eq!(operations[..3], [("SetRetryPolicy", "ann"), ("SetRetryPolicy", "ann"), ("ResetRetryPolicy", "bob")]);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_can_not_work_is_refused() {
    let mesh = Mesh::failing().await;
    for (request, field) in [
        (set(EventType::Unspecified, "", manual()), "event_type"),
        (SetRetryPolicyRequest { policy: None, ..set(TOPIC, "", manual()) }, "policy"),
        (SetRetryPolicyRequest { reason: " ".into(), ..set(TOPIC, "", manual()) }, "reason"),
        (set(TOPIC, "a\nb", manual()), "group"),
        (set(TOPIC, "", RetryPolicy { jitter: 2.0, ..Default::default() }), "policy.jitter"),
    ] {
        let refused = mesh.service.set_retry_policy(Request::new(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{}", refused.message());
    }
    assert!(mesh.told(EventType::DlqOperationRecorded).await.is_empty());
}
