//! Executions from a client's side: what a script writes, how it ends, how it is watched, and what is refused.

mod bad_input;
mod output;
mod verdicts;
mod watchers;
