//! What happens when things go wrong or end: crashes, shutdown, missing credentials, wrong command lines.

mod access;
mod cases;
mod command_line;
mod dead_letters;
mod disk;
mod projections;
mod replays;
mod restart;
mod shadows;
mod shutdown;
mod verify;
