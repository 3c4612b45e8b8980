//! The policies that are in force: the presets of the catalog, and what operators set instead.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use runmesh_events::{Catalog, EventType};
use runmesh_store::{Document, DocumentStore, Documents, Index, IndexValue, PageQuery, StoreError, from_json, to_json};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::RetryPolicy;

/// How long what was read is used. What another process sets is in force here after that.
const FRESH: Duration = Duration::from_secs(1);

const BY_TOPIC: &str = "by_topic";

/// A policy that was set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Override {
    /// The topic: the event type's name.
    pub topic: String,
    /// The group. Empty: all groups that have no override of their own.
    pub group: String,
    /// The policy.
    pub policy: RetryPolicy,
    /// The preset that it is. Empty: none.
    pub preset: String,
    /// Who set it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: SystemTime,
}

impl Override {
    /// The id of the document of a topic's override for a group.
    pub fn id_of(topic: &str, group: &str) -> String {
        format!("{topic}/{group}")
    }
}

impl Document for Override {
    const COLLECTION: &'static str = "retry_policies";
    const INDEXES: &'static [Index] = &[Index { name: BY_TOPIC, fields: &["topic", "group"] }];

    fn id(&self) -> String {
        Self::id_of(&self.topic, &self.group)
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        vec![("topic", self.topic.as_str().into()), ("group", self.group.as_str().into())]
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "a retry policy")
    }
}

/// All that was set, at one time.
#[derive(Debug, Default)]
pub struct PolicySet {
    overrides: Vec<Override>,
}

impl PolicySet {
    /// The policies that were set, by topic and group.
    pub fn overrides(&self) -> &[Override] {
        &self.overrides
    }

    /// What was set for a group on a topic, or for all groups on it.
    pub fn override_of(&self, topic: &str, group: &str) -> Option<&Override> {
        let of = |group: &str| self.overrides.iter().find(|set| set.topic == topic && set.group == group);
        of(group).or_else(|| of(""))
    }

    /// The policy in force for a group on a topic.
    pub fn policy(&self, event_type: EventType, group: &str) -> RetryPolicy {
        let Some(topic) = Catalog::get().topic(event_type) else {
            return RetryPolicy::preset(Default::default());
        };
        let set = self.override_of(&topic.name, group);
        set.map_or_else(|| RetryPolicy::preset(topic.retry_preset), |set| set.policy)
    }
}

/// What was read, and when.
type Known = (Instant, Arc<PolicySet>);

/// The policies of a store. Clones share everything.
#[derive(Debug, Clone)]
pub struct Policies {
    documents: Documents<Override>,
    known: Arc<Mutex<Option<Known>>>,
}

impl Policies {
    pub(crate) async fn open(documents: Arc<dyn DocumentStore>) -> Result<Self, StoreError> {
        Ok(Self { documents: Documents::open(documents).await?, known: Arc::default() })
    }

    /// What is in force: what this process set at once, what another one set within a second.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn current(&self) -> Result<Arc<PolicySet>, StoreError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, known)) = known.filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(known);
        }
        let at = Instant::now();
        let mut query = PageQuery { index: BY_TOPIC, limit: 1_000, ..PageQuery::default() };
        let mut overrides = Vec::new();
        loop {
            let page = self.documents.page(query.clone()).await?;
            overrides.extend(page.documents.into_iter().map(|found| found.document));
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        let current = Arc::new(PolicySet { overrides });
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, Arc::clone(&current)));
        Ok(current)
    }

    /// Sets a policy. Once it returns, it is in force in every process.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn set(&self, policy: Override) -> Result<(), StoreError> {
        self.documents.change(&policy.id(), |_| Some(policy.clone())).await?;
        self.changed().await;
        Ok(())
    }

    /// Takes back what was set. Returns whether there was something.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn reset(&self, topic: &str, group: &str) -> Result<bool, StoreError> {
        let was_set = self.documents.delete(&Override::id_of(topic, group)).await?;
        self.changed().await;
        Ok(was_set)
    }

    async fn changed(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Until others have to look again.
        tokio::time::sleep(FRESH).await;
    }
}
