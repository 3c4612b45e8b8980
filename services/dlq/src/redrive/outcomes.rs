//! How the letters of a redrive went, as the store counts them.

use runmesh_bus::{DeadLetter, RedriveOutcome};
use runmesh_events::to_timestamp;
use runmesh_proto::dlq::Redrive;
use runmesh_store::{IndexValue, StoreError};

use super::document::RedriveDocument;
use crate::{
    service::Inner,
    view::{self, OUTCOMES},
};

/// How many letters of a redrive had which outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Outcomes {
    /// Delivered; the group has not said yet.
    pub(super) sent: u64,
    pub(super) resolved: u64,
    pub(super) failed: u64,
}

impl Inner {
    pub(super) async fn outcomes(&self, redrive_id: &str) -> Result<Outcomes, StoreError> {
        let prefix = format!("{redrive_id}\t");
        let mut outcomes = Outcomes::default();
        for (value, count) in self.letters.documents().count_prefix(DeadLetter::REDRIVES, &prefix).await? {
            let IndexValue::Text(text) = value else { continue };
            match OUTCOMES.into_iter().find(|outcome| DeadLetter::redrive_tally(redrive_id, *outcome) == text) {
                Some(RedriveOutcome::Sent) => outcomes.sent = count,
                Some(RedriveOutcome::Resolved) => outcomes.resolved = count,
                Some(RedriveOutcome::Failed) => outcomes.failed = count,
                None => {}
            }
        }
        Ok(outcomes)
    }

    /// The redrive as clients see it.
    pub(super) async fn view_of(&self, redrive: &RedriveDocument) -> Result<Redrive, StoreError> {
        let outcomes = self.outcomes(&redrive.id).await?;
        Ok(Redrive {
            redrive_id: redrive.id.clone(),
            state: redrive.phase.view() as i32,
            planned: view::number(redrive.planned),
            delivered: view::number(redrive.progress.delivered),
            skipped: view::number(redrive.progress.skipped),
            resolved: view::number(outcomes.resolved),
            failed: view::number(outcomes.failed),
            rate: redrive.rate,
            canary: i32::try_from(redrive.canary).unwrap_or(i32::MAX),
            canary_failures: i32::try_from(redrive.canary_failures).unwrap_or(i32::MAX),
            throttled: redrive.throttled,
            live_lag: view::number(redrive.live_lag),
            started_at: redrive.started_at.map(to_timestamp),
            updated_at: Some(to_timestamp(redrive.updated_at)),
            ended_at: redrive.ended_at.map(to_timestamp),
            actor: redrive.actor.clone(),
            reason: redrive.reason.clone(),
            note: redrive.note.clone(),
            current_rate: redrive.current_rate,
        })
    }
}
