//! What a shadow replay found: the sums, the comparisons, and both as a file.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_stream::try_stream;
use futures::Stream;
use runmesh_events::{from_duration, json, to_duration};
use runmesh_proto::{
    google::api::HttpBody,
    replay::{
        Difference, DifferenceCount, ExportShadowReportRequest, GetShadowReportRequest, GetShadowReportResponse,
        ReportFormat, ShadowComparison, ShadowOutcome, ShadowSummary,
    },
};
use runmesh_rpc::page_token;
use runmesh_store::{Page, PageQuery, StoreError, Versioned};
use tonic::Status;

use super::{
    ComparisonDocument,
    document::{BY_FOUND, BY_REPLAY},
    html, ratio,
};
use crate::{control, error::ReplayError, service::Inner, target::TargetSpec};

/// How many comparisons a page has where it is not said.
const DEFAULT_PAGE: usize = 50;

/// How many are read together for a whole report.
const READ: usize = 500;

/// Adds up what was found.
#[derive(Default)]
pub(super) struct Sums {
    compared: i64,
    different: i64,
    differences: BTreeMap<i32, i64>,
    /// Of the pairs of which both times are known.
    times: (Duration, Duration),
}

impl Sums {
    fn add(&mut self, comparison: &ShadowComparison) {
        self.compared += 1;
        self.different += i64::from(!comparison.differences.is_empty());
        for difference in &comparison.differences {
            *self.differences.entry(*difference).or_default() += 1;
        }
        if let (Some(first), Some(second)) = (wall(&comparison.original), wall(&comparison.rerun)) {
            self.times.0 += first;
            self.times.1 += second;
        }
    }

    fn summary(self) -> ShadowSummary {
        let (first, second) = self.times;
        let count = |(difference, count)| DifferenceCount { difference, count };
        ShadowSummary {
            compared: self.compared,
            same: self.compared - self.different,
            different: self.different,
            differences: self.differences.into_iter().map(count).collect(),
            time_ratio: ratio(first.as_secs_f64(), second.as_secs_f64()),
            original_time: Some(to_duration(first)),
            rerun_time: Some(to_duration(second)),
        }
    }
}

fn wall(outcome: &Option<ShadowOutcome>) -> Option<Duration> {
    outcome.as_ref()?.resource_usage.as_ref()?.wall_time.as_ref().and_then(from_duration)
}

impl Inner {
    /// That a replay is a shadow.
    async fn check_shadow(&self, replay_id: &str) -> Result<(), ReplayError> {
        let replay = control::find(self, replay_id).await?;
        match self.plan_of(&replay)?.target {
            TargetSpec::Shadow(..) => Ok(()),
            _ => Err(ReplayError::precondition("NOT_A_SHADOW", "replay_id", "its target is not `shadow`")),
        }
    }

    async fn comparisons(
        &self,
        replay_id: &str,
        only_different: bool,
        (limit, after): (usize, Option<String>),
    ) -> Result<Page<ComparisonDocument>, StoreError> {
        let (index, value) = if only_different {
            (BY_FOUND, ComparisonDocument::found(replay_id, true))
        } else {
            (BY_REPLAY, replay_id.to_owned())
        };
        let query = PageQuery { index, equal: vec![value.as_str().into()], limit, after, ..PageQuery::default() };
        self.targets.comparisons.page(query).await
    }

    async fn summary(&self, replay_id: &str) -> Result<ShadowSummary, StoreError> {
        let (mut sums, mut after) = (Sums::default(), None);
        loop {
            let page = self.comparisons(replay_id, false, (READ, after)).await?;
            for Versioned { document, .. } in &page.documents {
                sums.add(&document.comparison()?);
            }
            after = page.next;
            if after.is_none() {
                return Ok(sums.summary());
            }
        }
    }

    /// Removes the comparisons of a replay.
    pub(crate) async fn forget_comparisons(&self, replay_id: &str) -> Result<(), StoreError> {
        loop {
            // Each turn removes what it found.
            let page = self.comparisons(replay_id, false, (READ, None)).await?;
            if page.documents.is_empty() {
                return Ok(());
            }
            for Versioned { document, .. } in page.documents {
                self.targets.comparisons.delete(&runmesh_store::Document::id(&document)).await?;
            }
        }
    }
}

