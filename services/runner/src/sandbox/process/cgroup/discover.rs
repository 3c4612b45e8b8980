//! Which hierarchies there are, and where in them this process may make cgroups.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::{Controller, Folders, Version, orphans};

/// The controllers that matter in version 2.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Where the node is itself in version 2, below its cgroup.
const LEAF: &str = "runmesh-node";

/// What was found.
pub(super) struct Found {
    pub(super) version: Version,
    pub(super) parents: Folders,
    pub(super) missing: Vec<(Controller, String)>,
    /// The parents, locked.
    pub(super) held: Vec<File>,
}

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The part of the hierarchy that is mounted.
    root: PathBuf,
    at: PathBuf,
    options: Vec<String>,
}

pub(super) fn discover(name: &str) -> Result<Found, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path} can't be read: {error}"));
    let (mounts, own) = (mounts(&read("/proc/self/mountinfo")?), read("/proc/self/cgroup")?);
    if mounts.is_empty() {
        return Err("no cgroups are mounted".to_owned());
    }
    let second = mounts.iter().find(|mount| mount.version == Version::Two);
    let mut why = None;
    if let Some((mount, path)) = second.and_then(|mount| Some((mount, own_path(&own, None)?))) {
        match second_version(&place(mount, path), name) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(reason) => why = Some(reason),
        }
    }
    first_version(&mounts, &own, name).map_err(|first| why.unwrap_or(first))
}

/// `None`: the controllers that matter belong to version 1.
fn second_version(place: &Path, name: &str) -> Result<Option<Found>, String> {
    let own = home(place);
    let available = fs::read_to_string(own.join("cgroup.controllers")).map_err(|error| refusal(own, &error))?;
    let available: Vec<&str> = available.split_whitespace().collect();
    let wanted: Vec<&str> = CONTROLLERS.into_iter().filter(|wanted| available.contains(wanted)).collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let parent = own.join(name);
    let held = orphans::make(&parent).map_err(|error| refusal(&parent, &error))?;
    if let Err(why) = hand_on(own, &wanted).and_then(|()| delegate(&parent, &wanted).map_err(|e| refusal(&parent, &e)))
    {
        fs::remove_dir(&parent).ok();
        return Err(why);
    }
    let mut parents = Folders::default();
    let mut missing = Vec::new();
    for (controller, needs) in [
        (Controller::Memory, "memory"),
        (Controller::Processes, "pids"),
        (Controller::Cpu, "cpu"),
        (Controller::CpuCount, "cpu"),
    ] {
        if available.contains(&needs) {
            parents.set(controller, parent.clone());
        } else {
            missing.push((controller, format!("the controller {needs} is not delegated to {}", own.display())));
        }
    }
    Ok(Some(Found { version: Version::Two, parents, missing, held: vec![held] }))
}

/// The cgroup that is this node's: its processes are in a leaf of it if it has handed controllers on before.
fn home(place: &Path) -> &Path {
    if place.file_name().is_some_and(|name| name == LEAF) { place.parent().unwrap_or(place) } else { place }
}

/// Lets cgroups below the node's own have these controllers. One with processes in it can't hand them on, so this process
/// moves into a leaf, and stays there: processes that it starts later are there too.
fn hand_on(own: &Path, controllers: &[&str]) -> Result<(), String> {
    if delegate(own, controllers).is_ok() {
        return Ok(());
    }
    let leaf = own.join(LEAF);
    let enter = |folder: &Path| fs::write(folder.join("cgroup.procs"), std::process::id().to_string());
    make(&leaf).and_then(|()| enter(&leaf)).map_err(|error| refusal(&leaf, &error))?;
    delegate(own, controllers).map_err(|error| {
        // Back, so that nothing is left. Fails where other sandboxes of this process need the leaf.
        enter(own).and_then(|()| fs::remove_dir(&leaf)).ok();
        let others = "other processes are in the node's cgroup; start it in one of its own";
        format!("{} can't hand controllers on ({error}): {others}", own.display())
    })
}

fn delegate(folder: &Path, controllers: &[&str]) -> io::Result<()> {
    let enable: Vec<String> = controllers.iter().map(|controller| format!("+{controller}")).collect();
    fs::write(folder.join("cgroup.subtree_control"), enable.join(" "))
}

