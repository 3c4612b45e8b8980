//! Dead letters: what groups could not handle is listed, understood, corrected, and delivered to them again.
//!
//! The consumers of the bus keep the letters, with what their policy does about each; this crate does the rest.
//! [`DeadLetterService`] shows them and takes orders; [`DeadLetterService::run`] tells of failures as events, delivers what is
//! due, lets go what waited behind something, and carries redrives on. Neighbours: the bus below, which owns the letter, its
//! states and its policies; no other service.
//!
//! Invariants: a delivery is marked in the letter, and told, before its record is published, and published again if it is
//! not certain that it was; the letter knows which attempt it waits for, so that a record that comes twice is handled once; what an
//! operator does is an event with who and why; nothing depends on more than one document at a time.

mod act;
mod counts;
mod deliver;
mod edit;
mod error;
mod export;
mod filter;
mod list;
mod policy;
mod redrive;
mod service;
mod tell;
mod view;
mod watch;
mod worker;

pub use service::{DeadLetterService, Dependencies};
