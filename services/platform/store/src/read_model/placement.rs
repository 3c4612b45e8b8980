//! The document that says which collection of a read model is in use.

use serde::{Deserialize, Serialize};

use crate::{Document, Index, IndexValue, StoreError, from_json, to_json};

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// What happens is written to both collections, and the one that is not in use becomes empty.
    Announced,
    /// It is filled.
    Filling,
    /// It is in use, and the old one is still written.
    Swapped,
    /// The one that is not in use is written no more, and becomes empty.
    Retired,
}

/// A rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rebuilding {
    pub(super) by: String,
    pub(super) stage: Stage,
}

/// Which collection of a read model is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Placement {
    name: String,
    live: usize,
    pub(super) rebuild: Option<Rebuilding>,
    /// Who has built the one in use. Empty: it is the first one.
    pub(super) finished: String,
}

impl Placement {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), live: 0, rebuild: None, finished: String::new() }
    }

    /// The collection that is read.
    pub(super) fn live(&self) -> usize {
        self.live.min(1)
    }

    /// The other one.
    pub(super) fn beside(&self) -> usize {
        1 - self.live()
    }

    /// Whether what happens is written to that too.
    pub(super) fn writes_beside(&self) -> bool {
        self.rebuild.as_ref().is_some_and(|rebuild| rebuild.stage != Stage::Retired)
    }

    /// How far this one's rebuild is. `None`: it has none.
    pub(super) fn stage(&self, by: &str) -> Option<Stage> {
        self.rebuild.as_ref().filter(|rebuild| rebuild.by == by).map(|rebuild| rebuild.stage)
    }

    pub(super) fn announce(&mut self, by: &str) {
        if self.rebuild.is_none() && self.finished != by {
            self.rebuild = Some(Rebuilding { by: by.to_owned(), stage: Stage::Announced });
        }
    }

    /// From one stage to another, if it is in that one.
    pub(super) fn proceed(&mut self, by: &str, from: Stage, to: Stage) {
        if self.stage(by) == Some(from) {
            self.rebuild = Some(Rebuilding { by: by.to_owned(), stage: to });
        }
    }

    pub(super) fn swap(&mut self, by: &str) {
        if self.stage(by) == Some(Stage::Filling) {
            (self.live, self.finished) = (self.beside(), by.to_owned());
            self.proceed(by, Stage::Filling, Stage::Swapped);
        }
    }

    pub(super) fn retire(&mut self, by: &str) {
        if let Some(stage) = self.stage(by) {
            self.proceed(by, stage, Stage::Retired);
        }
    }

    pub(super) fn end(&mut self, by: &str) {
        if self.stage(by) == Some(Stage::Retired) {
            self.rebuild = None;
        }
    }
}

impl Document for Placement {
    const COLLECTION: &'static str = "read_models";
    const INDEXES: &'static [Index] = &[];

    fn id(&self) -> String {
        self.name.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        Vec::new()
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "the placement of a read model")
    }
}
