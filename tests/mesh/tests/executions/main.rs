//! Executions from a client's side: what a script is given and writes, how it ends, how it is watched, what is kept of
//! it, and what is refused.

mod bad_cases;
mod bad_input;
mod case_streams;
mod cases;
mod inputs;
mod kafka;
mod languages;
mod limits;
mod output;
mod queue;
mod records;
mod sagas;
mod slots;
mod traces;
mod verdicts;
mod watchers;
