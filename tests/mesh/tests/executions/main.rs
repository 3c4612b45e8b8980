//! Executions from a client's side: what a script is given and writes, how it ends, how it is watched, what is kept of
//! it, and what is refused.

mod bad_input;
mod inputs;
mod kafka;
mod output;
mod records;
mod slots;
mod traces;
mod verdicts;
mod watchers;
