//! Who builds a read model anew: one replay at a time, until it has ended.

use std::sync::Arc;

use runmesh_proto::replay::replay_spec::Target;
use runmesh_store::StoreError;

use crate::{document::ReplayDocument, error::ReplayError, service::Inner, session::Phase};

impl Inner {
    /// The replay that builds a read model and has not ended, or the one that has ended and left something.
    async fn holder(&self, name: &str) -> Result<Option<(String, bool)>, StoreError> {
        let Some(model) = self.targets.read_model(name) else { return Ok(None) };
        let Some(id) = model.placements().held_by().await? else { return Ok(None) };
        let phase = self.replays.get(&id).await?.map(|found| found.document.phase);
        let has_ended = matches!(phase, None | Some(Phase::Completed | Phase::Cancelled));
        Ok(Some((id, has_ended)))
    }

    /// Checks that no other replay builds this read model.
    pub(crate) async fn check_free(&self, name: &str, field: &str, replay_id: &str) -> Result<(), ReplayError> {
        match self.holder(name).await? {
            Some((holder, false)) if holder != replay_id => {
                let words = format!("{name} is being built by replay {holder}, which has not ended");
                Err(ReplayError::precondition("READ_MODEL_BUSY", field, words))
            }
            _ => Ok(()),
        }
    }

    /// Frees a read model of a replay that ended before it could do so itself.
    pub(crate) async fn free(&self, name: &str) -> Result<(), StoreError> {
        match self.holder(name).await? {
            Some((holder, true)) => self.targets.release(&holder, name).await,
            _ => Ok(()),
        }
    }

    /// Has a replay that has ended give its read model up. What it leaves is removed in a moment.
    pub(crate) async fn give_up_read_model(self: &Arc<Self>, replay: &ReplayDocument) -> Result<(), ReplayError> {
        let Some(Target::Projection(target)) = replay.request()?.spec.and_then(|spec| spec.target) else {
            return Ok(());
        };
        let Some(model) = self.targets.read_model(&target.read_model) else { return Ok(()) };
        model.placements().release(&replay.id).await?;
        let (inner, id) = (Arc::clone(self), replay.id.clone());
        tokio::spawn(async move {
            // Where it fails, the next one that builds it does so.
            if let Err(error) = inner.targets.release(&id, &target.read_model).await {
                tracing::warn!(replay_id = id, %error, "what a replay has left of a read model is removed later");
            }
        });
        Ok(())
    }
}
