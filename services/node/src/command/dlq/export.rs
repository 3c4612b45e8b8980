//! `runmesh dlq export`.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::Context as _;
use futures::TryStreamExt as _;
use runmesh_proto::{dlq::ExportDeadLettersRequest, google::api::HttpBody};
use tempfile::NamedTempFile;
use tonic::Streaming;

use super::{filter::filter, open, refused};
use crate::cli::dlq::ExportArgs;

pub(super) async fn export(args: ExportArgs) -> anyhow::Result<ExitCode> {
    let file = args.out.map(File::create).transpose()?;
    let mut client = open(&args.server).await?;
    let request = ExportDeadLettersRequest { filter: Some(filter(args.filter, SystemTime::now())) };
    let messages = client.export_dead_letters(request).await.map_err(|status| refused(&status))?.into_inner();
    match file {
        None => copy(messages, &mut std::io::stdout()).await?,
        Some(mut file) => {
            copy(messages, &mut file.draft).await?;
            file.finish()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn copy(mut messages: Streaming<HttpBody>, to: &mut impl Write) -> anyhow::Result<()> {
    while let Some(message) = messages.try_next().await.map_err(|status| refused(&status))? {
        to.write_all(&message.data)?;
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
