//! A ledger for people.

use std::time::Duration;

use runmesh_events::from_duration;
use runmesh_proto::event_log::{Finding, FindingCount, FindingKind, FindingSeverity, GroupLedger, Ledger, TopicLedger};

use crate::command::table::{Table, left, right};

/// A finding on one line: how grave, what, where, in words.
pub(super) fn finding(finding: &Finding) -> String {
    let mut place = finding.topic.clone();
    if let Some(partition) = finding.partition {
        place.push_str(&format!("/{partition}"));
    }
    if let Some(offset) = finding.offset {
        place.push_str(&format!("@{offset}"));
    }
    let mut parts = vec![severity(finding.severity()), kind(finding.kind())];
    for (name, value) in [("group", &finding.group), ("event", &finding.event_id)] {
        if !value.is_empty() {
            parts.push(format!("{name} {value}"));
        }
    }
    if !finding.aggregate_id.is_empty() {
        let sequence = if finding.sequence > 0 { format!("#{}", finding.sequence) } else { String::new() };
        parts.push(format!("log {}{sequence}", finding.aggregate_id));
    }
    if !place.is_empty() {
        parts.push(format!("at {place}"));
    }
    format!("{}: {}", parts.join(" "), finding.message)
}

/// The tables and the verdict.
pub(super) fn ledger(ledger: &Ledger) -> Vec<String> {
    let mut lines = Vec::new();
    if !ledger.topics.is_empty() {
        let numbers = ["EVENTS", "PUBLISHED", "PENDING", "MISSING", "RECORDS", "REPEATED"].map(right);
        let columns = std::iter::once(left("TOPIC")).chain(numbers).chain([left("BESIDE THESE")]);
        lines.extend(Table::new(columns).lines(ledger.topics.iter().map(topic).collect()));
        lines.push(String::new());
    }
    if !ledger.groups.is_empty() {
        let numbers = ["RECORDS", "HANDLED", "PENDING", "OLDEST"].map(right);
        let columns = std::iter::once(left("GROUP")).chain(numbers).chain([left("DEAD LETTERS")]);
        lines.extend(Table::new(columns).lines(ledger.groups.iter().map(group).collect()));
        lines.push(String::new());
    }
    lines.extend(ledger.findings.iter().filter(|count| count.count > count.sent).map(more));
    lines.push(logs(ledger));
    lines.push(verdict(ledger));
    lines
}

fn topic(topic: &TopicLedger) -> Vec<String> {
    let beside = [
        ("parked", topic.parked),
        ("expired", topic.expired),
        ("foreign", topic.foreign),
        ("undecodable", topic.undecodable),
        ("of deleted logs", topic.deleted),
        ("delivered again", topic.delivered_again),
    ];
    let beside: Vec<String> =
        beside.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")).collect();
    let numbers = [topic.in_store, topic.published, topic.pending, topic.missing, topic.records, topic.repeated];
    row(&topic.topic, &numbers, beside.join(", "))
}

fn group(group: &GroupLedger) -> Vec<String> {
    let ages = group.topics.iter().filter_map(|topic| from_duration(topic.oldest_pending.as_ref()?));
    let oldest = ages.max().map(age).unwrap_or_else(|| "-".to_owned());
    let mut row = row(&group.group, &[group.records, group.handled, group.pending], oldest);
    row.push(group.dead_letters.to_string());
    row
}

fn row(name: &str, numbers: &[i64], last: String) -> Vec<String> {
    let numbers = numbers.iter().map(ToString::to_string);
    std::iter::once(name.to_owned()).chain(numbers).chain([last]).collect()
}

fn more(count: &FindingCount) -> String {
    let hidden = count.count - count.sent;
    format!("{} {}: {hidden} more that are not shown", severity(count.severity()), kind(count.kind()))
}

fn logs(ledger: &Ledger) -> String {
    let logs = ledger.logs.unwrap_or_default();
    let mut line = format!(
        "{} events in {} logs; {} executions, {} ended",
        logs.events, logs.aggregates, logs.executions, logs.ended
    );
    if logs.pending > 0 {
        line.push_str(&format!(", {} without an end", logs.pending));
    }
    line
}

