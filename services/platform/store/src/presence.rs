//! Who is there: processes that give signs of life, each with what it says of itself.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{Document, DocumentStore, Documents, Index, IndexValue, PageQuery, StoreError, from_json, to_json};

const BY_KIND: &str = "by_kind";

/// The document of one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MemberDocument {
    kind: String,
    name: String,
    until: SystemTime,
    draining: bool,
    /// What it says of itself.
    words: Vec<u8>,
}

impl Document for MemberDocument {
    const COLLECTION: &'static str = "members";
    const INDEXES: &'static [Index] = &[Index { name: BY_KIND, fields: &["kind"] }];

    fn id(&self) -> String {
        id(&self.kind, &self.name)
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        vec![("kind", self.kind.as_str().into())]
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "a member")
    }
}

fn id(kind: &str, name: &str) -> String {
    format!("{kind}/{name}")
}

/// One that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Until when that is believed without another sign of life.
    pub until: SystemTime,
    /// It was asked to take no more work.
    pub draining: bool,
    /// What it says of itself.
    pub words: Vec<u8>,
}

/// The members of one kind, such as runners.
#[derive(Debug, Clone)]
pub struct Members {
    documents: Documents<MemberDocument>,
    kind: &'static str,
}

impl Members {
    /// Those of this kind.
    ///
    /// # Errors
    /// When their collection can't be made.
    pub async fn open(store: Arc<dyn DocumentStore>, kind: &'static str) -> Result<Self, StoreError> {
        Ok(Self { documents: Documents::open(store).await?, kind })
    }

    /// Gives a sign of life, which is believed for so long.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn announce(&self, name: &str, words: &[u8], length: Duration) -> Result<(), StoreError> {
        let until = SystemTime::now() + length;
        let id = id(self.kind, name);
        let written = self.documents.change(&id, |member| {
            let draining = member.is_some_and(|member| member.draining);
            let (kind, name, words) = (self.kind.to_owned(), name.to_owned(), words.to_owned());
            Some(MemberDocument { kind, name, until, draining, words })
        });
        written.await.map(drop)
    }

    /// Asks one to take no more work, or to take work again. `false`: it is not there.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn set_draining(&self, name: &str, draining: bool) -> Result<bool, StoreError> {
        let drained = |member: &MemberDocument| MemberDocument { draining, ..member.clone() };
        Ok(self.documents.change(&id(self.kind, name), |member| member.map(drained)).await?.is_some())
    }

    /// Takes one's leave, which ends a drain too.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn leave(&self, name: &str) -> Result<(), StoreError> {
        self.documents.delete(&id(self.kind, name)).await.map(drop)
    }

    /// Those whose last sign of life is still believed, in the order of their names.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn alive(&self) -> Result<Vec<Member>, StoreError> {
        let mut query = PageQuery { index: BY_KIND, equal: vec![self.kind.into()], limit: 1_000, ..Default::default() };
        let (now, mut alive) = (SystemTime::now(), Vec::new());
        loop {
            let page = self.documents.page(query.clone()).await?;
            let found = page.documents.into_iter().map(|found| found.document).filter(|member| member.until > now);
            alive.extend(found.map(|MemberDocument { name, until, draining, words, .. }| Member {
                name,
                until,
                draining,
                words,
            }));
            query.after = page.next;
            if query.after.is_none() {
                alive.sort_by(|a, b| a.name.cmp(&b.name));
                return Ok(alive);
            }
        }
    }
}
