//! `runmesh events ls`.

use std::{process::ExitCode, time::SystemTime};

use runmesh_events::{from_timestamp, json};
use runmesh_proto::event_log::{LoggedEvent, QueryEventsRequest};

use super::{
    filter::filter,
    open,
    pages::{Pages, show},
    print, refused,
    table::{Table, left, right},
    words,
};
use crate::cli::events::LsArgs;

/// How much of what an event says has a place in a table.
const SAYS_LENGTH: usize = 100;

pub(super) async fn events(args: LsArgs) -> anyhow::Result<ExitCode> {
    let mut client = open(&args.output.server).await?;
    let mut request = QueryEventsRequest {
        filter: Some(filter(args.filter, SystemTime::now())),
        order_by: if args.oldest { "recorded_at" } else { "" }.to_owned(),
        ..QueryEventsRequest::default()
    };
    let mut table = table();
    let mut pages = Pages::new(&args.page);
    while let Some((page_size, page_token)) = pages.next() {
        (request.page_size, request.page_token) = (page_size, page_token);
        let page = client.query_events(request.clone()).await.map_err(|status| refused(&status))?.into_inner();
        show(args.output.json, "runmesh.event_log.v1.LoggedEvent", &page.events, &mut table, row)?;
        pages.took(page.events.len(), page.next_page_token);
    }
    if !args.output.json {
        pages.hint();
    }
    Ok(ExitCode::SUCCESS)
}

/// A table of events.
pub(super) fn table() -> Table {
    Table::new([
        left("RECORDED"),
        left("TYPE"),
        left("AGGREGATE"),
        right("SEQ"),
        left("SERVICE"),
        left("USER"),
        left("ID"),
        left("SAYS"),
    ])
}

/// An event as a row.
pub(super) fn row(logged: &LoggedEvent) -> Vec<String> {
    let event = logged.event.clone().unwrap_or_default();
    let recorded = event.occurred_at.as_ref().and_then(from_timestamp);
    vec![
        recorded.map_or_else(|| words::NONE.to_owned(), |time| humantime::format_rfc3339_millis(time).to_string()),
        logged.topic.clone(),
        event.aggregate_id.clone(),
        event.sequence.to_string(),
        event.producer.clone(),
        words::or_none(&event.user_id),
        event.event_id.clone(),
        says(&json::of_payload(&event), &event.aggregate_id),
    ]
}

/// The beginning of a payload, without the id of the execution, which has a column of its own.
fn says(payload: &str, execution: &str) -> String {
    let id = format!("\"executionId\":\"{execution}\"");
    let rest = payload.replacen(&format!("{id},"), "", 1).replacen(&id, "", 1);
    print::beginning(&print::plain(&rest), SAYS_LENGTH)
}

#[cfg(test)]
mod tests {
    use runmesh_proto::event::{Event, ExecutionStarted, event::Payload};

    use super::*;

    #[test]
    fn an_event_is_one_line_that_says_what_happened() {
        let payload =
            ExecutionStarted { execution_id: "e".to_owned(), pod_name: "a\n\x1b[2J".to_owned(), ..Default::default() };
        let event = Event {
            event_id: "17".to_owned(),
            aggregate_id: "e".to_owned(),
            sequence: 3,
            producer: "runner".to_owned(),
            occurred_at: Some(prost_types::Timestamp { seconds: 0, nanos: 5_000_000 }),
            payload: Some(Payload::ExecutionStarted(payload)),
            ..Event::default()
        };
        let logged = LoggedEvent { position: 9, topic: "execution_started".to_owned(), event: Some(event) };
        let lines = table().lines(vec![row(&logged)]);
        let line = r#"1970-01-01T00:00:00.005Z  execution_started  e            3  runner   -     17  {"podName":"a\n\u001b[2J"}"#;
        assert_eq!(lines[1], line);
        assert_eq!(says(r#"{"executionId":"e"}"#, "e"), "{}");
    }
}