fn verdict(ledger: &Ledger) -> String {
    let of = |severity: FindingSeverity| -> i64 {
        ledger.findings.iter().filter(|count| count.severity() == severity).map(|count| count.count).sum()
    };
    let mut words = if ledger.sound {
        "sound: nothing is lost, every invariant holds".to_owned()
    } else {
        let (losses, violations) = (of(FindingSeverity::Loss), of(FindingSeverity::Violation));
        format!("NOT SOUND: {losses} losses, {violations} violations")
    };
    let warnings = of(FindingSeverity::Warning);
    if warnings > 0 {
        words.push_str(&format!("; {warnings} warnings"));
    }
    if !ledger.settled {
        words.push_str("; something is still on its way");
    }
    words
}

fn severity(severity: FindingSeverity) -> String {
    severity.as_str_name().trim_start_matches("FINDING_SEVERITY_").to_owned()
}

fn kind(kind: FindingKind) -> String {
    kind.as_str_name().trim_start_matches("FINDING_KIND_").to_lowercase().replace('_', "-")
}

fn age(age: Duration) -> String {
    humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use runmesh_events::to_duration;
    use runmesh_proto::event_log::{GroupTopicLedger, LogLedger};

    use super::*;

    #[test]
    fn columns_are_aligned_and_the_verdict_comes_last() {
        let count = FindingCount {
            severity: FindingSeverity::Loss as i32,
            kind: FindingKind::Missing as i32,
            count: 7,
            sent: 2,
        };
        let oldest = Some(to_duration(Duration::from_millis(61_500)));
        let ledger = Ledger {
            findings: vec![count],
            logs: Some(LogLedger { events: 12, aggregates: 3, executions: 2, ended: 1, pending: 1 }),
            topics: vec![
                TopicLedger { topic: "a".to_owned(), in_store: 12_345, parked: 1, ..TopicLedger::default() },
                TopicLedger { topic: "longer".to_owned(), in_store: 7, missing: 7, ..TopicLedger::default() },
            ],
            groups: vec![GroupLedger {
                group: "g".to_owned(),
                dead_letters: 4,
                topics: vec![GroupTopicLedger { oldest_pending: oldest, ..GroupTopicLedger::default() }],
                ..GroupLedger::default()
            }],
            ..Ledger::default()
        };
        assert_eq!(
            super::ledger(&ledger),
            [
                "TOPIC   EVENTS  PUBLISHED  PENDING  MISSING  RECORDS  REPEATED  BESIDE THESE",
                "a        12345          0        0        0        0         0  1 parked",
                "longer       7          0        0        7        0         0",
                "",
                "GROUP  RECORDS  HANDLED  PENDING  OLDEST  DEAD LETTERS",
                "g            0        0        0   1m 1s  4",
                "",
                "LOSS missing: 5 more that are not shown",
                "12 events in 3 logs; 2 executions, 1 ended, 1 without an end",
                "NOT SOUND: 7 losses, 0 violations; something is still on its way",
            ]
        );
        let sound = Ledger { sound: true, settled: true, ..Ledger::default() };
        assert_eq!(super::ledger(&sound).last().unwrap(), "sound: nothing is lost, every invariant holds");
    }

    #[test]
    fn a_finding_says_where_it_is() {
        let found = Finding {
            severity: FindingSeverity::Loss as i32,
            kind: FindingKind::ExpiredUnread as i32,
            topic: "pod_created".to_owned(),
            partition: Some(2),
            offset: Some(17),
            group: "saga".to_owned(),
            message: "gone".to_owned(),
            ..Finding::default()
        };
        assert_eq!(finding(&found), "LOSS expired-unread group saga at pod_created/2@17: gone");
        let of_log = Finding { aggregate_id: "a".to_owned(), sequence: 3, ..Finding::default() };
        assert!(finding(&of_log).contains("log a#3"), "{}", finding(&of_log));
    }
}
