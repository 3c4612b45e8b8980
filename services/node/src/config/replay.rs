//! Settings of replays.

use std::path::{Path, PathBuf};

use runmesh_events::Catalog;
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError};

/// Replays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// The folder for files of events. Empty: `replays` in the data folder.
    pub folder: PathBuf,
    /// Topics of Kafka, beside those of event types, to which events may be sent again. They are made where they are missing.
    pub topics: Vec<String>,
    /// How many replays the process carries on at a time.
    pub at_a_time: usize,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self { folder: PathBuf::new(), topics: Vec::new(), at_a_time: 4 }
    }
}

impl ReplayConfig {
    /// What the service is to know, with the node's data in this folder.
    pub(crate) fn settings(&self, data: &Path) -> runmesh_replay::Settings {
        let folder = if self.folder.as_os_str().is_empty() { data.join("replays") } else { self.folder.clone() };
        runmesh_replay::Settings { folder, topics: self.topics.clone(), at_a_time: self.at_a_time }
    }
}

/// Refuses values that can't work.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let refuse = |key, reason: String| Err(ConfigError::Setting { key, reason });
    let replay = &config.replay;
    if replay.at_a_time == 0 {
        return refuse("replay.at_a_time", "is 0".to_owned());
    }
    if !replay.topics.is_empty() && !config.bus.is_remote() {
        return refuse("replay.topics", "has topics, which are there on Kafka alone".to_owned());
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    for topic in &replay.topics {
        if topic.is_empty() || topic.len() > 249 || topic.starts_with('.') || !topic.chars().all(is_plain) {
            return refuse("replay.topics", format!("{topic:?} is not the name of a topic"));
        }
        if Catalog::get().event_type(topic).is_ok() {
            return refuse("replay.topics", format!("{topic:?} is the topic of an event type"));
        }
    }
    Ok(())
}
