//! A Python client with stubs generated from the protos: see `python/client_test.py`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Mesh, python_tool, repository};
use tokio::process::Command;

use crate::run;

/// Generates the stubs of the whole contract.
async fn stubs(folder: &Path) -> anyhow::Result<()> {
    let proto = repository().join("proto");
    let mut files = Vec::new();
    collect(&proto.join("runmesh"), &mut files)?;
    ensure!(!files.is_empty(), "no protos in {}", proto.display());
    let mut command = Command::new(python_tool()?);
    command.args(["-m", "grpc_tools.protoc"]);
    command.arg("--proto_path").arg(&proto).arg("--proto_path").arg(proto.join("third_party"));
    command.arg("--python_out").arg(folder).arg("--grpc_python_out").arg(folder).args(files);
    let output = run(&mut command).await?;
    ensure!(output.status.success(), "no stubs: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            into.push(path);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_creates_watches_cancels_lists_and_resumes() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    stubs(folder.path()).await?;
    let mesh = Mesh::start().await?;
    let mut command = Command::new(python_tool()?);
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python/client_test.py"))
        .env("PYTHONPATH", folder.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("MESH_GRPC", mesh.grpc()?);
    let output = run(&mut command).await?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{words}\nthe mesh:\n{}", mesh.log());
    ensure!(words.contains("Ran 8 tests"), "not all of it ran:\n{words}");
    Ok(())
}
