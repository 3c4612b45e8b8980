//! Verifications: of meshes in which nothing is wrong, and of some in which each thing that can be found was made wrong.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod ends;
mod groups;
mod kafka;
mod live;
mod logs;
mod measure;
mod mesh;
mod outcome;
mod remote;
mod samples;
mod service;
mod topics;
