//! Which letters a request means.

use std::time::SystemTime;

use futures::{Stream, TryStreamExt as _, stream};
use runmesh_bus::{DeadLetter, DeadLetters, LetterState};
use runmesh_events::from_timestamp;
use runmesh_proto::dlq::DeadLetterFilter;
use runmesh_rpc::Violation;
use runmesh_store::{IndexValue, PageQuery, StoreError, Versioned};

use crate::view;

/// The greatest number of values of one field.
const VALUES: usize = 1_000;

/// The greatest number of characters of a text.
const TEXT: usize = 1_000;

/// How many letters one read brings. Each has the whole value of its record.
const READ: usize = 128;

/// A filter that was checked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    topics: Vec<String>,
    groups: Vec<String>,
    /// Empty: any.
    states: Vec<LetterState>,
    fingerprints: Vec<String>,
    aggregate_id: String,
    from: Option<SystemTime>,
    until: Option<SystemTime>,
    /// In lower case.
    text: String,
    ids: Vec<String>,
}

impl Selection {
    /// What a filter means. Without states those are meant that are not over, or, where `any_state` says so, all.
    pub(crate) fn parse(filter: Option<&DeadLetterFilter>, any_state: bool) -> Result<Self, Vec<Violation>> {
        let default = DeadLetterFilter::default();
        let filter = filter.unwrap_or(&default);
        let mut violations = Vec::new();
        let mut wrong = |field: String, why: &str| violations.push(Violation::new(format!("filter.{field}"), why));
        let mut topics = Vec::new();
        for (place, number) in filter.event_types.iter().enumerate() {
            match view::parse_topic(*number) {
                Some(topic) => topics.push(topic.name.clone()),
                None => wrong(format!("event_types[{place}]"), view::NO_EVENT_TYPE),
            }
        }
        let mut states = Vec::new();
        for (place, number) in filter.states.iter().enumerate() {
            match view::parse_state(*number) {
                Some(state) => states.push(state),
                None => wrong(format!("states[{place}]"), "is not a state that is known here"),
            }
        }
        for (field, count) in [
            ("groups", filter.groups.len()),
            ("fingerprints", filter.fingerprints.len()),
            ("dead_letter_ids", filter.dead_letter_ids.len()),
        ] {
            if count > VALUES {
                wrong(field.to_owned(), "has more than 1,000 values");
            }
        }
        if filter.text.chars().count() > TEXT {
            wrong("text".to_owned(), "has more than 1,000 characters");
        }
        let mut time = |field: &str, timestamp: Option<&prost_types::Timestamp>| {
            let parsed = timestamp.map(from_timestamp);
            if parsed == Some(None) {
                wrong(field.to_owned(), "is not a time");
            }
            parsed.flatten()
        };
        let from = time("failed_from", filter.failed_from.as_ref());
        let until = time("failed_until", filter.failed_until.as_ref());
        if let (Some(from), Some(until)) = (from, until)
            && from >= until
        {
            wrong("failed_until".to_owned(), "is not after failed_from");
        }
        if !violations.is_empty() {
            return Err(violations);
        }
        if states.is_empty() && !any_state {
            states = LetterState::OPEN.to_vec();
        }
        Ok(Self {
            topics,
            groups: filter.groups.clone(),
            states,
            fingerprints: filter.fingerprints.clone(),
            aggregate_id: filter.aggregate_id.clone(),
            from,
            until,
            text: filter.text.to_lowercase(),
            ids: filter.dead_letter_ids.clone(),
        })
    }

    /// Whether a letter is meant.
    pub(crate) fn matches(&self, letter: &DeadLetter) -> bool {
        let one_of = |values: &[String], value: &String| values.is_empty() || values.contains(value);
        one_of(&self.topics, &letter.topic)
            && one_of(&self.groups, &letter.group)
            && one_of(&self.fingerprints, &letter.fingerprint)
            && one_of(&self.ids, &letter.id)
            && (self.states.is_empty() || self.states.contains(&letter.state))
            && (self.aggregate_id.is_empty() || self.aggregate_id == letter.aggregate_id)
            && self.from.is_none_or(|from| letter.last_failed_at >= from)
            && self.until.is_none_or(|until| letter.last_failed_at < until)
            && (self.text.is_empty() || letter.error().to_lowercase().contains(&self.text))
    }

    /// The query whose pages hold all that is meant, and as little else as an index can leave out.
    pub(crate) fn query(&self, limit: usize, descending: bool) -> PageQuery {
        let one = |values: &[String]| match values {
            [value] => Some(IndexValue::from(value.as_str())),
            _ => None,
        };
        let open = !self.states.is_empty() && self.states.iter().all(|state| !state.is_over());
        let aggregate = Some(&self.aggregate_id).filter(|id| !id.is_empty()).map(|id| id.as_str().into());
        let state = if let [state] = self.states[..] { Some(state.as_str().into()) } else { None };
        let (index, equal) = [
            (DeadLetter::BY_AGGREGATE, aggregate),
            (DeadLetter::BY_FINGERPRINT, one(&self.fingerprints)),
            (DeadLetter::BY_GROUP, one(&self.groups)),
            (DeadLetter::BY_TOPIC, one(&self.topics)),
            (DeadLetter::BY_STATE, state),
            (DeadLetter::BY_OPEN, open.then(|| DeadLetter::OPEN.into())),
        ]
        .into_iter()
        .find_map(|(index, value)| Some((index, vec![value?])))
        .unwrap_or((DeadLetter::BY_TIME, Vec::new()));
        PageQuery {
            index,
            equal,
            at_least: self.from.map(IndexValue::from),
            less_than: self.until.map(IndexValue::from),
            descending,
            limit,
            after: None,
        }
    }

    /// All that is meant, those that failed last first.
    pub(crate) fn all<'a>(
        &'a self,
        letters: &'a DeadLetters,
    ) -> impl Stream<Item = Result<Versioned<DeadLetter>, StoreError>> + Send + 'a {
        let pages = stream::try_unfold(Some(self.query(READ, true)), move |query| async move {
            let Some(query) = query else { return Ok::<_, StoreError>(None) };
            let (found, next) = self.page(letters, &query).await?;
            let next = next.map(|after| PageQuery { after: Some(after), ..query });
            Ok(Some((stream::iter(found.into_iter().map(Ok)), next)))
        });
        pages.try_flatten()
    }

    /// What of a page is meant, and where the next one begins.
    pub(crate) async fn page(
        &self,
        letters: &DeadLetters,
        query: &PageQuery,
    ) -> Result<(Vec<Versioned<DeadLetter>>, Option<String>), StoreError> {
        let (mut found, next) = if self.ids.is_empty() {
            let page = letters.documents().page(query.clone()).await?;
            (page.documents, page.next)
        } else {
            // They are few, and asked for by their names.
            let mut found = Vec::new();
            for id in &self.ids {
                found.extend(letters.documents().get(id).await?);
            }
            (found, None)
        };
        found.retain(|found| self.matches(&found.document));
        Ok((found, next))
    }
}
