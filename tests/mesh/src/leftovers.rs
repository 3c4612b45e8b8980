//! Finding the processes of scripts, wherever they went.

use std::{collections::BTreeMap, fs};

use crate::wait::eventually;

/// A mark in the environment of a test's scripts, inherited by all that they start.
#[derive(Debug, Clone)]
pub struct Mark {
    variable: &'static str,
    value: String,
}

/// The environment variable that has the mark.
const VARIABLE: &str = "MESH_TEST_MARK";
/// The one that has the mark of an execution.
const OWN_VARIABLE: &str = "RUNMESH_EXECUTION_ID";

impl Mark {
    /// A mark that no other test has.
    pub fn new(test: &str) -> Self {
        let nanoseconds = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
        Self { variable: VARIABLE, value: format!("{test}-{}-{nanoseconds}", std::process::id()) }
    }

    /// The mark that the runner itself gives to all processes of an execution, those of its compiler too.
    pub fn of_execution(execution_id: &str) -> Self {
        Self { variable: OWN_VARIABLE, value: execution_id.to_owned() }
    }

    /// The environment that marks a script.
    pub fn environment(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(self.variable.to_owned(), self.value.clone())])
    }

    /// The marked processes that live now, by their ids.
    pub fn processes(&self) -> Vec<u32> {
        let wanted = format!("{}={}", self.variable, self.value);
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                fs::read(format!("/proc/{pid}/environ"))
                    .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes()))
            })
            .collect()
    }

    /// Waits until no marked process lives.
    ///
    /// # Errors
    /// When some live on for long.
    pub async fn gone(&self) -> anyhow::Result<()> {
        eventually("the end of all processes of the scripts", async || Ok(self.processes().is_empty().then_some(())))
            .await
    }
}
