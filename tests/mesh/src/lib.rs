//! What the end-to-end tests stand on: a mesh in a process of its own, clients, and what must hold of every log.
//!
//! The tests start the built binary as a user would and see it from outside: over gRPC and HTTP, by signals, by what it
//! leaves in its data folder. They wait for conditions, each with a bound, and leave no process and no folder behind.
//! Neighbours: `cargo xtask test` builds the binary and installs the foreign clients that [`tool`] finds.

mod backend;
mod client;
mod leftovers;
mod load;
mod mesh;
mod processes;
mod refused;
mod stored;
mod tool;
mod transcript;
mod wait;

pub use backend::BACKEND;
pub use client::{Cases, Client, Watch, bash, python};
pub use leftovers::Mark;
pub use load::Load;
pub use mesh::{Mesh, Options, binary};
pub use processes::{Backends, Member, Processes};
pub use refused::{bad_fields, reason};
pub use stored::Stored;
pub use tool::{python as python_tool, repository, tool};
pub use transcript::{Transcript, is_terminal};
pub use wait::{PATIENCE, eventually};
