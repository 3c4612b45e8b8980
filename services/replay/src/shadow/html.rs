//! A report as a page that needs nothing beside it.

use std::fmt::Write as _;

use runmesh_proto::replay::{OutputDifference, ShadowComparison, ShadowOutcome, ShadowSummary};

use super::report::{plain, words};

/// The end of the page.
pub(super) const TAIL: &str = "</tbody></table></body></html>\n";

const STYLE: &str = "body{font:15px/1.4 system-ui,sans-serif;margin:2rem;color:#1a1a1a;background:#fff}\
    table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.4rem .6rem;\
    border-bottom:1px solid #ddd}th{position:sticky;top:0;background:#fff}code,pre{font:13px ui-monospace,monospace}\
    pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}.same{color:#1b6e3c}.different{color:#a11}\
    dl{display:grid;grid-template-columns:max-content auto;gap:.2rem 1rem}dd{margin:0}\
    @media(prefers-color-scheme:dark){body,th{background:#16181c;color:#e8e8e8}th,td{border-color:#444}\
    .same{color:#6fcf97}.different{color:#ff8a80}}";

/// What a page begins with.
pub(super) fn head(replay_id: &str, summary: &ShadowSummary) -> String {
    let id = escape(replay_id);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>Shadow replay {id}</title><style>{STYLE}</style></head><body>\n\
         <h1>Shadow replay</h1>\n<dl><dt>replay</dt><dd><code>{id}</code></dd><dt>compared</dt><dd>{}</dd>\
         <dt>same</dt><dd class=\"same\">{}</dd><dt>different</dt><dd class=\"different\">{}</dd>",
        summary.compared, summary.same, summary.different
    );
    for found in &summary.differences {
        // Writing to a string does not fail.
        let _ = write!(page, "<dt>{}</dt><dd>{}</dd>", words(found.difference), found.count);
    }
    if summary.time_ratio > 0.0 {
        let _ = write!(page, "<dt>time</dt><dd>{:.2} x</dd>", summary.time_ratio);
    }
    page.push_str(
        "</dl>\n<table><thead><tr><th>execution</th><th>differences</th><th>before</th><th>again</th><th>output</th>\
         <th>time</th><th>memory</th></tr></thead><tbody>\n",
    );
    page
}

/// A row of the table.
pub(super) fn row(comparison: &ShadowComparison) -> String {
    let id = comparison.original.as_ref().map(|outcome| escape(&outcome.execution_id)).unwrap_or_default();
    let found = match comparison.differences.as_slice() {
        [] => "<span class=\"same\">none</span>".to_owned(),
        found => {
            let found: Vec<String> = found.iter().map(|difference| words(*difference)).collect();
            format!("<span class=\"different\">{}</span>", found.join(", "))
        }
    };
    let outputs: String = [("stdout", &comparison.stdout), ("stderr", &comparison.stderr)]
        .into_iter()
        .filter_map(|(name, found)| found.as_ref().map(|found| output(name, found)))
        .collect();
    let ratio = |ratio: f64| if ratio > 0.0 { format!("{ratio:.2} x") } else { String::new() };
    format!(
        "<tr><td><code>{id}</code></td><td>{found}</td><td>{}</td><td>{}</td><td>{outputs}</td><td>{}</td><td>{}</td></tr>\n",
        outcome(comparison.original.as_ref()),
        outcome(comparison.rerun.as_ref()),
        ratio(comparison.time_ratio),
        ratio(comparison.memory_ratio),
    )
}

fn outcome(outcome: Option<&ShadowOutcome>) -> String {
    let Some(outcome) = outcome else { return String::new() };
    let mut words = plain(outcome.state().as_str_name(), "EXECUTION_STATE_");
    if outcome.error_type != 0 {
        let _ = write!(words, ": {}", plain(outcome.error_type().as_str_name(), "EXECUTION_ERROR_TYPE_"));
    }
    if let Some(code) = outcome.exit_code {
        let _ = write!(words, ", exit code {code}");
    }
    for more in [&outcome.cases, &outcome.language_version].into_iter().filter(|more| !more.is_empty()) {
        let _ = write!(words, ", {more}");
    }
    escape(&words)
}

fn output(name: &str, found: &OutputDifference) -> String {
    format!(
        "<div>{name}, line {}</div><pre>- {}\n+ {}</pre>",
        found.line,
        escape(&found.original_line),
        escape(&found.rerun_line)
    )
}

/// What scripts wrote is text here, and nothing else.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            control if control.is_control() && control != '\t' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_scripts_wrote_is_text() {
        let stdout = OutputDifference {
            line: 3,
            original_line: "<script>alert('&')</script>".to_owned(),
            rerun_line: "\u{1b}[31m".to_owned(),
            ..Default::default()
        };
        let row = row(&ShadowComparison { stdout: Some(stdout), ..Default::default() });
        assert!(row.contains("- &lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;\n+ \u{fffd}[31m"), "{row}");
        assert!(!row.contains("<script"));
    }
}
