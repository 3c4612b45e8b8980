//! Where events go.

mod dry;
mod file;
mod group;
mod projection;
mod records;
mod rerun;
mod shadow;
mod topics;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use runmesh_bus::{Bus, GroupTable, KnownGroup};
use runmesh_events::{Event, EventType};
use runmesh_proto::replay::replay_spec;
use runmesh_store::{Documents, EventStore, Rebuild, StoreError};

use self::{
    dry::DryRun,
    file::FileTarget,
    records::Records,
    rerun::{RerunSpec, RerunTarget, Reruns},
    shadow::ShadowTarget,
    topics::TopicsTarget,
};
use crate::{
    document::Progress,
    plan::{Plan, Wrong, parse_topic_map},
    shadow::{ComparisonDocument, Tolerance},
};

pub(crate) use self::file::remove;
pub use self::rerun::Executions;

/// The greatest ratio that can be asked for.
const GREATEST_RATIO: f64 = 1_000_000.0;

/// Where a replay's events go.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TargetSpec {
    /// To the topics of their types, or to others in their stead.
    Topics(BTreeMap<EventType, String>),
    /// To one group.
    Group(String),
    /// To a file of the replay's own.
    File,
    /// As new executions.
    Rerun(RerunSpec),
    /// The same, each compared with the first one.
    Shadow(RerunSpec, Tolerance),
    /// To a read model, which is built anew.
    Projection(String),
}

impl TargetSpec {
    /// The target that a spec has.
    pub(crate) fn parse(target: Option<&replay_spec::Target>, topics: &[String], wrong: &mut Wrong) -> Option<Self> {
        match target {
            None => {
                wrong.field("target", "is missing: topics, group, file, rerun, shadow or projection");
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
            Some(replay_spec::Target::Projection(target)) if target.read_model.is_empty() => {
                wrong.field("projection.read_model", "is missing");
                None
            }
            Some(replay_spec::Target::Projection(target)) => Some(Self::Projection(target.read_model.clone())),
            Some(replay_spec::Target::Rerun(target)) => {
                Some(Self::Rerun(RerunSpec::parse("rerun", target.options.as_ref(), wrong)))
            }
            Some(replay_spec::Target::Shadow(target)) => {
                for (name, ratio) in [("slower", target.slower), ("larger", target.larger)] {
                    if !(0.0..=GREATEST_RATIO).contains(&ratio) {
                        wrong.field(format_args!("shadow.{name}"), "has to be from 0 to 1,000,000");
                    }
                }
                let tolerance = Tolerance { slower: target.slower, larger: target.larger };
                Some(Self::Shadow(RerunSpec::parse("shadow", target.options.as_ref(), wrong), tolerance))
            }
        }
    }

    /// What it is called in metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Topics(_) => "topics",
            Self::Group(_) => "group",
            Self::File => "file",
            Self::Rerun(_) => "rerun",
            Self::Shadow(..) => "shadow",
            Self::Projection(_) => "projection",
        }
    }

    /// How executions are run again, if they are.
    pub(crate) fn reruns(&self) -> Option<&RerunSpec> {
        match self {
            Self::Rerun(spec) | Self::Shadow(spec, _) => Some(spec),
            _ => None,
        }
    }

    /// The read model that is built, if one is.
    pub(crate) fn read_model(&self) -> Option<&str> {
        match self {
            Self::Projection(name) => Some(name),
            _ => None,
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

impl From<StoreError> for SendError {
    fn from(error: StoreError) -> Self {
        Self { transient: error.is_transient(), words: error.to_string() }
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
    /// Whether all that is recorded until it is opened has to be sent, rather than until the replay was started.
    pub(crate) begins_late: bool,
}

impl Opened {
    /// One that goes on.
    fn going_on(target: impl Target + 'static) -> Self {
        Self { target: Box::new(target), resumes: true, begins_late: false }
    }
}

/// What targets stand on.
#[derive(Clone)]
pub(crate) struct Targets {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) groups: Arc<dyn GroupTable>,
    pub(crate) folder: PathBuf,
    /// The log.
    pub(crate) events: Arc<dyn EventStore>,
    pub(crate) comparisons: Documents<ComparisonDocument>,
    /// The way to the execution service, once it is known.
    pub(crate) executions: Arc<OnceLock<Executions>>,
    /// The read models that can be built anew.
    pub(crate) read_models: Arc<[Arc<dyn Rebuild>]>,
}

impl Targets {
    /// The target of a replay, from where it was at a checkpoint on.
    pub(crate) async fn open(&self, replay_id: &str, plan: &Plan, checkpoint: &Progress) -> Result<Opened, SendError> {
        if plan.dry_run {
            return Ok(Opened::going_on(DryRun));
        }
        let records = Records::new(replay_id, plan.preserve_timestamps);
        Ok(match &plan.target {
            TargetSpec::Topics(map) => {
                Opened::going_on(TopicsTarget::new(self, records, map.clone(), plan.event_types()))
            }
            TargetSpec::Group(name) => Opened::going_on(group::open(self, name, records, &plan.event_types()).await?),
            TargetSpec::File => {
                let (target, resumes) = FileTarget::open(&self.folder, replay_id, checkpoint.target).await?;
                Opened { resumes, ..Opened::going_on(target) }
            }
            TargetSpec::Rerun(spec) => Opened::going_on(RerunTarget(self.reruns(replay_id, spec)?)),
            TargetSpec::Shadow(spec, tolerance) => Opened::going_on(ShadowTarget {
                reruns: self.reruns(replay_id, spec)?,
                replay_id: replay_id.to_owned(),
                tolerance: *tolerance,
                events: Arc::clone(&self.events),
                comparisons: self.comparisons.clone(),
            }),
            TargetSpec::Projection(name) => self.open_projection(replay_id, name, checkpoint.place > 0).await?,
        })
    }

    fn reruns(&self, replay_id: &str, spec: &RerunSpec) -> Result<Reruns, SendError> {
        let executions = self.executions.get();
        let executions = executions.ok_or_else(|| SendError::lasting("this process has no way to executions"))?;
        Ok(Reruns::new(executions.clone(), replay_id, spec))
    }

    /// The group of this name, if the mesh has one.
    pub(crate) async fn group(&self, name: &str) -> Result<Option<KnownGroup>, StoreError> {
        Ok(self.groups.groups().await?.into_iter().find(|group| group.name.as_str() == name))
    }
}
