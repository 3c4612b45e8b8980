//! Making topics, and comparing those that exist with the catalog.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use futures::executor::block_on;
use rdkafka::{
    admin::{
        AdminClient, AdminOptions, NewPartitions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
        TopicReplication, TopicResult,
    },
    metadata::Metadata,
    types::RDKafkaErrorCode,
};
use runmesh_events::TopicSpec;

use super::{KafkaConfig, error, logs::Logs, reach};
use crate::{BusError, TopicDrift, TopicReport};

const RETENTION: &str = "retention.ms";
const MAX_BYTES: &str = "max.message.bytes";
const MIN_INSYNC: &str = "min.insync.replicas";
const CLEANUP: &str = "cleanup.policy";

/// How long to wait before brokers are asked again whether they know a topic that was made.
const LOOK: Duration = Duration::from_millis(50);

/// What to do about a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Make what is missing, grow what is too small.
    Apply,
    /// Report only.
    Compare,
}

/// What exists of a topic.
struct Found {
    partitions: usize,
    replicas: usize,
}

/// Compares the topics with the cluster's, and in [`Mode::Apply`] makes and grows them. Blocks.
pub(super) fn reconcile(config: &KafkaConfig, topics: &[TopicSpec], mode: Mode) -> Result<TopicReport, BusError> {
    let found = topics_of(&reach::metadata(config)?);
    let admin: AdminClient<Logs> =
        config.client().create_with_context(Logs).map_err(|error| error::of("admin client", &error))?;
    let patience = Some(config.request_timeout);
    let options = AdminOptions::new().request_timeout(patience).operation_timeout(patience);
    let cluster = Cluster { config, admin, options };
    let mut report = TopicReport::default();
    let (mut missing, mut small, mut existing) = (Vec::new(), Vec::new(), Vec::new());
    for topic in topics {
        let Some(found) = found.get(&topic.name) else {
            missing.push(topic);
            continue;
        };
        existing.push(topic);
        let wanted = partitions(topic);
        if found.partitions < wanted {
            small.push(topic);
        } else if found.partitions > wanted {
            report.drift.push(drift(topic, "partitions", wanted, found.partitions));
        }
        if let Some(wanted) = config.replication_factor
            && found.replicas != usize::from(wanted)
        {
            report.drift.push(drift(topic, "replication.factor", wanted, found.replicas));
        }
    }
    report.drift.extend(cluster.settings_drift(&existing));
    if mode == Mode::Apply {
        cluster.create(&missing)?;
        cluster.grow(&small)?;
        cluster.await_known(&[missing.as_slice(), small.as_slice()].concat())?;
    }
    report.created = missing.iter().map(|topic| topic.name.clone()).collect();
    report.grown = small.iter().map(|topic| topic.name.clone()).collect();
    for drift in &report.drift {
        tracing::warn!(
            topic = drift.topic,
            setting = drift.setting,
            wanted = drift.wanted,
            found = drift.found,
            "a topic is not as the catalog has it"
        );
    }
    Ok(report)
}

fn topics_of(metadata: &Metadata) -> HashMap<String, Found> {
    metadata
        .topics()
        .iter()
        .filter(|topic| !topic.partitions().is_empty())
        .map(|topic| {
            let replicas = topic.partitions().iter().map(|partition| partition.replicas().len()).min();
            let found = Found { partitions: topic.partitions().len(), replicas: replicas.unwrap_or_default() };
            (topic.name().to_owned(), found)
        })
        .collect()
}

struct Cluster<'a> {
    config: &'a KafkaConfig,
    admin: AdminClient<Logs>,
    options: AdminOptions,
}

