//! `cargo xtask guest`: the sandbox's tests in a small Linux guest, which has cgroups of version 2 alone.
//!
//! The machines that this is developed and tested on have version 1. The guest is QEMU with a kernel of Debian's; its files
//! are the machine's own, shared read-only, so that it has the same interpreters and the tests that were just built. QEMU
//! emulates the processor by default: slow, but it works on every machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use crate::{interrupt::Interrupts, setup, step};

mod archive;
mod built;
mod kernel;

use archive::Archive;
use built::Built;

/// Where the guest's kernel and its files are kept.
const FOLDER: &str = "guest";
/// The first program of the guest.
const INIT: &str = include_str!("guest/init.sh");
/// What it runs once it sees the machine's files.
const SUITES: &str = include_str!("guest/suites.sh");
/// After so many seconds it is ended: it hangs.
const PATIENCE: &str = "1800";
const INSTALL: &str = "apt-get install -y --no-install-recommends qemu-system-x86";

/// What is run: as whom, the binary, and what its tests are chosen by. All of the suites would take long where the
/// processor is emulated, so these are the tests that have to do with cgroups, limits and ends.
const ROWS: [[&str; 3]; 5] = [
    ["root", "hostile", "resources:: processes:: others:: --skip a_million_small_files"],
    ["user", "hostile", "resources:: processes:: --skip a_million_small_files"],
    [
        "root",
        "process",
        "endings:: best_isolation helper_that_is_killed a_receipt strict the_verdict deadline own_limits",
    ],
    ["user", "process", "best_isolation helper_that_is_killed a_receipt strict the_verdict deadline cancel own_limits"],
    ["root", "user_namespace", "best_isolation a_receipt the_verdict deadline"],
];

/// What `cargo xtask guest` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The Debian package of the guest's kernel, or one that depends on it.
    #[arg(long, default_value = "linux-image-amd64")]
    kernel: String,
    /// How QEMU runs it: `tcg` emulates a processor, `kvm` uses /dev/kvm, which not every virtual machine has in working order.
    #[arg(long, default_value = "tcg")]
    accel: String,
    /// Names, or parts of names, of the tests to run instead, in each suite, as root and as an ordinary user.
    filters: Vec<String>,
}

/// Builds the tests, boots the guest, and runs them in it, with their output where the caller sees it.
///
/// # Errors
/// When QEMU or a package can't be had, something does not compile, the guest does not come up, or a test fails.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Some(version) = step::answer(Command::new("qemu-system-x86_64").arg("--version")) else {
        bail!("not on this machine: qemu-system-x86_64, for the guest: {INSTALL}");
    };
    eprintln!("xtask: {}", version.lines().next().unwrap_or_default());
    let built = built::build()?;
    let folder = std::env::current_dir()?.join(setup::TOOLS).join(FOLDER);
    let kernel = kernel::unpack(&folder, &arguments.kernel)?;
    let files = folder.join("files.cpio");
    fs::write(&files, first_files(&kernel, &built, &arguments.filters)?)
        .with_context(|| format!("can't write {}", files.display()))?;
    let result = folder.join("result");
    fs::write(&result, "").with_context(|| format!("can't empty {}", result.display()))?;
    Interrupts::listen()?.run(&mut qemu(&arguments.accel, &kernel.image, &files, &result))?;
    let told = fs::read_to_string(&result).with_context(|| format!("can't read {}", result.display()))?;
    verdict(told.trim(), arguments.filters.is_empty())
}

/// What the guest told of the rows. All that are chosen here have to have passed; filters need not fit every suite.
fn verdict(told: &str, chosen_here: bool) -> anyhow::Result<()> {
    let passed = told.strip_prefix("passed ").and_then(|count| count.parse::<usize>().ok());
    match passed {
        Some(0) => bail!("no test has such a name"),
        Some(count) if chosen_here && count != ROWS.len() => bail!("{count} of {} suites have been run", ROWS.len()),
        Some(_) => Ok(()),
        None if told.is_empty() => bail!("the guest ended before it had run the tests"),
        None => bail!("in the guest: {told}"),
    }
}

/// The files that the guest begins with: a shell, the modules that it needs to see the machine's files, and the tests' names.
fn first_files(kernel: &kernel::Kernel, built: &Built, filters: &[String]) -> anyhow::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "proc", "root", "sys"] {
        archive.folder(folder);
    }
    let read = |path: &Path| fs::read(path).with_context(|| format!("can't read {}", path.display()));
    archive.file("bin/busybox", &read(&kernel.shell)?);
    for (number, module) in kernel.modules.iter().enumerate() {
        // In the order in which they have to be loaded.
        archive.file(&format!("modules/{number:02}.ko"), &read(module)?);
    }
    archive.file("init", INIT.as_bytes());
    archive.file("suites.sh", SUITES.as_bytes());
    archive.file("binaries", built.lines().as_bytes());
    archive.file("rows", rows(filters).as_bytes());
    Ok(archive.finish())
}

/// What is run, a line each.
fn rows(filters: &[String]) -> String {
    if filters.is_empty() {
        return ROWS.iter().map(|row| row.join(" ") + "\n").collect();
    }
    let filters = filters.join(" ");
    let each = |user: &&str| built::SUITES.map(|suite| format!("{user} {suite} {filters}\n")).concat();
    ["root", "user"].iter().map(each).collect()
}

fn qemu(accel: &str, kernel: &Path, files: &Path, result: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", PATIENCE, "qemu-system-x86_64"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"]);
    // All that the emulation can do. Two processors, since much of what is tested happens at once.
    command.args(["-accel", accel, "-cpu", if accel == "kvm" { "host" } else { "max" }, "-smp", "2", "-m", "2048"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(files);
    // What a processor's faults are worked around by is slow to emulate, and not what is tested.
    command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off loglevel=3"]);
    // What the guest prints, and what came of the tests.
    command.args(["-serial", "stdio", "-serial"]).arg(format!("file:{}", result.display()));
    command.args(["-fsdev", "local,id=machine,path=/,readonly=on,security_model=none,multidevs=remap"]);
    command.args(["-device", "virtio-9p-pci,fsdev=machine,mount_tag=machine"]);
    command.stdin(Stdio::null());
    command
}

/// The first file of a folder whose name begins so.
fn beginning(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    let begins = |path: &PathBuf| path.file_name().is_some_and(|own| own.to_string_lossy().starts_with(name));
    paths.into_iter().find(begins).with_context(|| format!("there is no {name}* in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_names_a_suite_that_is_built_and_somebody_who_is_known() {
        for [user, suite, _] in ROWS {
            assert!(built::SUITES.contains(&suite) && ["root", "user"].contains(&user), "{user} {suite}");
        }
    }

    #[test]
    fn the_guest_has_passed_when_all_that_was_to_be_run_has() {
        let all = format!("passed {}", ROWS.len());
        assert!(verdict(&all, true).is_ok() && verdict("passed 1", false).is_ok());
        for (told, chosen_here) in
            [("passed 1", true), ("passed 0", false), ("", true), ("", false), ("a suite", false)]
        {
            assert!(verdict(told, chosen_here).is_err(), "{told:?}");
        }
    }

    #[test]
    fn filters_replace_what_is_run() {
        assert_eq!(rows(&[]).lines().count(), ROWS.len());
        assert!(rows(&[]).starts_with("root hostile resources:: "));
        let told = rows(&["fork".to_owned(), "busy".to_owned()]);
        assert_eq!(told.lines().count(), 2 * built::SUITES.len());
        assert!(told.starts_with("root hostile fork busy\n") && told.ends_with("user user_namespace fork busy\n"));
    }
}
