//! PlanRedrive: which letters a redrive would deliver, and to whom. They are pinned by their ids.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use futures::TryStreamExt as _;
use runmesh_bus::DeadLetter;
use runmesh_events::{to_duration, to_timestamp};
use runmesh_proto::dlq::{DeadLetterFilter, PlanRedriveRequest, RedrivePlan, RedriveTarget};
use uuid::Uuid;

use super::document::{PartDocument, Phase, Progress, RedriveDocument, Target};
use crate::{error::DlqError, filter::Selection, service::Inner, view};

/// How many letters a redrive has at most.
const MOST: u64 = 1_000_000;

/// How many ids one part has.
const PART: usize = 1_000;

/// How long a plan is good.
const GOOD_FOR: Duration = Duration::from_secs(60 * 60);

/// How many aggregates and letters are shown.
const SAMPLES: (usize, usize) = (20, 5);

/// The greatest rate.
const FASTEST: f64 = 1_000_000.0;

pub(crate) fn check_rate(rate: f64) -> Result<(), DlqError> {
    if (0.0..=FASTEST).contains(&rate) { Ok(()) } else { Err(DlqError::field("rate", "has to be from 0 to 1,000,000")) }
}

pub(crate) async fn plan(inner: &Inner, request: PlanRedriveRequest) -> Result<RedrivePlan, DlqError> {
    check_rate(request.rate)?;
    let filter = request.filter.unwrap_or_default();
    if filter == DeadLetterFilter::default() {
        return Err(DlqError::field("filter", "is empty; a redrive has to say which letters it is about"));
    }
    let selection = Selection::parse(Some(&filter), false).map_err(DlqError::Invalid)?;
    let id = Uuid::new_v4().to_string();
    let mut planned = Planned { id: &id, ids: Vec::new(), parts: 0 };
    let mut targets: BTreeMap<(String, String), u64> = BTreeMap::new();
    let (mut aggregates, mut samples, mut count) = (BTreeSet::new(), Vec::new(), 0);
    {
        let mut letters = std::pin::pin!(selection.all(&inner.letters));
        while let Some(found) = letters.try_next().await? {
            let letter: DeadLetter = found.document;
            count += 1;
            if count > MOST {
                planned.forget(inner).await;
                return Err(DlqError::field("filter", "means more than 1,000,000 letters"));
            }
            if samples.len() < SAMPLES.1 {
                samples.push(view::letter(&letter));
            }
            *targets.entry((letter.group, letter.topic)).or_default() += 1;
            aggregates.insert(letter.aggregate_id);
            planned.add(inner, letter.id).await?;
        }
    }
    let parts = planned.finish(inner).await?;
    let now = SystemTime::now();
    let targets: Vec<Target> =
        targets.into_iter().map(|((group, topic), count)| Target { group, topic, count }).collect();
    let document = RedriveDocument {
        id: id.clone(),
        phase: Phase::Planned,
        expires_at: now + GOOD_FOR,
        planned: count,
        parts,
        targets,
        progress: Progress::default(),
        rate: 0.0,
        canary: 0,
        canary_failures: 0,
        throttled: false,
        live_lag: 0,
        current_rate: 0.0,
        started_at: None,
        updated_at: now,
        ended_at: None,
        actor: String::new(),
        reason: String::new(),
        note: String::new(),
        carrier: String::new(),
        due_at: None,
    };
    inner.redrives.insert(&document).await?;
    let (mut topics, mut groups) = (BTreeMap::new(), BTreeMap::new());
    for target in &document.targets {
        *topics.entry(target.topic.clone()).or_default() += view::number(target.count);
        *groups.entry(target.group.clone()).or_default() += view::number(target.count);
    }
    let known = inner.groups.groups().await?;
    // One that is not known may do anything.
    let outside_effects =
        |group: &str| known.iter().find(|known| known.name.as_str() == group).is_none_or(|known| known.outside_effects);
    let duration = (request.rate > 0.0).then(|| Duration::try_from_secs_f64(count as f64 / request.rate).ok());
    Ok(RedrivePlan {
        plan_token: id,
        count: view::number(count),
        topics,
        targets: groups
            .into_iter()
            .map(|(group, count)| RedriveTarget { outside_effects: outside_effects(&group), group, count })
            .collect(),
        affected_aggregates: i64::try_from(aggregates.len()).unwrap_or(i64::MAX),
        aggregate_samples: aggregates.into_iter().take(SAMPLES.0).collect(),
        samples,
        duration: duration.flatten().map(to_duration),
        expires_at: Some(to_timestamp(document.expires_at)),
    })
}

/// The letters of a plan, as they are kept.
struct Planned<'a> {
    id: &'a str,
    ids: Vec<String>,
    parts: u32,
}

impl Planned<'_> {
    async fn add(&mut self, inner: &Inner, id: String) -> Result<(), DlqError> {
        self.ids.push(id);
        if self.ids.len() == PART { self.keep(inner).await } else { Ok(()) }
    }

    async fn keep(&mut self, inner: &Inner) -> Result<(), DlqError> {
        let ids = std::mem::take(&mut self.ids);
        let part = PartDocument { redrive_id: self.id.to_owned(), number: self.parts, ids };
        inner.parts.insert(&part).await?;
        self.parts += 1;
        Ok(())
    }

    async fn finish(&mut self, inner: &Inner) -> Result<u32, DlqError> {
        if !self.ids.is_empty() {
            self.keep(inner).await?;
        }
        Ok(self.parts)
    }

    async fn forget(&self, inner: &Inner) {
        inner.forget_parts(self.id, self.parts).await;
    }
}

impl Inner {
    /// Removes the parts of a redrive that needs them no longer.
    pub(super) async fn forget_parts(&self, redrive_id: &str, parts: u32) {
        for number in 0..parts {
            if let Err(error) = self.parts.delete(&PartDocument::id_of(redrive_id, number)).await {
                tracing::warn!(redrive_id, number, %error, "a part of a redrive is left behind");
            }
        }
    }
}
