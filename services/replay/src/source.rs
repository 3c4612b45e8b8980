//! Where events come from.

mod file;
mod log;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use runmesh_events::{Event, from_timestamp};
use runmesh_store::{EventStore, StoreError};

use self::{file::FileSource, log::LogSource};
use crate::{
    document::{Range, ReplayDocument},
    plan::{Plan, Wrong},
};

/// What the name of a file of events ends in.
const ENDING: &str = ".ndjson";

/// Where a replay's events come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SourceSpec {
    /// The log.
    Log,
    /// The file of this name in the folder of replays.
    File(String),
}

impl SourceSpec {
    /// The source that a name means: a file's, or that of the replay which wrote it. Empty: the log.
    pub(crate) fn parse(name: &str, wrong: &mut Wrong) -> Self {
        if name.is_empty() {
            return Self::Log;
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.len() > 200 || name.starts_with('.') || !name.chars().all(is_plain) {
            let words = "is neither the id of a replay nor the name of a file in the folder of replays: letters, digits, \
                         dots, underscores and hyphens";
            wrong.field("source_file", words);
        }
        Self::File(if name.ends_with(ENDING) { name.to_owned() } else { ReplayDocument::file_name(name) })
    }
}

/// An event that is meant, with its place. An error: a line of a file that is none, in words.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// The place of the event in the source: what is behind it has a greater one, or, once in a while, the same.
    pub(crate) place: u64,
    pub(crate) event: Result<Arc<Event>, String>,
    /// How many were looked at for it: itself, and those before it that are not meant.
    pub(crate) scanned: u64,
}

impl Item {
    /// When the event was recorded.
    pub(crate) fn time(&self) -> Option<SystemTime> {
        from_timestamp(self.event.as_ref().ok()?.occurred_at.as_ref()?)
    }
}

/// A part of a source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    /// The events that are meant, in order.
    pub(crate) items: Vec<Item>,
    /// How many were looked at.
    pub(crate) scanned: u64,
    /// The place before the first event that was looked at. `None`: there was none.
    pub(crate) before: Option<u64>,
    /// All up to this place was looked at.
    pub(crate) upto: u64,
}

/// Why a source can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file can't be read.
    #[error("file {0}: {1}")]
    File(String, std::io::Error),
}

impl SourceError {
    /// Whether it may be read later.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }
}

/// Reads events in order, from a place on.
#[async_trait]
pub(crate) trait Source: Send {
    /// The next part. `None`: there is nothing more.
    async fn next(&mut self) -> Result<Option<Page>, SourceError>;
}

/// What sources are read from.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) events: Arc<dyn EventStore>,
    pub(crate) folder: PathBuf,
}

impl Sources {
    /// Where the source of a plan ends now.
    pub(crate) async fn end(&self, plan: &Plan) -> Result<u64, SourceError> {
        match &plan.source {
            SourceSpec::Log => Ok(self.events.newest().await?.0),
            SourceSpec::File(name) => file::length(&self.folder, name).await,
        }
    }

    /// Reads the source of a plan behind a place up to the end of its range. `started` is when that was set.
    pub(crate) async fn open(
        &self,
        plan: &Plan,
        after: u64,
        range: Range,
        started: SystemTime,
    ) -> Result<Box<dyn Source>, SourceError> {
        Ok(match &plan.source {
            SourceSpec::Log => {
                let (events, selection) = (Arc::clone(&self.events), plan.selection.clone());
                Box::new(LogSource::new(events, selection, after, range.end, started))
            }
            SourceSpec::File(name) => {
                Box::new(FileSource::open(&self.folder, name, plan.selection.clone(), after, range.end).await?)
            }
        })
    }
}

/// The path of a file of the folder.
fn path_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(name)
}