/// The sums, and a page of comparisons.
pub(crate) async fn report(
    inner: &Inner,
    request: GetShadowReportRequest,
) -> Result<GetShadowReportResponse, ReplayError> {
    let GetShadowReportRequest { replay_id, only_different, page_size, page_token } = request;
    let limit = page_token::size(page_size, DEFAULT_PAGE).map_err(|wrong| ReplayError::Invalid(vec![wrong]))?;
    let bad_token = || ReplayError::field("page_token", "is not one that this list gave out");
    // A page goes on in the same list.
    let list = [replay_id.as_bytes(), &[u8::from(only_different)]].concat();
    let after = page_token::decode(&page_token, &list).ok_or_else(bad_token)?;
    inner.check_shadow(&replay_id).await?;
    let page = inner.comparisons(&replay_id, only_different, (limit, after)).await.map_err(|error| match error {
        StoreError::Invalid(_) if !page_token.is_empty() => bad_token(),
        error => error.into(),
    })?;
    let comparisons: Result<_, StoreError> = page.documents.iter().map(|found| found.document.comparison()).collect();
    Ok(GetShadowReportResponse {
        summary: Some(inner.summary(&replay_id).await?),
        comparisons: comparisons?,
        next_page_token: page_token::encode(page.next, &list),
    })
}

/// A whole report as a file.
pub(crate) async fn export(
    inner: Arc<Inner>,
    request: ExportShadowReportRequest,
) -> Result<impl Stream<Item = Result<HttpBody, Status>> + Send + use<>, ReplayError> {
    let form = match ReportFormat::try_from(request.format) {
        Ok(ReportFormat::Unspecified | ReportFormat::Json) => Form::Json,
        Ok(ReportFormat::Html) => Form::Html,
        Err(_) => return Err(ReplayError::field("format", "is not a form that is known here")),
    };
    let ExportShadowReportRequest { replay_id, only_different, .. } = request;
    inner.check_shadow(&replay_id).await?;
    let summary = inner.summary(&replay_id).await?;
    Ok(try_stream! {
        yield form.body(form.head(&replay_id, &summary));
        let (mut after, mut is_first) = (None, true);
        loop {
            let page = inner.comparisons(&replay_id, only_different, (READ, after)).await.map_err(ReplayError::from)?;
            let mut text = String::new();
            for found in &page.documents {
                let comparison = found.document.comparison().map_err(ReplayError::from)?;
                text.push_str(&form.comparison(&comparison, is_first));
                is_first = false;
            }
            if !text.is_empty() {
                yield form.body(text);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        yield form.body(form.tail().to_owned());
    })
}

/// The form of a report.
#[derive(Debug, Clone, Copy)]
enum Form {
    Json,
    Html,
}

impl Form {
    fn body(self, text: String) -> HttpBody {
        let content_type = match self {
            Self::Json => "application/json",
            Self::Html => "text/html; charset=utf-8",
        };
        HttpBody { content_type: content_type.to_owned(), data: text.into_bytes(), ..Default::default() }
    }

    fn head(self, replay_id: &str, summary: &ShadowSummary) -> String {
        match self {
            Self::Json => {
                let summary = json::of("runmesh.replay.v1.ShadowSummary", summary);
                format!("{{\"replayId\":\"{replay_id}\",\"summary\":{summary},\"comparisons\":[")
            }
            Self::Html => html::head(replay_id, summary),
        }
    }

    fn comparison(self, comparison: &ShadowComparison, is_first: bool) -> String {
        match self {
            Self::Json => {
                let comma = if is_first { "\n" } else { ",\n" };
                format!("{comma}{}", json::of("runmesh.replay.v1.ShadowComparison", comparison))
            }
            Self::Html => html::row(comparison),
        }
    }

    fn tail(self) -> &'static str {
        match self {
            Self::Json => "\n]}\n",
            Self::Html => html::TAIL,
        }
    }
}

/// The name of a difference for people.
pub(super) fn words(difference: i32) -> String {
    let name = Difference::try_from(difference).map_or("UNKNOWN", |difference| difference.as_str_name());
    plain(name, "DIFFERENCE_")
}

/// The name of an enum's value for people, without what they all begin with.
pub(super) fn plain(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).replace('_', " ").to_lowercase()
}
