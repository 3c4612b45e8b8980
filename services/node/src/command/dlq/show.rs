//! `runmesh dlq show`.

use std::{process::ExitCode, time::SystemTime};

use prost_reflect::{DynamicMessage, SerializeOptions};
use runmesh_events::from_duration;
use runmesh_proto::dlq::{Attempt, DeadLetter, DeadLetterDetail, GetDeadLetterRequest, Header};

use super::{
    Client, open, print, refused,
    words::{self, NONE},
};
use crate::cli::dlq::ShowArgs;

/// How many bytes of a value that is no text are shown.
const BYTES_SHOWN: usize = 1_024;

pub(super) async fn show(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let mut client = open(&args.output.server).await?;
    let detail = get(&mut client, args.id).await?;
    if args.output.json {
        print::message(&detail, "runmesh.dlq.v1.DeadLetterDetail")?;
        return Ok(ExitCode::SUCCESS);
    }
    for line in lines(&detail, SystemTime::now()) {
        print::line(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Gets a letter with its record.
pub(super) async fn get(client: &mut Client, dead_letter_id: String) -> anyhow::Result<DeadLetterDetail> {
    let request = GetDeadLetterRequest { dead_letter_id };
    let answer = client.get_dead_letter(request).await.map_err(|status| refused(&status))?.into_inner();
    Ok(answer.detail.unwrap_or_default())
}

fn lines(detail: &DeadLetterDetail, now: SystemTime) -> Vec<String> {
    let letter = detail.dead_letter.clone().unwrap_or_default();
    let mut lines: Vec<String> = facts(&letter, detail, now)
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:<13}  {}", print::plain(&value)))
        .collect();
    if !detail.headers.is_empty() {
        lines.extend([String::new(), "headers".to_owned()]);
        lines.extend(detail.headers.iter().map(header));
    }
    let shown = detail.attempts.len();
    let all = usize::try_from(letter.tries).is_ok_and(|tries| tries <= shown);
    let newest = if all { String::new() } else { format!(", the newest {shown} of them") };
    lines.extend([String::new(), format!("{} tries{newest}", letter.tries)]);
    lines.extend(detail.attempts.iter().flat_map(attempt));
    if detail.event_json.is_empty() {
        lines.extend([String::new(), format!("record: {} bytes that are no event", detail.raw_value.len())]);
        lines.push(format!("  {}", bytes(&detail.raw_value)));
    } else {
        lines.extend([String::new(), "event".to_owned()]);
        lines.extend(event_lines(&detail.event_json));
    }
    if !detail.edited_event_json.is_empty() {
        lines.extend([String::new(), format!("corrected event, by {}", print::plain(&detail.edited_by))]);
        lines.extend(event_lines(&detail.edited_event_json));
    }
    lines
}

/// What there is to say; what is empty is not shown.
fn facts(letter: &DeadLetter, detail: &DeadLetterDetail, now: SystemTime) -> Vec<(&'static str, String)> {
    let moment = |time: Option<&prost_types::Timestamp>| match time {
        Some(_) => format!("{} ({})", words::time(time), words::ago(time, now)),
        None => String::new(),
    };
    let state = words::state(letter.state());
    let next = match words::next(letter, now) {
        none if none == NONE => String::new(),
        _ if !letter.waits_behind.is_empty() => format!("when {} is over", letter.waits_behind),
        next => format!("{} ({next})", words::time(letter.next_retry_at.as_ref())),
    };
    vec![
        ("dead letter", letter.dead_letter_id.clone()),
        ("state", if letter.cause.is_empty() { state } else { format!("{state}: {}", letter.cause) }),
        ("error", letter.error.clone()),
        ("severity", words::severity(letter.severity())),
        ("fingerprint", letter.fingerprint.clone()),
        ("group", letter.group.clone()),
        ("type", letter.topic.clone()),
        ("event", letter.event_id.clone()),
        ("aggregate", letter.aggregate_id.clone()),
        ("record", format!("partition {}, offset {}", detail.partition, detail.offset)),
        ("key", bytes(&detail.key)),
        ("recorded", moment(detail.record_time.as_ref())),
        ("first failed", moment(letter.first_failed_at.as_ref())),
        ("last failed", moment(letter.last_failed_at.as_ref())),
        ("changed", moment(letter.changed_at.as_ref())),
        ("retries", letter.retries.to_string()),
        ("next", next),
        ("redrive", letter.redrive_id.clone()),
        ("trace", detail.trace_id.clone()),
    ]
}

fn header(header: &Header) -> String {
    let value = if header.raw_value.is_empty() { print::plain(&header.value) } else { bytes(&header.raw_value) };
    format!("  {}: {value}", print::plain(&header.name))
}

fn attempt(attempt: &Attempt) -> Vec<String> {
    let took = attempt.took.as_ref().and_then(from_duration).unwrap_or_default();
    let mut lines = vec![format!("  {}  took {:.3} s", words::time(attempt.at.as_ref()), took.as_secs_f64())];
    let errors = attempt.errors.iter().enumerate();
    lines.extend(errors.map(|(depth, error)| {
        let because = if depth == 0 { "" } else { "because: " };
        format!("  {}{because}{}", "  ".repeat(depth + 1), print::plain(error))
    }));
    lines
}

/// The event in the order of its fields, each on a line. As it is, where it is of a kind that is not known here.
fn event_lines(json: &str) -> Vec<String> {
    let text = event(json).and_then(|event| pretty(&event)).unwrap_or_else(|_| json.to_owned());
    text.lines().map(|line| format!("  {}", print::plain(line))).collect()
}

/// Reads an event.
pub(super) fn event(json: &str) -> anyhow::Result<DynamicMessage> {
    let mut json = serde_json::Deserializer::from_str(json);
    let descriptor = runmesh_proto::descriptors()
        .get_message_by_name("runmesh.event.v1.Event")
        .ok_or_else(|| anyhow::Error::msg("the contract has no Event"))?;
    let event = DynamicMessage::deserialize(descriptor, &mut json)?;
    json.end()?;
    Ok(event)
}

/// A message as JSON for people.
pub(super) fn pretty(message: &DynamicMessage) -> anyhow::Result<String> {
    let mut text = Vec::new();
    message.serialize_with_options(&mut serde_json::Serializer::pretty(&mut text), &SerializeOptions::new())?;
    Ok(String::from_utf8(text)?)
}

/// Text as it is, other bytes escaped.
fn bytes(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains(char::is_control)
    {
        return text.to_owned();
    }
    let shown = &bytes[..bytes.len().min(BYTES_SHOWN)];
    let more = if shown.len() < bytes.len() { "… (--json has them all)" } else { "" };
    format!("{}{more}", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runmesh_events::to_timestamp;
    use runmesh_proto::dlq::{DeadLetterState, Severity};

    use super::*;

    fn detail() -> DeadLetterDetail {
        let at = |seconds: u64| Some(to_timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)));
        DeadLetterDetail {
            dead_letter: Some(DeadLetter {
                dead_letter_id: "17".to_owned(),
                group: "runner".to_owned(),
                topic: "execution_requested".to_owned(),
                state: DeadLetterState::Scheduled.into(),
                severity: Severity::Transient.into(),
                error: "no room".to_owned(),
                tries: 9,
                retries: 2,
                next_retry_at: at(190),
                ..DeadLetter::default()
            }),
            event_json: r#"{"eventId": "e1", "executionRequested": {"language": "python"}}"#.to_owned(),
            headers: vec![
                Header { name: "attempt".to_owned(), value: "2".to_owned(), ..Header::default() },
                Header { name: "odd".to_owned(), raw_value: vec![0xff].into(), ..Header::default() },
            ],
            key: b"key".to_vec().into(),
            partition: 3,
            offset: 42,
            attempts: vec![Attempt {
                at: at(60),
                took: Some(runmesh_events::to_duration(Duration::from_millis(12))),
                errors: vec!["no room".to_owned(), "disk full\x1b[31m".to_owned()],
            }],
            ..DeadLetterDetail::default()
        }
    }

    #[test]
    fn a_letter_is_shown_with_its_record_and_its_tries() {
        let text = lines(&detail(), SystemTime::UNIX_EPOCH + Duration::from_secs(70)).join("\n");
        for line in [
            "dead letter    17\n",
            "state          scheduled\n",
            "record         partition 3, offset 42\n",
            "key            key\n",
            "next           1970-01-01T00:03:10Z (in 2m)\n",
            "headers\n  attempt: 2\n  odd: \\xff\n",
            "9 tries, the newest 1 of them\n",
            "  1970-01-01T00:01:00Z  took 0.012 s\n    no room\n      because: disk full\u{fffd}[31m\n",
            "    \"executionRequested\": {\n      \"language\": \"python\"\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
        assert!(!text.contains("aggregate"), "what is empty is not shown:\n{text}");
    }

    #[test]
    fn a_record_that_is_no_event_is_shown_as_it_is() {
        let raw = [b"\x00\x1b[31mpoison".as_slice(), &[0xff; 2_000]].concat();
        let poison = DeadLetterDetail { event_json: String::new(), raw_value: raw.into(), ..detail() };
        let text = lines(&poison, SystemTime::UNIX_EPOCH).join("\n");
        assert!(text.contains("record: 2012 bytes that are no event\n  \\x00\\x1b[31mpoison\\xff"), "{text}");
        assert!(text.ends_with("… (--json has them all)"), "{text}");
        // As it is, where this binary does not know all of it.
        let newer = event_lines(r#"{"newField": 1}"#);
        assert_eq!(newer, [r#"  {"newField": 1}"#]);
    }
}
