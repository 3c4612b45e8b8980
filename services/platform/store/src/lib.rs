//! Where facts and documents are kept.
//!
//! Two narrow traits, [`EventStore`] and [`DocumentStore`] (with [`Documents`] as its typed face), and their backends:
//! [`sqlite`] keeps both in one file, [`mongodb`](self::mongodb) in a database that processes share. `conformance` (a
//! feature) is the suite that every backend passes. Neighbours: `runmesh-events` says what an event is; `runmesh-bus`
//! carries what is kept here.
//!
//! Invariants: an aggregate's events are numbered 1, 2, 3 … without holes; an append is all or nothing, and one with
//! ids that were appended before adds nothing; a document changes only from the revision that its writer saw; nothing
//! needs a transaction over more than one aggregate or document.

mod background;
mod carry;
#[cfg(feature = "conformance")]
pub mod conformance;
mod cursor;
mod document;
mod error;
mod event_store;
mod follow;
mod lease;
mod live;
pub mod mongodb;
mod page;
mod presence;
mod read_model;
mod record;
mod selection;
pub mod sqlite;

pub use self::mongodb::MongoStore;
pub use background::{give_way, in_background};
pub use carry::CarryOn;
pub use cursor::{Cursor, InvalidCursor};
pub use document::{
    Claim, Document, DocumentKind, DocumentStore, Documents, Index, IndexValue, Page, PageQuery, RawDocument, RawWrite,
    Revision, Versioned, from_json, to_json,
};
pub use error::StoreError;
pub use event_store::{
    Ahead, Appended, Behind, EventStore, Expected, Filter, Position, Stored, Unpublished, read_log, unpublished_pages,
};
pub use follow::follow;
pub use lease::{Lease, Leases};
pub use live::{Appends, LiveEvents, Subscription, TypeSet, TypeWake};
pub use presence::{Member, Members};
pub use read_model::{Begun, Placements, ReadModel, Rebuild, RebuildError};
pub use selection::{EventSelection, InvalidField};
pub use sqlite::SqliteStore;
