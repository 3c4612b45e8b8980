//! A read model that is built anew beside the one in use, and put in its place.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use runmesh_events::{Event, EventType};
use runmesh_store::{Begun, Rebuild, RebuildError, StoreError, in_background};

use super::{Opened, SendError, Target, Targets};

/// How long a change of which collections are written takes until every process goes by it: where this is the only one, and
/// where others share the store, whose clocks may differ.
const SETTLED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));

/// How many logs are read at the same time.
const READS: usize = 16;

/// How many logs are kept in mind. Forgetting one costs a read.
const REMEMBERED: usize = 65_536;

/// Fills a read model.
pub(super) struct ProjectionTarget {
    model: Arc<dyn Rebuild>,
    replay_id: String,
    settled: Duration,
    /// The sequence up to which a log was taken into account.
    seen: HashMap<String, u64>,
}

impl Targets {
    /// The read model of this name, if there is one.
    pub(crate) fn read_model(&self, name: &str) -> Option<&Arc<dyn Rebuild>> {
        self.read_models.iter().find(|model| model.placements().name() == name)
    }

    /// The names of all read models, in words.
    pub(crate) fn read_models(&self) -> String {
        let names: Vec<&str> = self.read_models.iter().map(|model| model.placements().name()).collect();
        names.join(", ")
    }

    fn settled(&self) -> Duration {
        if self.events.is_shared() { SETTLED.1 } else { SETTLED.0 }
    }

    /// Begins to build a read model, or goes on with that where `progressed`.
    pub(super) async fn open_projection(
        &self,
        replay_id: &str,
        name: &str,
        progressed: bool,
    ) -> Result<Opened, SendError> {
        let model = self.read_model(name);
        let model = Arc::clone(model.ok_or_else(|| SendError::lasting(format!("there is no read model {name:?}")))?);
        let settled = self.settled();
        let begun = model.placements().begin(replay_id, settled).await?;
        let target = ProjectionTarget { model, replay_id: replay_id.to_owned(), settled, seen: HashMap::new() };
        Ok(Opened { target: Box::new(target), resumes: begun != Begun::Anew && progressed, begins_late: true })
    }

    /// Has a replay that is over give its read model up, and empties what it has left.
    pub(crate) async fn release(&self, replay_id: &str, name: &str) -> Result<(), StoreError> {
        let Some(model) = self.read_model(name) else { return Ok(()) };
        model.placements().release(replay_id).await?;
        model.placements().empty(replay_id, self.settled()).await
    }
}

impl From<RebuildError> for SendError {
    fn from(error: RebuildError) -> Self {
        match error {
            RebuildError::Store(error) => error.into(),
            error => Self::lasting(error),
        }
    }
}

#[async_trait]
impl Target for ProjectionTarget {
    fn wants(&self, event_type: EventType) -> bool {
        self.model.event_types().contains(&event_type)
    }

    async fn send(&mut self, events: &[Arc<Event>]) -> Vec<Result<(), SendError>> {
        // The first event begins a new log, maybe of an id that was in use before.
        let is_new = |event: &Arc<Event>| {
            event.sequence <= 1 || self.seen.get(&event.aggregate_id).is_none_or(|seen| *seen < event.sequence)
        };
        let new: BTreeSet<String> =
            events.iter().filter(|event| is_new(event)).map(|event| event.aggregate_id.clone()).collect();
        let project = |id: String| {
            let model = Arc::clone(&self.model);
            async move { (in_background(model.project(&id)).await, id) }
        };
        let projected: Vec<_> = new.into_iter().map(project).collect();
        let projected: Vec<_> = stream::iter(projected).buffer_unordered(READS).collect().await;
        if self.seen.len() + projected.len() > REMEMBERED {
            self.seen.clear();
        }
        let mut failed = HashMap::new();
        for (result, id) in projected {
            match result {
                Ok(sequence) => {
                    self.seen.insert(id, sequence);
                }
                Err(error) => {
                    failed.insert(id, SendError::from(error));
                }
            }
        }
        events.iter().map(|event| failed.get(&event.aggregate_id).map_or(Ok(()), |error| Err(error.clone()))).collect()
    }

    async fn finish(&mut self) -> Result<(), SendError> {
        Ok(self.model.placements().finish(&self.replay_id, self.settled).await?)
    }
}
