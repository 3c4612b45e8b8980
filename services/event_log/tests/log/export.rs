//! Events as files.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use prost::Message as _;
use prost_reflect::DynamicMessage;
use runmesh_events::{Event, from_timestamp, json};
use runmesh_proto::{
    event::{EventType, ExecutionFailed, ExecutionRequested},
    event_log::{ExportEventsRequest, ExportFormat, LoggedEvent, event_log_service_server::EventLogService as _},
    google::api::HttpBody,
};
use rusqlite::Connection;
use tonic::{Code, Request, Status};

use crate::bed::{Bed, event, of_types, output};

async fn export(bed: &Bed, format: ExportFormat, types: &[EventType]) -> Vec<Result<HttpBody, Status>> {
    let request = ExportEventsRequest { filter: of_types(types), format: format.into() };
    let stream = bed.service.export_events(Request::new(request)).await.unwrap().into_inner();
    stream.collect().await
}

/// The content type and the file.
async fn file(bed: &Bed, format: ExportFormat, types: &[EventType]) -> (String, Vec<u8>) {
    let pieces: Vec<HttpBody> = export(bed, format, types).await.into_iter().map(Result::unwrap).collect();
    (pieces[0].content_type.clone(), pieces.into_iter().flat_map(|piece| piece.data).collect())
}

/// Events with all that files have trouble with.
async fn difficult(bed: &Bed) -> Vec<Event> {
    let mut request = ExecutionRequested {
        script: "print(\"a, 'b'\")\r\n\tprint('caf\u{e9} \u{1F600}\u{2028}')\0\u{7f}\u{feff}".into(),
        stdin: (0..=255).collect::<Vec<u8>>().into(),
        ..Default::default()
    };
    request.environment.insert("=1+1".into(), "a\"\"b;c,d".into());
    let failed = ExecutionFailed { error_message: "line 1\nline 2\\".into(), ..Default::default() };
    let mut events = vec![event(request), event(output("x", b"\xff\x00\xfe")), event(failed), event(output("x", b""))];
    for (event, user) in events.iter_mut().zip(["=cmd|'/c calc'!A1", "'quoted'", "a\"b,c\r\nd\0e", "\u{5f20}\u{4e09}"])
    {
        event.user_id = user.into();
    }
    bed.append("-1", events).await.iter().map(|event| (**event).clone()).collect()
}

#[tokio::test]
async fn a_csv_parser_reads_back_exactly_what_was_recorded() {
    let bed = Bed::new().await;
    let events = difficult(&bed).await;
    let (content_type, bytes) = file(&bed, ExportFormat::Csv, &[]).await;
    assert_eq!(content_type, "text/csv; charset=utf-8");
    let mut table = csv::Reader::from_reader(bytes.as_slice());
    let head = table.headers().unwrap().clone();
    assert_eq!(head.iter().next().unwrap(), "position");
    let rows: Vec<BTreeMap<String, String>> = table
        .records()
        .map(|row| {
            let row = row.unwrap();
            assert!(row.iter().all(|cell| !cell.starts_with(['=', '+', '-', '@'])), "a formula: {row:?}");
            let value = |cell: &str| cell.strip_prefix('\'').unwrap_or(cell).to_owned();
            head.iter().zip(&row).map(|(name, cell)| (name.to_owned(), value(cell))).collect()
        })
        .collect();
    assert_eq!(rows.len(), events.len());
    for ((row, event), stored) in rows.iter().zip(&events).zip(bed.all().await) {
        let at = event.occurred_at.as_ref().and_then(from_timestamp).unwrap();
        let wanted = [
            ("position", stored.position.0.to_string()),
            ("event_id", event.event_id.clone()),
            ("aggregate_id", "-1".to_owned()),
            ("sequence", event.sequence.to_string()),
            ("causation_id", event.causation_id.clone()),
            ("correlation_id", event.correlation_id.clone()),
            ("producer", event.producer.clone()),
            ("user_id", event.user_id.clone()),
            ("traceparent", event.traceparent.clone()),
        ];
        for (column, wanted) in wanted {
            assert_eq!(row[column], wanted, "{column}");
        }
        assert_eq!(humantime::parse_rfc3339(&row["recorded_at"]).unwrap(), at);
        // The payload is that of its type.
        let descriptor = json::descriptor(json::EVENT).unwrap();
        let field = descriptor.get_field_by_name(&row["event_type"]).unwrap();
        let payload = json::parse(field.kind().as_message().unwrap().clone(), &row["payload_json"]).unwrap();
        let mut alone = DynamicMessage::new(descriptor);
        alone.set_field(&field, prost_reflect::Value::Message(payload));
        assert_eq!(Event::decode(alone.encode_to_vec().as_slice()).unwrap().payload, event.payload);
    }
}

