//! A file that comes from a node in pieces.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use futures::TryStreamExt as _;
use runmesh_proto::google::api::HttpBody;
use tempfile::NamedTempFile;
use tonic::{Status, Streaming};

/// Where the pieces go: to a file, or to standard output.
pub(super) struct Target(Option<File>);

impl Target {
    /// The file with this path, or standard output.
    pub(super) fn open(out: Option<PathBuf>) -> anyhow::Result<Self> {
        Ok(Self(out.map(File::create).transpose()?))
    }

    /// Writes all pieces. `refused` tells a status in words.
    pub(super) async fn take(
        self,
        pieces: Streaming<HttpBody>,
        refused: impl Fn(&Status) -> anyhow::Error,
    ) -> anyhow::Result<()> {
        match self.0 {
            None => copy(pieces, &mut std::io::stdout(), refused).await,
            Some(mut file) => {
                copy(pieces, &mut file.draft, refused).await?;
                file.finish()
            }
        }
    }
}

async fn copy(
    mut pieces: Streaming<HttpBody>,
    to: &mut impl Write,
    refused: impl Fn(&Status) -> anyhow::Error,
) -> anyhow::Result<()> {
    while let Some(piece) = pieces.try_next().await.map_err(|status| refused(&status))? {
        to.write_all(&piece.data)?;
    }
    Ok(to.flush()?)
}

/// A file that is there only when it is whole.
struct File {
    draft: NamedTempFile,
    path: PathBuf,
}

impl File {
    fn create(path: PathBuf) -> anyhow::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let draft = NamedTempFile::new_in(folder).with_context(|| format!("--out: can't write {}", path.display()))?;
        Ok(Self { draft, path })
    }

    fn finish(self) -> anyhow::Result<()> {
        let path = self.path;
        self.draft.persist(&path).with_context(|| format!("--out: can't write {}", path.display()))?;
        Ok(())
    }
}
