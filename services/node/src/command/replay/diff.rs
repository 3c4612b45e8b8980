//! `runmesh replay diff`: in what the runs of a shadow replay differ from the first ones.

use std::process::ExitCode;

use runmesh_proto::replay::{
    Difference, ExportShadowReportRequest, GetShadowReportRequest, OutputDifference, ReportFormat, ShadowComparison,
    ShadowOutcome, ShadowSummary,
};

use super::{open, refused::refused};
use crate::{
    cli::replay::DiffArgs,
    command::{download, print},
};

/// How many comparisons are asked for together.
const PAGE: i32 = 500;

pub(super) async fn diff(args: DiffArgs) -> anyhow::Result<ExitCode> {
    let mut client = open(&args.output.server).await?;
    let (mut page_token, mut summary) = (String::new(), ShadowSummary::default());
    loop {
        let request = GetShadowReportRequest {
            replay_id: args.id.clone(),
            only_different: !args.same,
            page_size: if args.html.is_some() { 1 } else { PAGE },
            page_token,
        };
        let page = client.get_shadow_report(request).await.map_err(|status| refused(&status))?.into_inner();
        summary = page.summary.unwrap_or(summary);
        if let Some(path) = args.html {
            let target = download::Target::open(Some(path))?;
            let (replay_id, only_different) = (args.id, !args.same);
            let request = ExportShadowReportRequest { replay_id, format: ReportFormat::Html.into(), only_different };
            let pieces = client.export_shadow_report(request).await.map_err(|status| refused(&status))?.into_inner();
            target.take(pieces, refused).await?;
            break;
        }
        for comparison in &page.comparisons {
            if args.output.json {
                print::message(comparison, "runmesh.replay.v1.ShadowComparison")?;
            } else {
                for line in lines(comparison) {
                    print::line(line)?;
                }
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if !args.output.json {
        print::line(sums(&summary))?;
    }
    Ok(if summary.different == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn lines(comparison: &ShadowComparison) -> Vec<String> {
    let (original, rerun) =
        (comparison.original.clone().unwrap_or_default(), comparison.rerun.clone().unwrap_or_default());
    let found: Vec<String> = comparison.differences().map(words).collect();
    let found = if found.is_empty() { "the same".to_owned() } else { found.join(", ") };
    let mut lines = vec![
        format!("{}: {found}", original.execution_id),
        format!("  before  {}", outcome(&original)),
        format!("  again   {}", outcome(&rerun)),
    ];
    for (name, found) in [("stdout", &comparison.stdout), ("stderr", &comparison.stderr)] {
        let Some(OutputDifference { line, original_line, rerun_line, .. }) = found else { continue };
        lines.push(format!("  {name}, line {line}"));
        lines.push(format!("  - {}", print::plain(original_line)));
        lines.push(format!("  + {}", print::plain(rerun_line)));
    }
    for (name, ratio) in [("time", comparison.time_ratio), ("memory", comparison.memory_ratio)] {
        if ratio > 0.0 {
            lines.push(format!("  {name} {ratio:.2} x"));
        }
    }
    lines
}

fn outcome(outcome: &ShadowOutcome) -> String {
    let state = outcome.state().as_str_name().trim_start_matches("EXECUTION_STATE_").to_lowercase();
    let mut words = vec![state];
    if outcome.error_type != 0 {
        words.push(outcome.error_type().as_str_name().trim_start_matches("EXECUTION_ERROR_TYPE_").to_owned());
    }
    words.extend(outcome.exit_code.map(|code| format!("exit code {code}")));
    words.extend([&outcome.cases, &outcome.language_version].into_iter().filter(|more| !more.is_empty()).cloned());
    words.push(outcome.execution_id.clone());
    words.join(", ")
}

fn words(difference: Difference) -> String {
    difference.as_str_name().trim_start_matches("DIFFERENCE_").replace('_', " ").to_lowercase()
}

fn sums(summary: &ShadowSummary) -> String {
    let mut line = format!("{} compared: {} the same, {} different", summary.compared, summary.same, summary.different);
    let counts: Vec<String> =
        summary.differences.iter().map(|found| format!("{} {}", found.count, words(found.difference()))).collect();
    if !counts.is_empty() {
        line.push_str(&format!(" ({})", counts.join(", ")));
    }
    if summary.time_ratio > 0.0 {
        line.push_str(&format!("; time {:.2} x", summary.time_ratio));
    }
    line
}
