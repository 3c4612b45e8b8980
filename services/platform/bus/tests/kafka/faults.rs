//! Brokers that are killed, come back, are slow or can't be reached, and members that stand still: with each of them a
//! load of events, and afterwards the same questions.

mod brokers;
mod course;
mod network;
mod processes;
