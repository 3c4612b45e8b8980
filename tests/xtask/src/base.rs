//! The earlier commit with which the contract is compared.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context as _;

use crate::step;

/// What there is to compare with.
pub(crate) enum Base {
    /// This commit.
    Commit(String),
    /// Nothing, and why.
    Nothing(&'static str),
}

/// On a branch, the commit where it left the main one. On the main branch itself, the newest commit while the work
/// tree's contract differs from it, and the commit before it otherwise (that is CI, in a fresh clone).
pub(crate) fn find() -> anyhow::Result<Base> {
    let Some(head) = commit("HEAD") else { return Ok(Base::Nothing("there is no commit yet")) };
    let fork =
        ["origin/main", "main"].into_iter().find_map(|main| step::answer(git().args(["merge-base", "HEAD", main])));
    let base = match fork {
        Some(fork) if fork != head => fork,
        _ if dirty() => head,
        _ => match commit("HEAD~1") {
            Some(before) => before,
            None => return Ok(Base::Nothing("there is no commit before this one")),
        },
    };
    let has_contract = ["buf.yaml", "proto/runmesh"].iter().all(|path| exists(&base, path));
    Ok(if has_contract { Base::Commit(base) } else { Base::Nothing("the commit before has no contract") })
}

/// Writes the contract of a commit to a folder, which is emptied first.
pub(crate) fn unpack(commit: &str, folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("can't empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    let archive = folder.join("contract.tar");
    step::run(git().args(["archive", "--format=tar", "--output"]).arg(&archive).args([commit, "buf.yaml", "proto"]))?;
    step::run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(folder))?;
    fs::remove_file(&archive).with_context(|| format!("can't remove {}", archive.display()))
}

fn git() -> Command {
    Command::new("git")
}

fn commit(name: &str) -> Option<String> {
    step::answer(git().args(["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")]))
}

fn dirty() -> bool {
    step::answer(git().args(["status", "--porcelain", "--", "buf.yaml", "proto"]))
        .is_some_and(|changes| !changes.is_empty())
}

fn exists(commit: &str, path: &str) -> bool {
    git()
        .args(["cat-file", "-e", &format!("{commit}:{path}")])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
