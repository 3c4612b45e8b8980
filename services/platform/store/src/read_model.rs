//! Read models: documents that follow from the log of events, and that can be built anew beside those in use.
//!
//! A read model has two collections. A document, its placement, says which one is in use, and whether the other is being
//! filled. A process goes by a placement for [`KNOWN_FOR`] at most; each change of it is waited for that long and longer
//! before the next one, so that all processes are never more than one change apart:
//!
//! | stage | read | written as events happen |
//! | --- | --- | --- |
//! | announced: it becomes empty | the old one | both |
//! | filling, from the log | the old one | both |
//! | swapped | the new one | both |
//! | retired: the old one becomes empty | the new one | the new one |
//!
//! Before it is filled, what happens is written to both; what had happened by then is in the log that it is filled from. So
//! nothing is missed, and nothing stops meanwhile. What is written follows from the log alone, so it does not matter who
//! writes it, how often, or in what order.

mod placement;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use runmesh_events::EventType;
use tokio::time::{Instant, sleep};

use self::placement::{Placement, Stage};
use crate::{Document, DocumentStore, Documents, StoreError, Versioned, in_background};

/// For how long a process goes by a placement that it has read.
const KNOWN_FOR: Duration = Duration::from_millis(500);

/// How many documents are removed together.
const REMOVED: usize = 256;

/// Why a read model is not built anew.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RebuildError {
    /// Another one builds it.
    #[error("{model} is being built by {by}")]
    Busy {
        /// The read model.
        model: &'static str,
        /// Who builds it.
        by: String,
    },
    /// It was given up, or taken away.
    #[error("{model} is not being built by {by} any more")]
    Lost {
        /// The read model.
        model: &'static str,
        /// Who has built it.
        by: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a rebuild stands that was asked to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// At its beginning: nothing is there yet. What happens from now on is written to it.
    Anew,
    /// It was begun before, and all that was written is there.
    GoesOn,
    /// It was finished before, and is in use.
    Finished,
}

/// A read model that can be filled from the log.
#[async_trait]
pub trait Rebuild: Send + Sync + 'static {
    /// The types of the events that its documents follow from.
    fn event_types(&self) -> &'static [EventType];

    /// Which of its collections is in use.
    fn placements(&self) -> &Placements;

    /// Writes what follows from this log to the collection that is being filled. Returns the sequence up to which the log was
    /// taken into account.
    ///
    /// # Errors
    /// When the store fails, or none is being filled.
    async fn project(&self, aggregate_id: &str) -> Result<u64, StoreError>;
}

/// Which collection of a read model is in use, and the course of a rebuild.
pub struct Placements {
    collections: [&'static str; 2],
    store: Arc<dyn DocumentStore>,
    documents: Documents<Placement>,
    known: Mutex<Option<(Instant, Placement)>>,
}

impl Placements {
    async fn open(store: Arc<dyn DocumentStore>, collections: [&'static str; 2]) -> Result<Self, StoreError> {
        let documents = Documents::open(Arc::clone(&store)).await?;
        Ok(Self { collections, store, documents, known: Mutex::default() })
    }

    /// The name of the read model.
    pub fn name(&self) -> &'static str {
        self.collections[0]
    }

    /// Who builds it anew.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn held_by(&self) -> Result<Option<String>, StoreError> {
        Ok(self.read().await?.rebuild.map(|rebuild| rebuild.by))
    }

    /// Begins to build it anew, or goes on with that. `settled` is how long a change takes until every process goes by it:
    /// longer than [`KNOWN_FOR`], and than clocks differ.
    ///
    /// # Errors
    /// [`RebuildError::Busy`] while another one builds it.
    pub async fn begin(&self, by: &str, settled: Duration) -> Result<Begun, RebuildError> {
        let placement = self.change(|placement| placement.announce(by)).await?;
        let Some(rebuild) = &placement.rebuild else { return Ok(Begun::Finished) };
        if rebuild.by != by {
            return Err(RebuildError::Busy { model: self.name(), by: rebuild.by.clone() });
        }
        if rebuild.stage != Stage::Announced {
            return Ok(Begun::GoesOn);
        }
        sleep(settled).await;
        // Another process may have gone on with it meanwhile.
        if self.read().await?.stage(by) == Some(Stage::Announced) {
            self.clear(placement.beside()).await?;
            self.change(|placement| placement.proceed(by, Stage::Announced, Stage::Filling)).await?;
        }
        Ok(Begun::Anew)
    }

