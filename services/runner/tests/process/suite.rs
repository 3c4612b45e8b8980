//! What every sandbox has to do.

runmesh_runner::sandbox_suite!(crate::harness::Harness);
