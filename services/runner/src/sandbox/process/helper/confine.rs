//! What holds a script beside namespaces and limits: Landlock and the system-call filter, made once and applied by each.

use std::io;
use std::path::{Path, PathBuf};

use landlock::RulesetCreated;
use seccompiler::BpfProgram;

use super::super::sys;
use super::super::wire::{Capable, Fault, Isolation, Setup, Step};
use super::landlock::{Rules, devices, ruleset};
use super::{root, seccomp};

/// What is the same for all sandboxes.
pub(super) struct Confinement {
    isolation: Isolation,
    readable: Vec<PathBuf>,
    landlock: i32,
    filters: Result<Filters, String>,
}

struct Filters {
    usual: Vec<BpfProgram>,
    /// For sandboxes without a network namespace.
    without_network: Vec<BpfProgram>,
}

/// What is applied to one script.
pub(super) struct Applicable<'a> {
    rules: Option<RulesetCreated>,
    filters: &'a [BpfProgram],
}

impl Confinement {
    pub(super) fn new(setup: &Setup) -> Confinement {
        let filters = if setup.seccomp {
            let namespaces = setup.isolation != Isolation::Plain;
            let filters = |network| seccomp::filters(seccomp::Apart { namespaces, network });
            filters(true)
                .and_then(|usual| Ok(Filters { usual, without_network: filters(false)? }))
                .map_err(|error| error.to_string())
        } else {
            Err("switched off".to_owned())
        };
        Confinement {
            isolation: setup.isolation,
            readable: setup.readable.clone(),
            landlock: if setup.landlock { sys::landlock_version() } else { 0 },
            filters,
        }
    }

    pub(super) fn capable(&self) -> Capable {
        Capable { landlock: self.landlock, no_seccomp: self.filters.as_ref().err().cloned().unwrap_or_default() }
    }

    /// Makes it ready for a script in this folder: opens what the rules name. `network`: it has a network namespace.
    pub(super) fn prepare(&self, folder: Option<&Path>, network: bool) -> Result<Applicable<'_>, Fault> {
        let filters = match &self.filters {
            Ok(filters) if network => filters.usual.as_slice(),
            Ok(filters) => filters.without_network.as_slice(),
            Err(_) => &[],
        };
        let rules = if self.landlock > 0 {
            let rules = match folder {
                None => Rules {
                    readable: vec!["/".into()],
                    writable: [root::WORK, root::TEMPORARY, root::SHARED_MEMORY]
                        .into_iter()
                        .map(PathBuf::from)
                        .chain(devices())
                        .collect(),
                    no_tcp: false,
                },
                Some(folder) => Rules {
                    readable: root::SYSTEM
                        .into_iter()
                        .map(PathBuf::from)
                        .chain(root::readable_etc())
                        .chain(self.readable.iter().cloned())
                        .chain(["/proc".into()])
                        .collect(),
                    writable: [folder.to_owned()].into_iter().chain(devices()).collect(),
                    no_tcp: true,
                },
            };
            let made = ruleset(&rules).map_err(|error| io::Error::other(error.to_string()));
            Some(made.step("make Landlock rules")?)
        } else {
            None
        };
        debug_assert!(self.isolation == Isolation::Plain || folder.is_none(), "only a plain script has a folder here");
        Ok(Applicable { rules, filters })
    }
}

impl Applicable<'_> {
    /// Applies it to this process, for good.
    pub(super) fn apply(&self) -> Result<(), Fault> {
        if let Some(rules) = &self.rules {
            let rules = rules.try_clone().step("apply Landlock rules")?;
            rules.restrict_self().map_err(|error| io::Error::other(error.to_string())).step("apply Landlock rules")?;
        }
        for filter in self.filters {
            seccompiler::apply_filter(filter)
                .map_err(|error| io::Error::other(error.to_string()))
                .step("install the system-call filter")?;
        }
        Ok(())
    }
}
