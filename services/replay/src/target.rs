//! Where events go.

mod dry;
mod file;
mod group;
mod records;
mod topics;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use runmesh_bus::{Bus, GroupTable, KnownGroup};
use runmesh_events::{Event, EventType};
use runmesh_proto::replay::replay_spec;
use runmesh_store::StoreError;

use self::{dry::DryRun, file::FileTarget, records::Records, topics::TopicsTarget};
use crate::plan::{Plan, Wrong, parse_topic_map};

pub(crate) use self::file::remove;

/// Where a replay's events go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetSpec {
    /// To the topics of their types, or to others in their stead.
    Topics(BTreeMap<EventType, String>),
    /// To one group.
    Group(String),
    /// To a file of the replay's own.
    File,
}

impl TargetSpec {
    /// The target that a spec has.
    pub(crate) fn parse(target: Option<&replay_spec::Target>, topics: &[String], wrong: &mut Wrong) -> Option<Self> {
        match target {
            None => {
                wrong.field("target", "is missing: topics, group or file");
                None
            }
            Some(replay_spec::Target::Topics(target)) => {
                Some(Self::Topics(parse_topic_map(&target.topic_map, topics, wrong)))
            }
            Some(replay_spec::Target::Group(target)) if target.group.is_empty() => {
                wrong.field("group.group", "is missing");
                None
            }
            Some(replay_spec::Target::Group(target)) => Some(Self::Group(target.group.clone())),
            Some(replay_spec::Target::File(_)) => Some(Self::File),
        }
    }

    /// What it is called in metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Topics(_) => "topics",
            Self::Group(_) => "group",
            Self::File => "file",
        }
    }
}

/// Why something could not be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub(crate) struct SendError {
    /// Whether it may be sent later.
    pub(crate) transient: bool,
    /// Why, in words.
    pub(crate) words: String,
}

impl SendError {
    pub(crate) fn transient(words: impl ToString) -> Self {
        Self { transient: true, words: words.to_string() }
    }

    pub(crate) fn lasting(words: impl ToString) -> Self {
        Self { transient: false, words: words.to_string() }
    }
}

/// Takes events. One that is sent twice is the same to it, or is marked so that whoever gets it can tell.
#[async_trait]
pub(crate) trait Target: Send + Sync {
    /// Whether events of a type concern it.
    fn wants(&self, _event_type: EventType) -> bool {
        true
    }

    /// Sends events, in this order. A result for each.
    async fn send(&mut self, events: &[Arc<Event>]) -> Vec<Result<(), SendError>>;

    /// Makes durable all that was sent. Returns what it has to know to go on from here, such as the length of a file.
    async fn checkpoint(&mut self) -> Result<u64, SendError> {
        Ok(0)
    }

    /// All was sent, and a checkpoint made. It may be called again after a crash.
    async fn finish(&mut self) -> Result<(), SendError> {
        Ok(())
    }

    /// How many records those are behind on who get what is sent.
    async fn behind(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}

/// A target that is open.
pub(crate) struct Opened {
    pub(crate) target: Box<dyn Target>,
    /// Whether it goes on from the checkpoint. Otherwise all has to be sent from the beginning.
    pub(crate) resumes: bool,
}

/// What targets stand on.
#[derive(Clone)]
pub(crate) struct Targets {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) groups: Arc<dyn GroupTable>,
    pub(crate) folder: PathBuf,
}

impl Targets {
    /// The target of a replay, from where it was at a checkpoint on.
    pub(crate) async fn open(&self, replay_id: &str, plan: &Plan, checkpoint: u64) -> Result<Opened, SendError> {
        if plan.dry_run {
            return Ok(Opened { target: Box::new(DryRun), resumes: true });
        }
        let records = Records::new(replay_id, plan.preserve_timestamps);
        Ok(match &plan.target {
            TargetSpec::Topics(map) => {
                let target = TopicsTarget::new(self, records, map.clone(), plan.event_types());
                Opened { target: Box::new(target), resumes: true }
            }
            TargetSpec::Group(name) => {
                let target = group::open(self, name, records, &plan.event_types()).await?;
                Opened { target: Box::new(target), resumes: true }
            }
            TargetSpec::File => {
                let (target, resumes) = FileTarget::open(&self.folder, replay_id, checkpoint).await?;
                Opened { target: Box::new(target), resumes }
            }
        })
    }

    /// The group of this name, if the mesh has one.
    pub(crate) async fn group(&self, name: &str) -> Result<Option<KnownGroup>, StoreError> {
        Ok(self.groups.groups().await?.into_iter().find(|group| group.name.as_str() == name))
    }
}
