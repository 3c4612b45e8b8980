//! What can be said of Runmesh without starting it: the arrows between its crates, and its contract.

mod architecture;
mod catalog;
mod methods;
