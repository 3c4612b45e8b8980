//! Numbers over events.

use std::time::Duration;

use runmesh_events::{from_duration, from_timestamp, to_duration, to_timestamp};
use runmesh_proto::{
    event::{
        EventFilter, EventType, ExecutionCancelled, ExecutionCompleted, ExecutionFailed, ExecutionRequested,
        ExecutionTimeout, ResourceUsage,
    },
    event_log::{EventStats, GetEventStatsRequest, event_log_service_server::EventLogService as _},
};
use tonic::Request;

use crate::bed::{Bed, event, of_types, output};

async fn stats(bed: &Bed, request: GetEventStatsRequest) -> EventStats {
    bed.service.get_event_stats(Request::new(request)).await.unwrap().into_inner().stats.unwrap()
}

fn usage(millis: u64) -> Option<ResourceUsage> {
    Some(ResourceUsage { wall_time: Some(to_duration(Duration::from_millis(millis))), ..Default::default() })
}

#[tokio::test]
async fn events_are_counted_by_what_they_are_and_executions_by_their_ends() {
    let bed = Bed::new().await;
    assert_eq!(stats(&bed, GetEventStatsRequest::default()).await.events, 0);
    let ends: [(&str, runmesh_events::Payload); 5] = [
        ("ann", ExecutionCompleted { resource_usage: usage(100), ..Default::default() }.into()),
        ("ann", ExecutionCompleted { resource_usage: usage(300), ..Default::default() }.into()),
        ("bob", ExecutionFailed { resource_usage: usage(200), ..Default::default() }.into()),
        ("ann", ExecutionTimeout::default().into()),
        ("", ExecutionCancelled::default().into()),
    ];
    for (number, (user, end)) in ends.into_iter().enumerate() {
        let log = format!("log-{number}");
        let mut begin = event(ExecutionRequested::default());
        let mut end = event(end);
        (begin.user_id, end.user_id) = (user.into(), user.into());
        end.producer = "runner".into();
        bed.append(&log, vec![begin]).await;
        bed.append(&log, vec![event(output("x", b"")), end]).await;
    }
    bed.append("open", vec![event(ExecutionRequested::default())]).await;
    let all = bed.all().await;
    let found = stats(&bed, GetEventStatsRequest::default()).await;
    assert_eq!(found.events, 16);
    let at = |index: usize| all[index].event.occurred_at.as_ref().and_then(from_timestamp).unwrap();
    assert_eq!(found.first_recorded_at, Some(to_timestamp(at(0))));
    assert_eq!(found.last_recorded_at, Some(to_timestamp(at(15))));
    let types: Vec<(&str, i64)> = found.types.iter().map(|one| (one.topic.as_str(), one.count)).collect();
    assert_eq!(types[..3], [("execution_requested", 6), ("execution_output", 5), ("execution_completed", 2)]);
    let names = |counts: &[runmesh_proto::event_log::EventNameCount]| {
        counts.iter().map(|one| (one.name.clone(), one.count)).collect::<Vec<_>>()
    };
    assert_eq!(names(&found.producers), [("test".to_owned(), 11), ("runner".to_owned(), 5)]);
    assert_eq!(names(&found.users), [("ann".to_owned(), 6), ("bob".to_owned(), 2)]);
    let first_user = stats(&bed, GetEventStatsRequest { top_users: 1, ..Default::default() }).await;
    assert_eq!(names(&first_user.users), [("ann".to_owned(), 6)]);
    assert!(!found.names_are_estimates && found.events_before_hours == 0);
    // The test may run over the turn of an hour.
    let sum = |of: fn(&runmesh_proto::event_log::EventHourCount) -> i64| found.hours.iter().map(of).sum::<i64>();
    assert_eq!((sum(|hour| hour.count), sum(|hour| hour.ended), sum(|hour| hour.failed)), (16, 5, 2));
    let hour = found.hours[0].hour.unwrap();
    assert!(hour.seconds % 3_600 == 0 && from_timestamp(&hour).unwrap() <= at(0));

    let executions = found.executions.unwrap();
    assert_eq!((executions.requested, executions.completed, executions.failed), (6, 2, 1));
    assert_eq!((executions.timed_out, executions.cancelled, executions.timed), (1, 1, 5));
    assert!((executions.failure_rate - 0.4).abs() < 1e-9);
    assert_eq!(
        (executions.measured, executions.mean_wall_time.and_then(|mean| from_duration(&mean))),
        (3, Some(Duration::from_millis(200)))
    );
    // From the first event of each log to its last.
    let took: Duration = (0..5).map(|number| at(3 * number + 2).duration_since(at(3 * number)).unwrap()).sum();
    assert_eq!(executions.mean_duration.and_then(|mean| from_duration(&mean)), Some(took / 5));
}

#[tokio::test]
async fn the_filter_is_kept_to_and_beginnings_before_it_are_looked_up() {
    let bed = Bed::new().await;
    let first = bed.execution().await;
    bed.execution().await;
    let ends = of_types(&[EventType::ExecutionCompleted]);
    let found = stats(&bed, GetEventStatsRequest { filter: ends, ..Default::default() }).await;
    let executions = found.executions.unwrap();
    assert_eq!((found.events, executions.requested, executions.completed, executions.timed), (2, 0, 2, 2));
    let filter = Some(EventFilter { execution_id: first[0].aggregate_id.clone(), ..Default::default() });
    assert_eq!(stats(&bed, GetEventStatsRequest { filter, ..Default::default() }).await.events, 5);
    let until = first[2].occurred_at;
    let filter = Some(EventFilter { until, ..Default::default() });
    let found = stats(&bed, GetEventStatsRequest { filter, ..Default::default() }).await;
    assert!(found.events <= 2, "the end is not in it: {found:?}");
}
