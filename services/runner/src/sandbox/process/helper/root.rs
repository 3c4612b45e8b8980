//! The root that all sandboxes share: read-only, with only what runtimes need.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::thread::UnshareFlags;

use super::super::sys;
use super::super::wire::{Fault, Setup, Step};

/// The user and group id of scripts inside a user namespace.
pub(super) const INNER_USER: u32 = 1000;

/// The system's own folders that scripts may read. Links among them stay links.
pub(super) const SYSTEM: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What scripts may read of /etc: how libraries are found, and the settings of runtimes. A `*` at the end stands for any
/// rest of the name.
const ETC: [&str; 21] = [
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ld.so.preload",
    "alternatives",
    "localtime",
    "timezone",
    "mime.types",
    "magic",
    "locale.alias",
    "inputrc",
    "terminfo",
    "java*",
    "perl",
    "php*",
    "python*",
    "ruby*",
    "lua*",
    "node*",
    "protocols",
    "services",
];

/// Of ssl only what is public: private keys are beside it.
const SSL: [&str; 2] = ["ssl/certs", "ssl/openssl.cnf"];

/// Devices that hold nothing of anyone.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Mount points for what each sandbox has of its own.
pub(super) const WORK: &str = "/work";
pub(super) const TEMPORARY: &str = "/tmp";
pub(super) const SHARED_MEMORY: &str = "/dev/shm";

/// The folder with what makes an interpreter wait for its script.
pub(super) const HOOKS: &str = "/.runmesh";
/// It does so for Python.
const PYTHON_HOOK: (&str, &str) = ("sitecustomize.py", include_str!("sitecustomize.py"));

/// Moves this process into a mount namespace (inside a user namespace, where wanted) whose root is the new one.
pub(super) fn enter(setup: &Setup, user_namespace: bool) -> Result<(), Fault> {
    if user_namespace {
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).step("make a user namespace")?;
        map_ids(user, group)?;
    } else {
        sys::unshare(UnshareFlags::NEWNS).step("make a mount namespace")?;
    }
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).step("detach the mounts")?;
    let root = &setup.staging;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", root, "tmpfs", flags, c"mode=0755,size=4m,nr_inodes=4096").step("mount a root")?;
    build(root, &setup.readable)?;
    // The old root ends up under the new one, from where it is removed.
    rustix::process::chdir(root).step("enter the root")?;
    rustix::process::pivot_root(".", ".").step("change the root")?;
    unmount(".", UnmountFlags::DETACH).step("remove the old root")?;
    rustix::process::chdir("/").step("enter the root")?;
    let only = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount("/", only, "").step("make the root read-only")
}

/// Maps one id inside to this process's own outside.
pub(super) fn map_ids(user: u32, group: u32) -> Result<(), Fault> {
    fs::write("/proc/self/setgroups", "deny").step("give up groups")?;
    fs::write("/proc/self/uid_map", format!("{INNER_USER} {user} 1")).step("map the user id")?;
    fs::write("/proc/self/gid_map", format!("{INNER_USER} {group} 1")).step("map the group id")
}

fn build(root: &Path, readable: &[PathBuf]) -> Result<(), Fault> {
    for name in [WORK, TEMPORARY, "/dev/shm", "/proc", "/etc"] {
        folder(&inside(root, Path::new(name))).step(format!("make {name}"))?;
    }
    for system in SYSTEM {
        show(root, Path::new(system))?;
    }
    for path in readable {
        // What is below a folder that is shown already is shown with it.
        let path = path.canonicalize().step(format!("find {}", path.display()))?;
        if !SYSTEM.iter().any(|system| path.starts_with(system)) {
            show(root, &path)?;
        }
    }
    etc(root)?;
    devices(root)?;
    let (name, text) = PYTHON_HOOK;
    let hooks = inside(root, Path::new(HOOKS));
    folder(&hooks).and_then(|()| fs::write(hooks.join(name), text)).step("write the hook for Python")?;
    mount_bind_recursive("/proc", inside(root, Path::new("/proc"))).step("show /proc")
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Shows a file or folder of this machine at the same place, read-only. One that does not exist is left out.
fn show(root: &Path, path: &Path) -> Result<(), Fault> {
    let step = || format!("show {}", path.display());
    let to = inside(root, path);
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.step(step())?,
    };
    // Shown already, as part of another.
    if fs::symlink_metadata(&to).is_ok() {
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        folder(parent).step(step())?;
    }
    if metadata.is_symlink() {
        let target = fs::read_link(path).step(step())?;
        return symlink(target, to).step(step());
    }
    if metadata.is_dir() {
        folder(&to).step(step())?;
        mount_bind_recursive(path, &to).step(step())?;
    } else {
        fs::write(&to, []).step(step())?;
        mount_bind(path, &to).step(step())?;
    }
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    sys::set_mount_attributes(&to, attributes).step(format!("make {} read-only", path.display()))
}

fn etc(root: &Path) -> Result<(), Fault> {
    let names = fs::read_dir("/etc").step("list /etc")?;
    for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        if is_shown(&name) {
            show(root, &Path::new("/etc").join(&name))?;
        }
    }
    for part in SSL {
        show(root, &Path::new("/etc").join(part))?;
    }
    let user = format!("sandbox:x:{INNER_USER}:{INNER_USER}:sandbox:{WORK}:/bin/sh\n");
    for (name, text) in [
        ("passwd", format!("root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n{user}")),
        ("group", format!("root:x:0:\nsandbox:x:{INNER_USER}:\n")),
        ("hosts", "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n".to_owned()),
        ("hostname", "sandbox\n".to_owned()),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n".to_owned()),
        ("resolv.conf", String::new()),
    ] {
        fs::write(root.join("etc").join(name), text).step(format!("write /etc/{name}"))?;
    }
    Ok(())
}

/// What of /etc is shown, for rules about it.
pub(super) fn readable_etc() -> impl Iterator<Item = PathBuf> {
    let names =
        fs::read_dir("/etc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let shown = names.filter(|name| name != "ssl" && is_shown(name)).map(|name| Path::new("/etc").join(name));
    let public =
        ["passwd", "group", "hosts", "nsswitch.conf", "resolv.conf"].iter().map(|name| Path::new("/etc").join(name));
    shown.chain(SSL.iter().map(|part| Path::new("/etc").join(part))).chain(public)
}

fn is_shown(name: &str) -> bool {
    ETC.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *pattern,
    })
}

fn devices(root: &Path) -> Result<(), Fault> {
    let folder = root.join("dev");
    for name in DEVICES {
        let (from, to) = (Path::new("/dev").join(name), folder.join(name));
        fs::write(&to, []).and_then(|()| Ok(mount_bind(&from, &to)?)).step(format!("show {}", from.display()))?;
        sys::set_mount_attributes(&to, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC)
            .step(format!("show {}", from.display()))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, folder.join(name)).step(format!("make /dev/{name}"))?;
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).step("make /dev")
}
