//! Redrives: many letters delivered again, at a rate, with a look at how the first ones go.

mod control;
mod document;
mod line;
mod outcomes;
mod plan;
mod run;
mod watch;

pub(crate) use control::{cancel, get, list, pause, resume, start};
pub(crate) use document::{PartDocument, RedriveDocument};
pub(crate) use plan::plan;
pub(crate) use watch::watch;
