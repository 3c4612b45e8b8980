//! A file: one event as JSON in a line, which a replay can be made from again.
//!
//! The file has a suffix of its own until the replay is complete. It is durable up to each checkpoint, and is cut to that length
//! when it is gone on with: so it has no event twice, and no half line.

use std::{
    io::{ErrorKind, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use runmesh_events::{Event, json};
use tokio::{
    fs::{self, File},
    io::{AsyncSeekExt as _, AsyncWriteExt as _},
};

use super::{SendError, Target};
use crate::document::ReplayDocument;

/// What the name of a file ends in that is not complete.
const SUFFIX: &str = ".part";

/// The file of a replay.
pub(super) struct FileTarget {
    file: File,
    /// Where it is, and where it will be.
    paths: Paths,
    /// How long it is, without what could not be written whole.
    length: u64,
    /// Whether something behind its length has to be cut off first.
    torn: bool,
}

struct Paths {
    part: PathBuf,
    whole: PathBuf,
}

impl Paths {
    fn of(folder: &Path, replay_id: &str) -> Self {
        let name = ReplayDocument::file_name(replay_id);
        Self { part: folder.join(format!("{name}{SUFFIX}")), whole: folder.join(name) }
    }
}

/// Removes the file of a replay, if there is one.
///
/// # Errors
/// When that can't be done.
pub(crate) async fn remove(folder: &Path, replay_id: &str) -> std::io::Result<()> {
    let Paths { part, whole } = Paths::of(folder, replay_id);
    for path in [part, whole] {
        match fs::remove_file(path).await {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl FileTarget {
    /// The file of a replay, cut to the length that it had at a checkpoint. Returns whether it was there; otherwise it is begun
    /// anew, as by another process that does not see the file of the first one.
    pub(super) async fn open(folder: &Path, replay_id: &str, length: u64) -> Result<(Self, bool), SendError> {
        Self::try_open(folder, replay_id, length).await.map_err(|error| SendError::transient(words(folder, &error)))
    }

    async fn try_open(folder: &Path, replay_id: &str, length: u64) -> std::io::Result<(Self, bool)> {
        fs::create_dir_all(folder).await?;
        let paths = Paths::of(folder, replay_id);
        // A crash may have come after it was complete, and before that was kept.
        if length > 0 && !fs::try_exists(&paths.part).await? && fs::try_exists(&paths.whole).await? {
            fs::rename(&paths.whole, &paths.part).await?;
        }
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&paths.part).await?;
        let resumes = file.metadata().await?.len() >= length;
        let length = if resumes { length } else { 0 };
        file.set_len(length).await?;
        file.seek(SeekFrom::Start(length)).await?;
        Ok((Self { file, paths, length, torn: false }, resumes))
    }

    async fn write(&mut self, lines: &[u8]) -> std::io::Result<()> {
        if self.torn {
            self.file.set_len(self.length).await?;
            self.file.seek(SeekFrom::Start(self.length)).await?;
        }
        self.torn = true;
        self.file.write_all(lines).await?;
        self.file.flush().await?;
        self.torn = false;
        self.length += lines.len() as u64;
        Ok(())
    }
}

fn words(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[async_trait]
impl Target for FileTarget {
    async fn send(&mut self, events: &[Arc<Event>]) -> Vec<Result<(), SendError>> {
        let mut lines = String::new();
        let made: Vec<bool> = events
            .iter()
            .map(|event| {
                let line = json::of(json::EVENT, event.as_ref());
                lines.push_str(&line);
                if !line.is_empty() {
                    lines.push('\n');
                }
                !line.is_empty()
            })
            .collect();
        let written = self.write(lines.as_bytes()).await;
        let result = |made: bool| match (made, &written) {
            (false, _) => Err(SendError::lasting("the event has no JSON form")),
            (true, Err(error)) => Err(SendError::transient(words(&self.paths.part, error))),
            (true, Ok(())) => Ok(()),
        };
        made.into_iter().map(result).collect()
    }

    async fn checkpoint(&mut self) -> Result<u64, SendError> {
        let synced = self.file.sync_data().await;
        synced.map_err(|error| SendError::transient(words(&self.paths.part, &error)))?;
        Ok(self.length)
    }

    async fn finish(&mut self) -> Result<(), SendError> {
        let renamed = fs::rename(&self.paths.part, &self.paths.whole).await;
        renamed.map_err(|error| SendError::transient(words(&self.paths.part, &error)))
    }
}

#[cfg(test)]
mod tests {
    use runmesh_bus::conformance::{TOPIC, sample};

    use super::*;

    #[tokio::test]
    async fn a_file_goes_on_at_its_checkpoint_without_half_lines_or_events_twice() {
        let folder = tempfile::tempdir().unwrap();
        let events: Vec<Arc<Event>> = (1..=4).map(|number| Arc::new(sample(TOPIC, "\u{e4}", number))).collect();
        let (mut target, resumes) = FileTarget::open(folder.path(), "r", 0).await.unwrap();
        assert!(resumes);
        assert_eq!(target.send(&events[..2]).await, [Ok(()), Ok(())]);
        let checkpoint = target.checkpoint().await.unwrap();
        assert_eq!(target.send(&events[2..3]).await, [Ok(())]);
        target.file.write_all(b"{\"half").await.unwrap();
        target.file.flush().await.unwrap();
        drop(target);
        let (mut target, resumes) = FileTarget::open(folder.path(), "r", checkpoint).await.unwrap();
        assert!(resumes);
        assert_eq!(target.send(&events[2..]).await, [Ok(()), Ok(())]);
        let checkpoint = target.checkpoint().await.unwrap();
        target.finish().await.unwrap();
        drop(target);
        // A crash before the end was kept.
        let (mut target, resumes) = FileTarget::open(folder.path(), "r", checkpoint).await.unwrap();
        assert!(resumes);
        target.finish().await.unwrap();
        let text = std::fs::read_to_string(folder.path().join("r.ndjson")).unwrap();
        let lines: Vec<String> = events.iter().map(|event| json::of(json::EVENT, event.as_ref())).collect();
        assert_eq!(text, lines.join("\n") + "\n");
        // Elsewhere there is no such file.
        let other = tempfile::tempdir().unwrap();
        let (target, resumes) = FileTarget::open(other.path(), "r", checkpoint).await.unwrap();
        assert_eq!((target.length, resumes), (0, false));
        remove(folder.path(), "r").await.unwrap();
        remove(folder.path(), "r").await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
