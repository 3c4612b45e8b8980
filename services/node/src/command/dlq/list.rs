//! `runmesh dlq ls`, `groups` and `stats`.

use std::{process::ExitCode, time::SystemTime};

use runmesh_proto::dlq::{
    DeadLetter, FailureGroup, GetDlqStatsRequest, ListDeadLettersRequest, ListFailureGroupsRequest, PausedGroup,
    TopicStats,
};

use super::{
    filter::filter,
    open,
    pages::{Pages, show},
    print, refused,
    table::{Table, left, right},
    words,
};
use crate::cli::dlq::{GroupsArgs, LsArgs, StatsArgs};

pub(super) async fn letters(args: LsArgs) -> anyhow::Result<ExitCode> {
    let mut client = open(&args.output.server).await?;
    let now = SystemTime::now();
    let mut request = ListDeadLettersRequest {
        filter: Some(filter(args.filter, now)),
        order_by: if args.oldest { "last_failed_at" } else { "" }.to_owned(),
        ..ListDeadLettersRequest::default()
    };
    let mut table = letters_table();
    let mut pages = Pages::new(&args.page);
    while let Some((page_size, page_token)) = pages.next() {
        (request.page_size, request.page_token) = (page_size, page_token);
        let page = client.list_dead_letters(request.clone()).await.map_err(|status| refused(&status))?.into_inner();
        let row = |one: &DeadLetter| letter(one, now);
        show(args.output.json, "runmesh.dlq.v1.DeadLetter", &page.dead_letters, &mut table, row)?;
        pages.took(page.dead_letters.len(), page.next_page_token);
    }
    if !args.output.json {
        pages.hint();
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn letters_table() -> Table {
    Table::new([
        left("ID"),
        left("STATE"),
        left("TYPE"),
        left("GROUP"),
        right("RETRIES"),
        right("FAILED"),
        right("NEXT"),
        left("ERROR"),
    ])
}

/// A letter as a row.
pub(super) fn letter(letter: &DeadLetter, now: SystemTime) -> Vec<String> {
    vec![
        letter.dead_letter_id.clone(),
        words::state(letter.state()),
        letter.topic.clone(),
        letter.group.clone(),
        letter.retries.to_string(),
        words::ago(letter.last_failed_at.as_ref(), now),
        words::next(letter, now),
        words::error(&letter.error),
    ]
}

pub(super) async fn groups(args: GroupsArgs) -> anyhow::Result<ExitCode> {
    let mut client = open(&args.output.server).await?;
    let mut request = ListFailureGroupsRequest {
        group: args.group.unwrap_or_default(),
        event_type: args.event_type.map(i32::from).unwrap_or_default(),
        include_closed: args.closed,
        ..ListFailureGroupsRequest::default()
    };
    let now = SystemTime::now();
    let mut table = groups_table();
    let mut pages = Pages::new(&args.page);
    while let Some((page_size, page_token)) = pages.next() {
        (request.page_size, request.page_token) = (page_size, page_token);
        let page = client.list_failure_groups(request.clone()).await.map_err(|status| refused(&status))?.into_inner();
        let row = |one: &FailureGroup| cause(one, now);
        show(args.output.json, "runmesh.dlq.v1.FailureGroup", &page.failure_groups, &mut table, row)?;
        pages.took(page.failure_groups.len(), page.next_page_token);
    }
    if !args.output.json {
        pages.hint();
    }
    Ok(ExitCode::SUCCESS)
}

fn groups_table() -> Table {
    Table::new([
        left("FINGERPRINT"),
        left("GROUP"),
        left("TYPE"),
        right("OPEN"),
        right("COUNT"),
        left("LAST 24 HOURS"),
        right("FIRST"),
        right("LAST"),
        left("SEVERITY"),
        left("CAUSE"),
    ])
}

/// A cause as a row.
fn cause(group: &FailureGroup, now: SystemTime) -> Vec<String> {
    vec![
        group.fingerprint.clone(),
        group.group.clone(),
        group.topic.clone(),
        group.open.to_string(),
        group.count.to_string(),
        words::sparkline(&group.hourly),
        words::ago(group.first_failed_at.as_ref(), now),
        words::ago(group.last_failed_at.as_ref(), now),
        words::severity(group.severity()),
        words::error(&group.error),
    ]
}

pub(super) async fn stats(args: StatsArgs) -> anyhow::Result<ExitCode> {
    let mut client = open(&args.output.server).await?;
    let stats = client.get_dlq_stats(GetDlqStatsRequest {}).await.map_err(|status| refused(&status))?.into_inner();
    if args.output.json {
        print::message(&stats, "runmesh.dlq.v1.GetDlqStatsResponse")?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = SystemTime::now();
    let numbers = ["COUNT", "OLDEST", "NEWEST", "MEAN RETRIES", "MOST RETRIES"].map(right);
    let mut table = Table::new([left("TYPE"), left("STATE")].into_iter().chain(numbers));
    for line in table.lines(stats.topics.iter().map(|one| numbers_of(one, now)).collect()) {
        print::line(line)?;
    }
    if stats.topics.is_empty() {
        print::line("There are no dead letters.")?;
    }
    if !stats.paused_groups.is_empty() {
        let columns = [left("PAUSED GROUP"), left("NODE"), right("SINCE"), right("PROBES"), left("ERROR")];
        print::line("")?;
        for line in Table::new(columns).lines(stats.paused_groups.iter().map(|one| paused(one, now)).collect()) {
            print::line(line)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn numbers_of(stats: &TopicStats, now: SystemTime) -> Vec<String> {
    vec![
        stats.topic.clone(),
        words::state(stats.state()),
        stats.count.to_string(),
        words::ago(stats.oldest_failed_at.as_ref(), now),
        words::ago(stats.newest_failed_at.as_ref(), now),
        format!("{:.1}", stats.mean_retries),
        stats.max_retries.to_string(),
    ]
}

fn paused(group: &PausedGroup, now: SystemTime) -> Vec<String> {
    vec![
        group.group.clone(),
        group.node.clone(),
        words::ago(group.since.as_ref(), now),
        group.probes.to_string(),
        words::error(&group.error),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runmesh_events::to_timestamp;
    use runmesh_proto::dlq::{DeadLetterState, Severity};

    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn before(seconds: u64) -> Option<prost_types::Timestamp> {
        Some(to_timestamp(SystemTime::UNIX_EPOCH + NOW - Duration::from_secs(seconds)))
    }

    #[test]
    fn a_letter_is_one_line_whatever_its_error_says() {
        let one = DeadLetter {
            dead_letter_id: "17".to_owned(),
            group: "runner".to_owned(),
            topic: "execution_requested".to_owned(),
            state: DeadLetterState::Parked.into(),
            retries: 3,
            last_failed_at: before(90),
            error: format!("no\nroom\x1b[2J {}", "x".repeat(200)),
            ..DeadLetter::default()
        };
        let lines = letters_table().lines(vec![letter(&one, SystemTime::UNIX_EPOCH + NOW)]);
        assert_eq!(lines[0], "ID  STATE   TYPE                 GROUP   RETRIES  FAILED  NEXT  ERROR");
        let start = "17  parked  execution_requested  runner        3  1m ago     -  no room\u{fffd}[2J xxx";
        assert!(lines[1].starts_with(start) && lines[1].ends_with("x…"), "{}", lines[1]);
    }

    #[test]
    fn a_cause_has_its_numbers_and_its_trend() {
        let mut hourly = vec![0; 24];
        (hourly[22], hourly[23]) = (2, 4);
        let one = FailureGroup {
            fingerprint: "f00".to_owned(),
            group: "runner".to_owned(),
            topic: "pod_created".to_owned(),
            error: "refused".to_owned(),
            severity: Severity::Transient.into(),
            open: 5,
            count: 6,
            first_failed_at: before(7_300),
            last_failed_at: before(5),
            hourly,
            sample_id: "17".to_owned(),
        };
        let lines = groups_table().lines(vec![cause(&one, SystemTime::UNIX_EPOCH + NOW)]);
        let trend = format!("{}▄█", "·".repeat(22));
        let line =
            format!("f00          runner  pod_created     5      6  {trend}  2h ago  5s ago  transient  refused");
        assert_eq!(lines[1], line);
    }
}
