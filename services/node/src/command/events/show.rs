//! `runmesh events show`.

use std::{process::ExitCode, time::SystemTime};

use runmesh_events::json;
use runmesh_proto::event_log::{EventDetail, GetEventRequest, LoggedEvent};

use super::{open, print, refused, words};
use crate::cli::events::ShowArgs;

pub(super) async fn show(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let mut client = open(&args.output.server).await?;
    let request = GetEventRequest { event_id: args.id };
    let answer = client.get_event(request).await.map_err(|status| refused(&status))?.into_inner();
    let detail = answer.detail.unwrap_or_default();
    if args.output.json {
        print::message(&detail, "runmesh.event_log.v1.EventDetail")?;
        return Ok(ExitCode::SUCCESS);
    }
    for line in lines(&detail, SystemTime::now()) {
        print::line(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(detail: &EventDetail, now: SystemTime) -> Vec<String> {
    let logged = detail.logged_event.clone().unwrap_or_default();
    let event = logged.event.clone().unwrap_or_default();
    let at = event.occurred_at.as_ref();
    let recorded = at.map(|_| format!("{} ({})", words::time(at), words::ago(at, now))).unwrap_or_default();
    let deletion = detail.deletion.as_ref().map(|deletion| {
        format!("{} by {}: {}", words::time(deletion.deleted_at.as_ref()), deletion.actor, deletion.reason)
    });
    let facts = [
        ("event", event.event_id.clone()),
        ("type", logged.topic.clone()),
        ("aggregate", event.aggregate_id.clone()),
        ("sequence", event.sequence.to_string()),
        ("position", logged.position.to_string()),
        ("recorded", recorded),
        ("service", event.producer.clone()),
        ("user", event.user_id.clone()),
        ("correlation", event.correlation_id.clone()),
        ("caused by", event.causation_id.clone()),
        ("trace", event.traceparent.clone()),
        ("deleted", deletion.unwrap_or_default()),
    ];
    let facts = facts.into_iter().filter(|(_, value)| !value.is_empty());
    let mut lines: Vec<String> = facts.map(|(name, value)| format!("{name:<11}  {}", print::plain(&value))).collect();
    lines.extend([String::new(), "payload".to_owned()]);
    lines.extend(indented(&json::of_payload(&event)));
    let related = [
        ("cause", detail.cause.as_slice(), false),
        ("effects", &detail.effects, detail.effects_truncated),
        ("of the same correlation", &detail.correlated, detail.correlated_truncated),
    ];
    for (name, events, truncated) in related {
        if events.is_empty() {
            continue;
        }
        let more = if truncated { ", and there may be more" } else { "" };
        lines.extend([String::new(), format!("{name}{more}")]);
        lines.extend(events.iter().map(one));
    }
    lines
}

/// JSON in lines; as it is, where it is none that is known here.
fn indented(payload: &str) -> Vec<String> {
    let parsed = serde_json::from_str::<serde_json::Value>(payload);
    let pretty = parsed.ok().and_then(|value| serde_json::to_string_pretty(&value).ok());
    let text = pretty.unwrap_or_else(|| payload.to_owned());
    text.lines().map(|line| format!("  {}", print::plain(line))).collect()
}

/// A related event on a line.
fn one(logged: &LoggedEvent) -> String {
    let event = logged.event.clone().unwrap_or_default();
    let line = format!(
        "  {}  {}  {}  {} of {}",
        words::time(event.occurred_at.as_ref()),
        event.event_id,
        logged.topic,
        event.sequence,
        event.aggregate_id
    );
    print::plain(&line)
}

#[cfg(test)]
mod tests {
    use runmesh_proto::{
        event::{Event, ExecutionStarted, event::Payload},
        event_log::Deletion,
    };

    use super::*;

    fn logged(id: &str, sequence: u64) -> LoggedEvent {
        let payload = ExecutionStarted { pod_name: "p\x1b[2J".to_owned(), ..Default::default() };
        let event = Event {
            event_id: id.to_owned(),
            aggregate_id: "a".to_owned(),
            sequence,
            occurred_at: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
            payload: Some(Payload::ExecutionStarted(payload)),
            ..Event::default()
        };
        LoggedEvent { position: 40 + sequence, topic: "execution_started".to_owned(), event: Some(event) }
    }

    #[test]
    fn an_event_is_shown_with_what_is_related_to_it() {
        let detail = EventDetail {
            logged_event: Some(logged("e2", 2)),
            cause: Some(logged("e1", 1)),
            effects: vec![logged("e3", 3)],
            effects_truncated: true,
            deletion: Some(Deletion { actor: "ann".to_owned(), reason: "a secret".to_owned(), deleted_at: None }),
            ..EventDetail::default()
        };
        let text = lines(&detail, SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(70)).join("\n");
        for line in [
            "event        e2\n",
            "position     42\n",
            "recorded     1970-01-01T00:01:00Z (10s ago)\n",
            "deleted      - by ann: a secret\n",
            "payload\n  {\n    \"podName\": \"p\\u001b[2J\"\n  }\n",
            "cause\n  1970-01-01T00:01:00Z  e1  execution_started  1 of a\n",
            "effects, and there may be more\n  1970-01-01T00:01:00Z  e3  execution_started  3 of a",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
        assert!(!text.contains("correlation"), "what is empty is not shown:\n{text}");
    }
}
