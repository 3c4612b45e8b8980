//! ListFailureGroups and GetDlqStats: numbers that the store keeps with each write, so that they cost the same however many
//! letters there are.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use prost::Message as _;
use runmesh_bus::{DeadLetter, LetterState};
use runmesh_events::to_timestamp;
use runmesh_proto::dlq::{
    FailureGroup, GetDlqStatsResponse, ListFailureGroupsRequest, ListFailureGroupsResponse, PausedGroup, TopicStats,
};
use runmesh_rpc::page_token;
use runmesh_store::{IndexValue, StoreError};

use crate::{error::DlqError, list::DEFAULT_PAGE, service::Inner, view};

/// How many hours are told.
const HOURS: u64 = 24;

/// How many letters of a cause there are, by state.
#[derive(Debug, Clone, Default)]
struct Cause {
    open: u64,
    count: u64,
    states: Vec<LetterState>,
}

pub(crate) async fn failure_groups(
    inner: &Inner,
    request: ListFailureGroupsRequest,
) -> Result<ListFailureGroupsResponse, DlqError> {
    let wanted = page_token::size(request.page_size, DEFAULT_PAGE).map_err(|wrong| DlqError::Invalid(vec![wrong]))?;
    let topic = match request.event_type {
        0 => None,
        number => {
            let topic = view::parse_topic(number);
            Some(topic.ok_or_else(|| DlqError::field("event_type", view::NO_EVENT_TYPE))?.name.as_str())
        }
    };
    let filters =
        ListFailureGroupsRequest { page_size: 0, page_token: String::new(), ..request.clone() }.encode_to_vec();
    let bad_token = || DlqError::field("page_token", "is not one that this list gave out with the same filters");
    let after = page_token::decode(&request.page_token, &filters).ok_or_else(bad_token)?;
    let after: Option<(u64, String)> =
        after.map(|after| serde_json::from_str(&after)).transpose().map_err(|_| bad_token())?;

    let mut causes: Vec<(String, Cause)> = causes(inner).await?.into_iter().collect();
    causes.retain(|(_, cause)| cause.open > 0 || request.include_closed);
    causes.sort_by(|(a, one), (b, other)| (other.open, a).cmp(&(one.open, b)));
    if let Some((open, fingerprint)) = after {
        causes.retain(|(name, cause)| cause.open < open || (cause.open == open && *name > fingerprint));
    }
    let (mut failure_groups, mut next) = (Vec::new(), None);
    let mut causes = causes.into_iter().peekable();
    while let Some((fingerprint, cause)) = causes.next() {
        let Some(newest) = inner.letters.first(DeadLetter::BY_FINGERPRINT, &fingerprint, true).await? else { continue };
        let is_asked_for = (request.group.is_empty() || newest.group == request.group)
            && topic.is_none_or(|topic| newest.topic == topic);
        if is_asked_for {
            failure_groups.push(failure_group(inner, &newest, &cause).await?);
            if failure_groups.len() == wanted {
                next = causes.peek().is_some().then(|| serde_json::json!([cause.open, fingerprint]).to_string());
                break;
            }
        }
    }
    Ok(ListFailureGroupsResponse { failure_groups, next_page_token: page_token::encode(next, &filters) })
}

async fn causes(inner: &Inner) -> Result<HashMap<String, Cause>, StoreError> {
    let mut causes: HashMap<String, Cause> = HashMap::new();
    for (value, count) in inner.letters.documents().count_by(DeadLetter::BY_CAUSE).await? {
        let IndexValue::Text(text) = value else { continue };
        let Some((fingerprint, state)) = text.split_once('\t') else { continue };
        let Some(state) = state_of(state) else { continue };
        let cause = causes.entry(fingerprint.to_owned()).or_default();
        cause.count += count;
        cause.states.push(state);
        if !state.is_over() {
            cause.open += count;
        }
    }
    Ok(causes)
}

fn state_of(name: &str) -> Option<LetterState> {
    LetterState::ALL.into_iter().find(|state| state.as_str() == name)
}

