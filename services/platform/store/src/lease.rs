//! Leases: of several processes one does a thing, and another takes over when it is gone.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    Document, DocumentStore, Documents, Index, IndexValue, PageQuery, Revision, StoreError, Versioned, from_json, page,
    to_json,
};

const BY_NAME: &str = "by_name";

/// The document of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseDocument {
    name: String,
    holder: String,
    until: SystemTime,
}

impl Document for LeaseDocument {
    const COLLECTION: &'static str = "leases";
    const INDEXES: &'static [Index] = &[Index { name: BY_NAME, fields: &["name"] }];

    fn id(&self) -> String {
        self.name.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        vec![("name", self.name.as_str().into())]
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "a lease")
    }
}

/// The leases of a store.
#[derive(Debug, Clone)]
pub struct Leases {
    documents: Documents<LeaseDocument>,
    holder: String,
}

/// A lease that is held. It is over at a time of this process's own clock, which does not jump.
#[derive(Debug, Clone)]
pub struct Lease {
    name: String,
    length: Duration,
    revision: Revision,
    over_at: Instant,
}

impl Lease {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the lease is still sure to be this process's own.
    pub fn is_in_force(&self) -> bool {
        Instant::now() < self.over_at
    }

    /// When it is over unless it is renewed.
    pub fn over_at(&self) -> Instant {
        self.over_at
    }

    /// The fencing token: it grows with each change of the holder.
    pub fn token(&self) -> Revision {
        self.revision
    }
}

impl Leases {
    /// The leases as this holder sees them. A holder is one run of a process: its name must not be used again.
    ///
    /// # Errors
    /// When their collection can't be made.
    pub async fn open(documents: Arc<dyn DocumentStore>, holder: impl Into<String>) -> Result<Self, StoreError> {
        Ok(Self { documents: Documents::open(documents).await?, holder: holder.into() })
    }

    /// Who holds leases here.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Takes a lease if nobody else holds it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn acquire(&self, name: &str, length: Duration) -> Result<Option<Lease>, StoreError> {
        let (asked_at, until) = (Instant::now(), SystemTime::now() + length);
        let mine = LeaseDocument { name: name.to_owned(), holder: self.holder.clone(), until };
        let taken = match self.documents.get(name).await? {
            None => self.documents.insert(&mine).await,
            Some(found) if found.document.holder == self.holder || found.document.until <= SystemTime::now() => {
                self.documents.update(&mine, found.revision).await
            }
            Some(_) => return Ok(None),
        };
        match taken {
            Ok(revision) => Ok(Some(Lease { name: name.to_owned(), length, revision, over_at: asked_at + length })),
            Err(StoreError::RevisionMismatch { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a lease last for its length from now on. `false`: another has it.
    ///
    /// # Errors
    /// When the store fails; the lease is as it was.
    pub async fn renew(&self, lease: &mut Lease) -> Result<bool, StoreError> {
        let (asked_at, until) = (Instant::now(), SystemTime::now() + lease.length);
        let mine = LeaseDocument { name: lease.name.clone(), holder: self.holder.clone(), until };
        match self.documents.update(&mine, lease.revision).await {
            Ok(revision) => {
                (lease.revision, lease.over_at) = (revision, asked_at + lease.length);
                Ok(true)
            }
            Err(StoreError::RevisionMismatch { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives a lease back, so that another need not wait for its end.
    ///
    /// # Errors
    /// When the store fails; the lease then ends by itself.
    pub async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        match self.documents.delete_if(&lease.name, lease.revision).await {
            Ok(_) | Err(StoreError::RevisionMismatch { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a lease is in force, whoever holds it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn is_held(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.documents.get(name).await?.is_some_and(|found| found.document.until > SystemTime::now()))
    }

    /// The leases with names that begin with `prefix` whose holders let them run out, at most 1,000.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run_out(&self, prefix: &str) -> Result<Vec<Lease>, StoreError> {
        let query = PageQuery {
            index: BY_NAME,
            at_least: Some(prefix.into()),
            less_than: Some(IndexValue::Text(page::behind(prefix))),
            limit: 1_000,
            ..PageQuery::default()
        };
        let (now, over_at) = (SystemTime::now(), Instant::now());
        let found = self.documents.page(query).await?.documents;
        let over = found.into_iter().filter(|found| found.document.until <= now);
        let lease = |Versioned { document, revision }: Versioned<LeaseDocument>| Lease {
            name: document.name,
            length: Duration::ZERO,
            revision,
            over_at,
        };
        Ok(over.map(lease).collect())
    }

    /// Waits for a lease.
    pub async fn wait_for(&self, name: &str, length: Duration) -> Lease {
        loop {
            match self.acquire(name, length).await {
                Ok(Some(lease)) => return lease,
                Ok(None) => {}
                Err(error) => tracing::warn!(lease = name, %error, "can't take a lease; trying again"),
            }
            sleep(length / 8).await;
        }
    }

    /// Keeps a lease until it is lost: another has it, or it could not be renewed in time.
    pub async fn keep(&self, lease: &mut Lease) {
        while lease.is_in_force() {
            sleep(lease.length / 4).await;
            match timeout_at(lease.over_at, self.renew(lease)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => tracing::warn!(lease = lease.name, %error, "can't renew a lease; trying again"),
            }
        }
    }
}
