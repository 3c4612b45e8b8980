//! `runmesh events stats`.

use std::{process::ExitCode, time::SystemTime};

use runmesh_events::{from_duration, from_timestamp};
use runmesh_proto::event_log::{EventNameCount, EventStats, ExecutionOutcomes, GetEventStatsRequest};

use super::{
    filter::filter,
    open, print, refused,
    table::{Table, left, right},
    words,
};
use crate::cli::events::StatsArgs;

/// How many hours have a place in the trend.
const TREND: u64 = 48;

const HOUR: u64 = 60 * 60;

pub(super) async fn stats(args: StatsArgs) -> anyhow::Result<ExitCode> {
    let mut client = open(&args.output.server).await?;
    let now = SystemTime::now();
    let request = GetEventStatsRequest { filter: Some(filter(args.filter, now)), top_users: args.users };
    let answer = client.get_event_stats(request).await.map_err(|status| refused(&status))?.into_inner();
    let stats = answer.stats.unwrap_or_default();
    if args.output.json {
        print::message(&stats, "runmesh.event_log.v1.EventStats")?;
        return Ok(ExitCode::SUCCESS);
    }
    for line in lines(&stats) {
        print::line(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(stats: &EventStats) -> Vec<String> {
    if stats.events == 0 {
        return vec!["There are no such events.".to_owned()];
    }
    let (first, last) = (stats.first_recorded_at.as_ref(), stats.last_recorded_at.as_ref());
    let mut lines = vec![format!("{} events from {} to {}", stats.events, words::time(first), words::time(last))];
    lines.push(trend(stats));
    lines.push(String::new());
    let types = stats.types.iter().map(|one| vec![one.topic.clone(), one.count.to_string()]).collect();
    lines.extend(Table::new([left("TYPE"), right("COUNT")]).lines(types));
    let estimates = if stats.names_are_estimates { "AT LEAST" } else { "COUNT" };
    for (name, counts) in [("SERVICE", &stats.producers), ("USER", &stats.users)] {
        let rows = counts.iter().map(|EventNameCount { name, count }| vec![name.clone(), count.to_string()]).collect();
        let table = Table::new([left(name), right(estimates)]).lines(rows);
        if !table.is_empty() {
            lines.push(String::new());
            lines.extend(table);
        }
    }
    let executions = stats.executions.unwrap_or_default();
    if executions.requested + ended(&executions) > 0 {
        lines.push(String::new());
        lines.extend(outcomes(&executions));
    }
    lines
}

/// The hours up to the last one as a line of bars.
fn trend(stats: &EventStats) -> String {
    let hours: Vec<(u64, i64)> = stats
        .hours
        .iter()
        .filter_map(|hour| {
            let at = hour.hour.as_ref().and_then(from_timestamp)?;
            Some((at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs() / HOUR, hour.count))
        })
        .collect();
    let last = hours.last().map_or(0, |(number, _)| *number);
    let first = hours.first().map_or(0, |(number, _)| *number).max(last.saturating_sub(TREND - 1));
    let count = |number| hours.binary_search_by_key(&number, |(number, _)| *number).map_or(0, |index| hours[index].1);
    let counts: Vec<i64> = (first..=last).map(count).collect();
    format!("the last {} hours  {}", counts.len(), words::sparkline(&counts))
}

fn ended(executions: &ExecutionOutcomes) -> i64 {
    executions.completed + executions.failed + executions.timed_out + executions.cancelled
}

fn outcomes(executions: &ExecutionOutcomes) -> Vec<String> {
    let mean = |duration: Option<&prost_types::Duration>, of: i64| match duration.and_then(from_duration) {
        Some(duration) => format!("{:.3} s, of {of}", duration.as_secs_f64()),
        None => words::NONE.to_owned(),
    };
    vec![
        format!("executions  {} asked for, {} ended", executions.requested, ended(executions)),
        format!(
            "            {} completed, {} failed, {} timed out, {} cancelled",
            executions.completed, executions.failed, executions.timed_out, executions.cancelled
        ),
        format!("failed      {:.1} %", executions.failure_rate * 100.0),
        format!("from request to end, mean  {}", mean(executions.mean_duration.as_ref(), executions.timed)),
        format!("scripts alone, mean        {}", mean(executions.mean_wall_time.as_ref(), executions.measured)),
    ]
}

#[cfg(test)]
mod tests {
    use prost_types::{Duration, Timestamp};
    use runmesh_proto::event_log::{EventHourCount, EventTypeCount};

    use super::*;

    #[test]
    fn numbers_are_shown_as_tables_and_the_hours_as_a_trend() {
        let hour = |number: i64, count| EventHourCount {
            hour: Some(Timestamp { seconds: number * 3_600, nanos: 0 }),
            count,
            ..EventHourCount::default()
        };
        let stats = EventStats {
            events: 12,
            types: vec![EventTypeCount { topic: "pod_created".to_owned(), count: 12, ..EventTypeCount::default() }],
            hours: vec![hour(1, 4), hour(3, 8)],
            users: vec![EventNameCount { name: "ann".to_owned(), count: 5 }],
            executions: Some(ExecutionOutcomes {
                requested: 4,
                completed: 3,
                failed: 1,
                failure_rate: 0.25,
                mean_duration: Some(Duration { seconds: 1, nanos: 500_000_000 }),
                timed: 4,
                ..ExecutionOutcomes::default()
            }),
            ..EventStats::default()
        };
        let text = lines(&stats).join("\n");
        for line in [
            "12 events from - to -\nthe last 3 hours  ▄·█\n",
            "TYPE         COUNT\npod_created     12\n",
            "USER  COUNT\nann       5\n",
            "executions  4 asked for, 4 ended\n",
            "failed      25.0 %\nfrom request to end, mean  1.500 s, of 4\nscripts alone, mean        -",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
        assert!(!text.contains("SERVICE"), "{text}");
        assert_eq!(lines(&EventStats::default()), ["There are no such events."]);
    }
}
