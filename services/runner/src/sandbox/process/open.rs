//! Finds out how well scripts can be isolated on this machine, by trying.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::cgroup::{self, Cgroups};
use super::launcher::Launcher;
use super::prepared::Prepared;
use super::users::Users;
use super::wire::{Isolation, Setup};
use super::{ProcessConfig, Shared, folder};
use crate::sandbox::SandboxError;

const OFF: &str = "switched off";

/// The best isolation that works, with the sandbox that it was tried with.
pub(super) fn open(config: ProcessConfig) -> Result<(Shared, Prepared), SandboxError> {
    let name = format!("{}{:016x}", cgroup::PREFIX, fingerprint(&config.root));
    let mut cgroups = if config.avoid.cgroups { Err(OFF.to_owned()) } else { Cgroups::open(&name) };
    let root = rustix::process::geteuid().is_root();
    let mut refusals = Vec::new();
    let users = match root.then(Users::find) {
        Some(Ok(users)) => Some(Arc::new(users)),
        Some(Err(why)) => {
            refusals.push(format!("as root: {why}"));
            None
        }
        None => None,
    };
    let mut candidates = Vec::new();
    if !config.avoid.namespaces {
        if users.is_some() && !config.avoid.privileges {
            candidates.push(Isolation::Privileged);
        }
        if users.is_some() || !root {
            candidates.push(Isolation::UserNamespace);
        }
    }
    candidates.push(Isolation::Plain);
    let last = candidates.len() - 1;
    for (number, isolation) in candidates.into_iter().enumerate() {
        let attempt = attempt(&config, isolation, &name, users.clone(), &refusals, cgroups);
        match attempt {
            Ok(opened) => return Ok(opened),
            Err(failed) if number == last => return Err(failed.0),
            Err(failed) => {
                let (error, unused) = *failed;
                let how = if isolation == Isolation::Privileged { "as root" } else { "in a user namespace" };
                tracing::debug!(%error, how, "this isolation does not work here");
                refusals.push(format!("{how}: {error}"));
                cgroups = unused;
            }
        }
    }
    Err(SandboxError::ShuttingDown)
}

/// What was opened; or why not, and the cgroups for the next attempt.
type Attempt = Result<(Shared, Prepared), Box<(SandboxError, Result<Cgroups, String>)>>;

fn attempt(
    config: &ProcessConfig,
    isolation: Isolation,
    name: &str,
    users: Option<Arc<Users>>,
    refusals: &[String],
    cgroups: Result<Cgroups, String>,
) -> Attempt {
    let become_user = match (isolation, &users) {
        (Isolation::UserNamespace, Some(users)) => Some(users.first()),
        _ => None,
    };
    let setup = Setup {
        isolation,
        readable: config.readable.clone(),
        // What is below the staging folder can't be shown to scripts. Another user can't get to the root.
        staging: if become_user.is_some() { "/sys".into() } else { config.root.clone() },
        become_user,
        landlock: !config.avoid.landlock,
        seccomp: !config.avoid.seccomp,
    };
    let begun = || {
        let folders = match (isolation, &users) {
            // Scripts run as other users, who have to get through.
            (Isolation::Plain, Some(_)) => folder::root_for_others(&config.root, name)?,
            _ => config.root.clone(),
        };
        Ok((Launcher::start(config.helper.clone(), setup)?, folders))
    };
    let (launcher, folders) = match begun() {
        Ok(begun) => begun,
        Err(error) => return Err(Box::new((error, cgroups))),
    };
    let mut shared = Shared {
        config: config.clone(),
        launcher,
        refusals: refusals.to_vec(),
        folders,
        // In a user namespace there is one id, that of the helper.
        users: users.filter(|_| isolation != Isolation::UserNamespace),
        cgroups,
        network: isolation != Isolation::Plain,
        no_network: String::new(),
        running: Arc::default(),
        queues: Arc::default(),
        made: AtomicU64::new(0),
        closed: AtomicBool::new(false),
    };
    let error = match Prepared::make(&shared) {
        Ok(prepared) => return Ok((shared, prepared)),
        Err(error) => error,
    };
    if !shared.network {
        return Err(Box::new((error, shared.cgroups)));
    }
    // A kernel may lack network namespaces alone.
    shared.network = false;
    shared.no_network = error.to_string();
    match Prepared::make(&shared) {
        Ok(prepared) => Ok((shared, prepared)),
        Err(_) => Err(Box::new((error, shared.cgroups))),
    }
}

/// A number that stands for a path (FNV-1a).
fn fingerprint(path: &Path) -> u64 {
    use std::os::unix::ffi::OsStrExt as _;
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    path.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step)
}
