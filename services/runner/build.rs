//! Gives the sandbox's code a stamp, by which the node and its helper tell whether they are of one build.

use std::{fs, io, path::Path};

const CODE: &str = "src/sandbox/process";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={CODE}");
    let mut files = Vec::new();
    find(Path::new(CODE), &mut files)?;
    files.sort();
    // FNV-1a.
    let mut stamp = 0xcbf2_9ce4_8422_2325_u64;
    for byte in files.iter().flat_map(|(name, content)| name.bytes().chain(content.iter().copied())) {
        stamp = (stamp ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    println!("cargo::rustc-env=RUNMESH_SANDBOX_STAMP={stamp:016x}");
    Ok(())
}

fn find(folder: &Path, files: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else {
            files.push((path.display().to_string(), fs::read(&path)?));
        }
    }
    Ok(())
}
