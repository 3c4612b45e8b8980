//! Replays: events of the log, or of a file, are sent again, each marked as a replay.
//!
//! [`ReplayService`] takes orders and shows how replays go; [`ReplayService::run`] carries them on. A replay is a document with a
//! lease and a checkpoint, so that it belongs to no process. It reads from a source (`source`), which has an end that is set
//! when the replay starts, and sends to a target (`target`): the topics, one group, a file, executions that are run again and
//! compared (`shadow`), or a read model that is built anew (`read_models`). Neighbours: the store, which has the log and says
//! how read models are swapped, and the bus, which marks records and has groups skip what they do not take; the execution
//! service, by gRPC.
//!
//! Invariants: each event that is meant is sent at least once; what is behind the checkpoint alone may be sent twice; the
//! checkpoint is kept only after the target has all before it durably; nothing that a replay causes is part of it; nothing here
//! starts a replay but a call.

mod control;
mod document;
mod error;
mod gaps;
mod plan;
mod preview;
mod read_models;
mod run;
mod service;
mod session;
mod shadow;
mod source;
mod target;
mod view;
mod watch;

pub use service::{Dependencies, ReplayService, Settings};
pub use target::Executions;