impl Cluster<'_> {
    /// Waits until the brokers tell of topics that were made or grown: who joins a group before that waits for its
    /// partitions until the next look at the cluster.
    fn await_known(&self, topics: &[&TopicSpec]) -> Result<(), BusError> {
        let deadline = Instant::now() + self.config.request_timeout;
        let mut left = topics.to_vec();
        while !left.is_empty() {
            let metadata = self.admin.inner().fetch_metadata(None, self.config.request_timeout);
            let found = topics_of(&metadata.map_err(|error| error::of("topics", &error))?);
            left.retain(|topic| found.get(&topic.name).is_none_or(|found| found.partitions < partitions(topic)));
            if let Some(topic) = left.first() {
                if Instant::now() >= deadline {
                    return Err(BusError::Unavailable(format!("the brokers do not tell of topic {} yet", topic.name)));
                }
                thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    /// The settings that a topic is made with.
    fn settings(&self, topic: &TopicSpec) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            (RETENTION, topic.retention.as_millis().to_string()),
            (MAX_BYTES, self.config.max_batch_bytes().to_string()),
            (CLEANUP, "delete".to_owned()),
        ];
        settings.extend(self.config.min_insync_replicas.map(|replicas| (MIN_INSYNC, replicas.to_string())));
        settings
    }

    /// Clusters may keep their settings to themselves; then there is nothing to compare.
    fn settings_drift(&self, topics: &[&TopicSpec]) -> Vec<TopicDrift> {
        if topics.is_empty() {
            return Vec::new();
        }
        let specifiers: Vec<ResourceSpecifier<'_>> =
            topics.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
        let described = match block_on(self.admin.describe_configs(&specifiers, &self.options)) {
            Ok(described) => described,
            Err(error) => {
                tracing::warn!(%error, "the cluster does not tell the settings of topics");
                return Vec::new();
            }
        };
        let mut found = HashMap::new();
        for resource in described {
            match resource {
                Ok(resource) => {
                    if let OwnedResourceSpecifier::Topic(name) = &resource.specifier {
                        found.insert(name.clone(), resource);
                    }
                }
                Err(code) => tracing::warn!(%code, "the cluster does not tell the settings of a topic"),
            }
        }
        let mut drifts = Vec::new();
        for topic in topics {
            let Some(resource) = found.get(&topic.name) else { continue };
            for (setting, wanted) in self.settings(topic) {
                let value = resource.get(setting).and_then(|entry| entry.value.clone()).unwrap_or_default();
                if value != wanted {
                    drifts.push(drift(topic, setting, wanted, value));
                }
            }
        }
        drifts
    }

    fn create(&self, topics: &[&TopicSpec]) -> Result<(), BusError> {
        if topics.is_empty() {
            return Ok(());
        }
        let settings: Vec<_> = topics.iter().map(|topic| self.settings(topic)).collect();
        let replication = self.config.replication_factor.map_or(-1, i32::from);
        let new: Vec<NewTopic<'_>> = topics
            .iter()
            .zip(&settings)
            .map(|(topic, settings)| {
                let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(replication));
                settings.iter().fold(new, |new, (name, value)| new.set(name, value))
            })
            .collect();
        let results = block_on(self.admin.create_topics(&new, &self.options));
        // Another instance may have been faster.
        check(results, "create topic", RDKafkaErrorCode::TopicAlreadyExists)
    }

    fn grow(&self, topics: &[&TopicSpec]) -> Result<(), BusError> {
        if topics.is_empty() {
            return Ok(());
        }
        let new: Vec<NewPartitions<'_>> =
            topics.iter().map(|topic| NewPartitions::new(&topic.name, partitions(topic))).collect();
        let results = block_on(self.admin.create_partitions(&new, &self.options));
        // The same: then the topic has as many by now.
        check(results, "add partitions", RDKafkaErrorCode::InvalidPartitions)
    }
}

fn check(
    results: Result<Vec<TopicResult>, rdkafka::error::KafkaError>,
    what: &str,
    harmless: RDKafkaErrorCode,
) -> Result<(), BusError> {
    for result in results.map_err(|error| error::of(what, &error))? {
        match result {
            Ok(_) => {}
            Err((_, code)) if code == harmless => {}
            Err((topic, code)) => return Err(error::of_code(format!("{what} {topic}: {code}"), code)),
        }
    }
    Ok(())
}

fn partitions(topic: &TopicSpec) -> usize {
    usize::try_from(topic.partitions).unwrap_or_default().max(1)
}

fn drift(topic: &TopicSpec, setting: &'static str, wanted: impl ToString, found: impl ToString) -> TopicDrift {
    TopicDrift { topic: topic.name.clone(), setting, wanted: wanted.to_string(), found: found.to_string() }
}