async fn failure_group(inner: &Inner, newest: &DeadLetter, cause: &Cause) -> Result<FailureGroup, StoreError> {
    let mut first_failed_at = newest.first_failed_at;
    for state in &cause.states {
        let tally = DeadLetter::cause_tally(&newest.fingerprint, *state);
        if let Some(oldest) = inner.letters.first(DeadLetter::BY_CAUSE, &tally, false).await? {
            first_failed_at = first_failed_at.min(oldest.first_failed_at);
        }
    }
    let now = DeadLetter::hour(SystemTime::now());
    let prefix = format!("{}\t", newest.fingerprint);
    let mut hours: HashMap<u64, u64> = HashMap::new();
    for (value, count) in inner.letters.documents().count_prefix(DeadLetter::HOURS, &prefix).await? {
        let IndexValue::Text(text) = value else { continue };
        if let Some(Ok(hour)) = text.strip_prefix(&prefix).map(str::parse) {
            hours.insert(hour, count);
        }
    }
    let hourly = (0..HOURS).rev().map(|ago| hours.get(&now.saturating_sub(ago)).copied().unwrap_or_default());
    Ok(FailureGroup {
        fingerprint: newest.fingerprint.clone(),
        group: newest.group.clone(),
        topic: newest.topic.clone(),
        error: newest.error().to_owned(),
        severity: view::severity(newest.kind()) as i32,
        open: view::number(cause.open),
        count: view::number(cause.count),
        first_failed_at: Some(to_timestamp(first_failed_at)),
        last_failed_at: Some(to_timestamp(newest.last_failed_at)),
        hourly: hourly.map(view::number).collect(),
        sample_id: newest.id.clone(),
    })
}

/// What is known of the letters of one topic in one state.
#[derive(Debug, Default)]
struct Tally {
    count: u64,
    retries: u64,
    most: u32,
    oldest: Option<SystemTime>,
    newest: Option<SystemTime>,
}

pub(crate) async fn stats(inner: &Inner) -> Result<GetDlqStatsResponse, DlqError> {
    let mut tallies: BTreeMap<(String, LetterState), Tally> = BTreeMap::new();
    for (value, count) in inner.letters.documents().count_by(DeadLetter::BY_TALLY).await? {
        let IndexValue::Text(text) = value else { continue };
        let mut parts = text.split('\t');
        let (Some(topic), Some(state), Some(retries)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (Some(state), Ok(retries)) = (state_of(state), retries.parse::<u32>()) else { continue };
        let tally = tallies.entry((topic.to_owned(), state)).or_default();
        tally.count += count;
        tally.retries += count * u64::from(retries);
        tally.most = tally.most.max(retries);
        if let Some(oldest) = inner.letters.first(DeadLetter::BY_TALLY, &text, false).await? {
            let at = oldest.last_failed_at;
            tally.oldest = Some(tally.oldest.map_or(at, |oldest| oldest.min(at)));
        }
        if let Some(newest) = inner.letters.first(DeadLetter::BY_TALLY, &text, true).await? {
            tally.newest = tally.newest.max(Some(newest.last_failed_at));
        }
    }
    let topics = tallies
        .into_iter()
        .map(|((topic, state), tally)| TopicStats {
            topic,
            state: view::state(state) as i32,
            count: view::number(tally.count),
            oldest_failed_at: tally.oldest.map(to_timestamp),
            newest_failed_at: tally.newest.map(to_timestamp),
            mean_retries: tally.retries as f64 / tally.count.max(1) as f64,
            max_retries: view::small(tally.most),
        })
        .collect();
    let paused = inner.paused.list().await?;
    let paused_groups = paused
        .into_iter()
        .map(|paused| PausedGroup {
            group: paused.group,
            node: paused.node,
            since: Some(to_timestamp(paused.since)),
            error: paused.error,
            probes: view::small(paused.probes),
        })
        .collect();
    Ok(GetDlqStatsResponse { topics, paused_groups })
}
