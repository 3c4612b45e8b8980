//! What would let this machine hold scripts to more, for people.

use std::fs;

use super::cgroup::Controller;
use super::wire::Isolation;
use super::{ProcessSandbox, Shared};

/// Settings of the kernel that forbid user namespaces to ordinary users, with the value that does, and what helps.
const FORBID: [(&str, &str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns,` for runmesh",
    ),
];

impl ProcessSandbox {
    /// How scripts are isolated here, in words.
    pub fn isolation(&self) -> &'static str {
        match self.shared.launcher.setup().isolation {
            Isolation::Privileged => "in namespaces, each script as a user of its own",
            Isolation::UserNamespace => "in namespaces inside a user namespace",
            Isolation::Plain => "without namespaces",
        }
    }

    /// What would let this machine enforce more, each a thing to do. Empty: nothing is missing that can be had.
    pub fn advice(&self) -> Vec<String> {
        let shared = &self.shared;
        let mut advice = Vec::new();
        if shared.launcher.setup().isolation == Isolation::Plain && !shared.config.avoid.namespaces {
            advice.push(namespaces(shared));
        }
        if !shared.config.avoid.cgroups {
            advice.extend(cgroups(shared));
        }
        if shared.launcher.capable().landlock == 0 && !shared.config.avoid.landlock {
            advice.push(
                "Landlock is a second lock on files: Linux 5.13 or newer, with `landlock` in the boot parameter lsm="
                    .to_owned(),
            );
        }
        let avoid = &shared.config.avoid;
        if avoid.namespaces || avoid.privileges || avoid.cgroups || avoid.landlock || avoid.seccomp {
            advice.push("some means are switched off by the setting runner.avoid".to_owned());
        }
        advice
    }
}

fn namespaces(shared: &Shared) -> String {
    let why = shared.refusals.join("; ");
    for (path, value, remedy) in FORBID {
        if fs::read_to_string(path).is_ok_and(|found| found.trim() == value) {
            return format!("namespaces ({why}): {remedy}");
        }
    }
    format!(
        "namespaces ({why}): in a container, run it with a seccomp profile that allows clone, unshare, mount and \
         pivot_root with namespaces (such as `--security-opt seccomp=unconfined`), or with the capability SYS_ADMIN"
    )
}

fn cgroups(shared: &Shared) -> Option<String> {
    let missing: Vec<String> = match &shared.cgroups {
        Err(why) => vec![why.clone()],
        Ok(cgroups) => [Controller::Memory, Controller::Processes, Controller::Cpu]
            .into_iter()
            .filter_map(|controller| cgroups.missing(controller).map(str::to_owned))
            .collect(),
    };
    let why = missing.first()?;
    let remedy = if rustix::process::geteuid().is_root() {
        "mount cgroups writable; in a container with `--cgroupns=private` and /sys/fs/cgroup mounted read-write"
    } else if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "this machine has cgroups of version 1, which only root can use: run the node as root, or start the machine with \
         version 2 (`systemd.unified_cgroup_hierarchy=1`)"
    } else {
        "start the node in a cgroup of its own: `systemd-run --user --scope -p Delegate=yes runmesh …`, or a unit with \
         Delegate=yes"
    };
    Some(format!("cgroups, for memory, processes and processor time of all processes together ({why}): {remedy}"))
}