    /// Puts what was built to use, and empties what it replaces. It can be called again after a crash.
    ///
    /// # Errors
    /// [`RebuildError::Lost`] when it was given up in the meantime.
    pub async fn finish(&self, by: &str, settled: Duration) -> Result<(), RebuildError> {
        let placement = self.change(|placement| placement.swap(by)).await?;
        if placement.finished != by {
            return Err(RebuildError::Lost { model: self.name(), by: by.to_owned() });
        }
        if placement.stage(by) == Some(Stage::Swapped) {
            sleep(settled).await;
        }
        self.release(by).await?;
        Ok(self.empty(by, settled).await?)
    }

    /// Gives a rebuild up. What was put to use stays in use.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn release(&self, by: &str) -> Result<(), StoreError> {
        if self.read().await?.stage(by).is_some() {
            self.change(|placement| placement.retire(by)).await?;
        }
        Ok(())
    }

    /// Empties what a rebuild has left that was given up or finished. Until then no other one begins.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn empty(&self, by: &str, settled: Duration) -> Result<(), StoreError> {
        let placement = self.read().await?;
        if placement.stage(by) != Some(Stage::Retired) {
            return Ok(());
        }
        sleep(settled).await;
        self.clear(placement.beside()).await?;
        self.change(|placement| placement.end(by)).await?;
        Ok(())
    }

    async fn clear(&self, side: usize) -> Result<(), StoreError> {
        while in_background(self.store.delete_some(self.collections[side], REMOVED)).await? > 0 {}
        Ok(())
    }

    /// The placement that this process goes by.
    async fn current(&self) -> Result<Placement, StoreError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some((at, placement)) if at.elapsed() < KNOWN_FOR => Ok(placement),
            _ => self.read().await,
        }
    }

    async fn read(&self) -> Result<Placement, StoreError> {
        // From before it is read: it is as old as that.
        let now = Instant::now();
        let found = self.documents.get(self.name()).await?.map(|found| found.document);
        Ok(self.learn(now, found.unwrap_or_else(|| Placement::new(self.name()))))
    }

    async fn change(&self, change: impl Fn(&mut Placement)) -> Result<Placement, StoreError> {
        let now = Instant::now();
        let changed = |known: Option<&Placement>| {
            let mut placement = known.cloned().unwrap_or_else(|| Placement::new(self.name()));
            change(&mut placement);
            Some(placement)
        };
        let written = self.documents.change(self.name(), changed).await?;
        Ok(self.learn(now, written.unwrap_or_else(|| Placement::new(self.name()))))
    }

    fn learn(&self, at: Instant, placement: Placement) -> Placement {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, placement.clone()));
        placement
    }
}

/// The documents of a read model. Clones share what they know of its placement.
pub struct ReadModel<T> {
    placements: Arc<Placements>,
    sides: [Documents<T>; 2],
}

impl<T> Clone for ReadModel<T> {
    fn clone(&self) -> Self {
        Self { placements: Arc::clone(&self.placements), sides: self.sides.clone() }
    }
}

impl<T: Document> ReadModel<T> {
    /// The read model in its collections: that of its kind, and `other`, both made in the store where they are missing.
    ///
    /// # Errors
    /// When the store can't make them.
    pub async fn open(store: Arc<dyn DocumentStore>, other: &'static str) -> Result<Self, StoreError> {
        let sides = [Documents::open(Arc::clone(&store)).await?, Documents::open_in(Arc::clone(&store), other).await?];
        let placements = Arc::new(Placements::open(store, [T::COLLECTION, other]).await?);
        Ok(Self { placements, sides })
    }

    /// Which collection is in use.
    pub fn placements(&self) -> &Placements {
        &self.placements
    }

    /// The collection that is read.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn live(&self) -> Result<&Documents<T>, StoreError> {
        Ok(&self.sides[self.placements.current().await?.live()])
    }

    /// The collections that are written as events happen, the one that is read first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn written(&self) -> Result<Vec<&Documents<T>>, StoreError> {
        let placement = self.placements.current().await?;
        let mut written = vec![&self.sides[placement.live()]];
        if placement.writes_beside() {
            written.push(&self.sides[placement.beside()]);
        }
        Ok(written)
    }

    /// The collection that is being filled.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when none is.
    pub async fn beside(&self) -> Result<&Documents<T>, StoreError> {
        let placement = self.placements.current().await?;
        if !placement.writes_beside() {
            return Err(StoreError::Invalid(format!("{} is not being built", self.placements.name())));
        }
        Ok(&self.sides[placement.beside()])
    }

    /// The document of this id.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn get(&self, id: &str) -> Result<Option<Versioned<T>>, StoreError> {
        self.live().await?.get(id).await
    }

    /// Removes the document of this id.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delete(&self, id: &str) -> Result<(), StoreError> {
        for documents in self.written().await? {
            documents.delete(id).await?;
        }
        Ok(())
    }
}