#[tokio::test]
async fn each_line_of_json_is_an_event_with_its_place() {
    let bed = Bed::new().await;
    let events = difficult(&bed).await;
    for format in [ExportFormat::Ndjson, ExportFormat::Unspecified] {
        let (content_type, bytes) = file(&bed, format, &[]).await;
        assert_eq!(content_type, "application/x-ndjson");
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.ends_with('\n'));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), events.len());
        for ((line, event), stored) in lines.iter().zip(&events).zip(bed.all().await) {
            let message = json::parse(json::descriptor("runmesh.event_log.v1.LoggedEvent").unwrap(), line).unwrap();
            let logged = LoggedEvent::decode(message.encode_to_vec().as_slice()).unwrap();
            assert_eq!((logged.event.as_ref(), logged.position), (Some(event), stored.position.0));
        }
    }
}

#[tokio::test]
async fn a_file_has_all_that_is_meant_once_and_in_order_however_much_it_is() {
    let bed = Bed::new().await;
    for log in 0..30 {
        let events = (0..200).map(|number| event(output("x", format!("{number} ").repeat(50).as_bytes()))).collect();
        bed.append(&format!("log-{log}"), events).await;
    }
    bed.execution().await;
    let (_, bytes) = file(&bed, ExportFormat::Csv, &[EventType::ExecutionOutput]).await;
    let positions: Vec<u64> =
        csv::Reader::from_reader(bytes.as_slice()).records().map(|row| row.unwrap()[0].parse().unwrap()).collect();
    let wanted: Vec<u64> = (1..=6_000).chain([6_002]).collect();
    assert_eq!(positions, wanted);
    let pieces = export(&bed, ExportFormat::Ndjson, &[]).await;
    assert!(pieces.len() > 20 && pieces.iter().flatten().all(|piece| piece.data.len() < 256 << 10));
}

#[tokio::test]
async fn nothing_is_an_empty_file_of_its_kind() {
    let bed = Bed::new().await;
    let (content_type, bytes) = file(&bed, ExportFormat::Ndjson, &[]).await;
    assert_eq!((content_type.as_str(), bytes.len()), ("application/x-ndjson", 0));
    let (_, bytes) = file(&bed, ExportFormat::Csv, &[EventType::PodFailed]).await;
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert!(text.starts_with("position,event_id,event_type,") && text.ends_with("payload_json\r\n"), "{text}");
}

#[tokio::test]
async fn what_fails_midway_ends_with_the_error() {
    let bed = Bed::new().await;
    for log in 0..20 {
        bed.append(&format!("log-{log}"), (0..200).map(|_| event(output("x", b"data"))).collect()).await;
    }
    let file = Connection::open(bed.file()).unwrap();
    assert_eq!(file.execute("UPDATE events SET body = x'ffff' WHERE position = 3900", []).unwrap(), 1);
    let mut pieces = export(&bed, ExportFormat::Csv, &[]).await;
    let last = pieces.pop().unwrap().unwrap_err();
    assert_eq!(last.code(), Code::Internal);
    assert!(pieces.len() > 1 && pieces.iter().all(Result::is_ok));
}
