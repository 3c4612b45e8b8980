//! A kernel for the guest, from Debian's packages, which are unpacked and not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use super::beginning;
use crate::step;

/// The package of the shell that the guest begins with, which needs no library.
const SHELL: &str = "busybox-static";
/// What the guest needs to see the machine's files. Those that they need come on top.
const MODULES: [&str; 3] = ["virtio_pci", "9pnet_virtio", "9p"];

/// A kernel and what it needs to begin with.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    pub(super) shell: PathBuf,
    /// In the order in which they have to be loaded.
    pub(super) modules: Vec<PathBuf>,
}

/// The kernel of a package, downloaded into a folder of its own unless it is there.
pub(super) fn unpack(folder: &Path, package: &str) -> anyhow::Result<Kernel> {
    let home = folder.join(package);
    let modules = home.join("modules");
    if !modules.exists() {
        download(&home, package).with_context(|| format!("can't get {package}; `apt-get update` may help"))?;
        load_order(&home)?;
    }
    let entries = fs::read_dir(&modules).with_context(|| format!("can't read {}", modules.display()))?;
    let mut modules = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    modules.sort();
    Ok(Kernel { image: home.join("kernel"), shell: home.join("busybox"), modules })
}

/// Downloads the packages and unpacks them, into `unpacked`.
fn download(home: &Path, package: &str) -> anyhow::Result<()> {
    if home.exists() {
        fs::remove_dir_all(home).with_context(|| format!("can't empty {}", home.display()))?;
    }
    let unpacked = home.join("unpacked");
    fs::create_dir_all(&unpacked).with_context(|| format!("can't make {}", unpacked.display()))?;
    let depends = ["depends", "--no-recommends", "--no-suggests", package];
    let listed = step::answer(Command::new("apt-cache").args(depends).stdin(Stdio::null()));
    let listed = listed.with_context(|| format!("apt-cache knows no package {package}"))?;
    let image = image_of(&listed).unwrap_or(package);
    // The folder is not one that the user which apt would become can write to.
    let apt = ["--quiet", "--option", "APT::Sandbox::User=root", "download", image, SHELL];
    step::run(Command::new("apt-get").args(apt).current_dir(home))?;
    for name in [image, SHELL] {
        let archive = beginning(home, &format!("{name}_"))?;
        step::run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&unpacked))?;
        fs::remove_file(&archive).with_context(|| format!("can't remove {}", archive.display()))?;
    }
    Ok(())
}

/// The package with the kernel itself, among those that a package depends on.
fn image_of(listed: &str) -> Option<&str> {
    let depends = listed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    depends.map(str::trim).find(|name| name.starts_with("linux-image-"))
}

/// Takes what is needed out of `unpacked`, and removes the rest.
fn load_order(home: &Path) -> anyhow::Result<()> {
    let unpacked = home.join("unpacked");
    let copy = |from: PathBuf, to: &str| {
        fs::copy(&from, home.join(to)).with_context(|| format!("can't copy {}", from.display()))
    };
    copy(beginning(&unpacked.join("boot"), "vmlinuz-")?, "kernel")?;
    let path = |path: &str| unpacked.join(path);
    let existing = |one: &str, other: &str| if path(one).exists() { path(one) } else { path(other) };
    copy(existing("bin/busybox", "usr/bin/busybox"), "busybox")?;
    let tree = beginning(&existing("lib/modules", "usr/lib/modules"), "")?;
    let builtin = tree.join("modules.builtin");
    let builtin = fs::read_to_string(&builtin).with_context(|| format!("can't read {}", builtin.display()))?;
    let mut all = Vec::new();
    files(&tree, &mut all)?;
    let mut loading = Loading { all, builtin, taken: Vec::new() };
    for module in MODULES {
        loading.take(module)?;
    }
    let (making, made) = (home.join("modules.new"), home.join("modules"));
    fs::create_dir_all(&making).with_context(|| format!("can't make {}", making.display()))?;
    for (number, (name, content)) in loading.taken.iter().enumerate() {
        let path = making.join(format!("{number:02}-{name}.ko"));
        fs::write(&path, content).with_context(|| format!("can't write {}", path.display()))?;
    }
    fs::remove_dir_all(&unpacked).with_context(|| format!("can't remove {}", unpacked.display()))?;
    // Last: that it is there says that all is.
    fs::rename(&making, &made).with_context(|| format!("can't rename {}", making.display()))
}

struct Loading {
    all: Vec<PathBuf>,
    builtin: String,
    taken: Vec<(String, Vec<u8>)>,
}

impl Loading {
    /// Takes a module, after those that it needs.
    fn take(&mut self, name: &str) -> anyhow::Result<()> {
        if self.taken.iter().any(|(taken, _)| taken == name) {
            return Ok(());
        }
        let Some(path) = self.all.iter().find(|path| module_of(path).as_deref() == Some(name)) else {
            if self.builtin.lines().any(|line| module_of(Path::new(line)).as_deref() == Some(name)) {
                return Ok(());
            }
            bail!("the kernel has no module {name}; the guest can't see this machine's files without it");
        };
        let content = decompressed(path)?;
        for needed in needs(&content) {
            self.take(&needed)?;
        }
        self.taken.push((name.to_owned(), content));
        Ok(())
    }
}

/// The name of the module in a file. The kernel takes a dash for an underscore.
fn module_of(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

/// The names of the modules that a module needs, which it tells itself.
fn needs(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let at = module.windows(FIELD.len()).position(|window| window == FIELD);
    let value = at.map_or(&[][..], |at| &module[at + FIELD.len()..]);
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn decompressed(path: &Path) -> anyhow::Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("can't read {}", path.display())),
    };
    let mut command = Command::new(program);
    command.args(["--decompress", "--stdout"]).arg(path).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("can't start {program}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(step::Failed::new(step::shown(&command), output.status).into())
}

/// Every file below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_of_the_kernel_is_the_one_that_is_depended_on() {
        let listed = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(image_of(listed), Some("linux-image-6.1.0-56-amd64"));
        let listed = "linux-image-6.1.0-56-amd64\n  Depends: kmod\n |Depends: initramfs-tools\n";
        assert_eq!(image_of(listed), None);
    }

    #[test]
    fn a_module_tells_its_name_and_what_it_needs() {
        assert_eq!(module_of(Path::new("kernel/net/9p/9pnet-virtio.ko.xz")).as_deref(), Some("9pnet_virtio"));
        assert_eq!(module_of(Path::new("kernel/modules.dep")), None);
        assert_eq!(needs(b"\x7fELF\0license=GPL\0depends=netfs,9pnet\0name=9p\0"), ["netfs", "9pnet"]);
        assert_eq!(needs(b"\x7fELF\0depends=\0name=virtio\0"), [""; 0]);
    }

    #[test]
    fn modules_come_after_those_that_they_need() {
        let folder = std::env::temp_dir().join(format!("xtask-modules-{}", std::process::id()));
        fs::create_dir_all(folder.join("below")).unwrap();
        fs::write(folder.join("below/last-one.ko"), "\0depends=first,middle\0").unwrap();
        fs::write(folder.join("middle.ko"), "\0depends=first\0").unwrap();
        fs::write(folder.join("first.ko"), "\0depends=inside\0").unwrap();
        let mut all = Vec::new();
        files(&folder, &mut all).unwrap();
        let mut loading = Loading { all, builtin: "kernel/inside.ko\n".to_owned(), taken: Vec::new() };
        loading.take("last_one").unwrap();
        let names: Vec<&str> = loading.taken.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["first", "middle", "last_one"]);
        assert!(loading.take("elsewhere").unwrap_err().to_string().contains("elsewhere"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