fn first_version(mounts: &[Mount], own: &str, name: &str) -> Result<Found, String> {
    let mut parents = Folders::default();
    let (mut missing, mut held) = (Vec::new(), Vec::new());
    for (controller, needs) in [
        (Controller::Memory, "memory"),
        (Controller::Processes, "pids"),
        (Controller::Cpu, "cpu"),
        (Controller::CpuCount, "cpuacct"),
    ] {
        let mount = mounts
            .iter()
            .find(|mount| mount.version == Version::One && mount.options.iter().any(|option| option == needs));
        let Some((mount, path)) = mount.and_then(|mount| Some((mount, own_path(own, Some(needs))?))) else {
            missing.push((controller, format!("the controller {needs} is not mounted")));
            continue;
        };
        let parent = place(mount, path).join(name);
        // Two controllers may have one hierarchy.
        let has_it = parents.each().contains(&&*parent);
        let made = if has_it { Ok(None) } else { orphans::make(&parent).map(Some) };
        match made.and_then(|file| writable(&parent).map(|()| file)) {
            Ok(file) => {
                held.extend(file);
                parents.set(controller, parent);
            }
            Err(error) => missing.push((controller, refusal(&parent, &error))),
        }
    }
    if parents.each().is_empty() {
        return Err(missing.first().map_or_else(String::new, |(_, why)| why.clone()));
    }
    Ok(Found { version: Version::One, parents, missing, held })
}

/// Whether processes can be moved into a new cgroup here.
fn writable(parent: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(parent.join("cgroup.procs")).map(drop)
}

pub(super) fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn refusal(folder: &Path, error: &io::Error) -> String {
    format!("{} can't be used: {error}", folder.display())
}

/// This process's path in the hierarchy with this controller, or in that of version 2.
fn own_path<'a>(text: &'a str, controller: Option<&str>) -> Option<&'a Path> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let is_it = match controller {
            Some(controller) => controllers.split(',').any(|one| one == controller),
            None => controllers.is_empty(),
        };
        is_it.then(|| Path::new(path))
    })
}

/// Where a path of a hierarchy is, seen through its mount.
fn place(mount: &Mount, path: &Path) -> PathBuf {
    // A path outside of what is mounted: then the mount itself is the closest thing.
    path.strip_prefix(&mount.root).map_or_else(|_| mount.at.clone(), |below| mount.at.join(below))
}

/// The hierarchies of a mountinfo file.
fn mounts(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let mut front = front.split(' ').skip(3);
            let (root, at) = (front.next()?, front.next()?);
            let mut back = back.split(' ');
            let version = match back.next()? {
                "cgroup" => Version::One,
                "cgroup2" => Version::Two,
                _ => return None,
            };
            let options = back.nth(1)?.split(',').map(str::to_owned).collect();
            Some(Mount { version, root: root.into(), at: at.into(), options })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 /docker/abc /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
28 25 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    #[test]
    fn hierarchies_and_the_place_in_them_are_found() {
        let mounts = mounts(HYBRID);
        let kinds: Vec<Version> = mounts.iter().map(|mount| mount.version).collect();
        assert_eq!(kinds, [Version::One, Version::One, Version::Two]);
        assert_eq!(place(&mounts[1], Path::new("/docker/abc/x")), Path::new("/sys/fs/cgroup/memory/x"));
        assert_eq!(place(&mounts[1], Path::new("/elsewhere")), Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(place(&mounts[2], Path::new("/user.slice")), Path::new("/sys/fs/cgroup/unified/user.slice"));
    }

    #[test]
    fn the_leaf_of_a_node_is_not_taken_for_its_cgroup() {
        assert_eq!(home(Path::new("/sys/fs/cgroup/a")), Path::new("/sys/fs/cgroup/a"));
        assert_eq!(home(Path::new("/sys/fs/cgroup/a/runmesh-node")), Path::new("/sys/fs/cgroup/a"));
    }

    #[test]
    fn the_own_path_is_that_of_the_controller() {
        let text = "9:name=systemd:/init\n4:memory:/a:b\n2:cpu,cpuacct:/c\n0::/d\n";
        assert_eq!(own_path(text, Some("memory")), Some(Path::new("/a:b")));
        assert_eq!(own_path(text, Some("cpuacct")), Some(Path::new("/c")));
        assert_eq!(own_path(text, None), Some(Path::new("/d")));
        assert_eq!(own_path(text, Some("pids")), None);
    }
}
