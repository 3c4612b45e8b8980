//! A file of events, one as JSON in a line.

use std::{io::ErrorKind, path::Path, sync::Arc};

use async_trait::async_trait;
use prost::Message as _;
use runmesh_events::{Event, json};
use runmesh_store::EventSelection;
use tokio::{
    fs::File,
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncSeekExt as _, BufReader, SeekFrom, Take},
};

use super::{Item, Page, Source, SourceError, path_of};

/// How many lines one read brings.
const READ: u64 = 256;

/// How many bytes of the file are held in memory beside the events.
const BUFFER: usize = 256 << 10;

/// The greatest length of a line: what is longer is no event.
const LONGEST: u64 = 128 << 20;

/// A file.
pub(super) struct FileSource {
    name: String,
    lines: Take<BufReader<File>>,
    selection: EventSelection,
    /// How far it was read, in bytes.
    place: u64,
}

/// The length of a file.
pub(super) async fn length(folder: &Path, name: &str) -> Result<u64, SourceError> {
    let metadata = tokio::fs::metadata(path_of(folder, name)).await;
    let metadata = metadata.map_err(|error| SourceError::File(name.to_owned(), error))?;
    match metadata.is_file() {
        true => Ok(metadata.len()),
        false => Err(SourceError::File(name.to_owned(), ErrorKind::NotFound.into())),
    }
}

/// The event of a line, without its end.
fn parse(line: &[u8]) -> Result<Event, String> {
    let text = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8".to_owned())?;
    let descriptor = json::descriptor(json::EVENT).ok_or("the contract has no events")?;
    let message = json::parse(descriptor, text)?;
    let event = Event::decode(message.encode_to_vec().as_slice()).map_err(|error| error.to_string())?;
    match event.payload {
        Some(_) => Ok(event),
        None => Err("the event has no payload".to_owned()),
    }
}

impl FileSource {
    pub(super) async fn open(
        folder: &Path,
        name: &str,
        selection: EventSelection,
        after: u64,
        end: u64,
    ) -> Result<Self, SourceError> {
        let opened = async {
            let mut file = File::open(path_of(folder, name)).await?;
            file.seek(SeekFrom::Start(after)).await?;
            Ok(file)
        };
        let file = opened.await.map_err(|error| SourceError::File(name.to_owned(), error))?;
        let lines = BufReader::with_capacity(BUFFER, file).take(end.saturating_sub(after));
        Ok(Self { name: name.to_owned(), lines, selection, place: after })
    }

    /// The next line, without its end. `None`: there is none.
    async fn line(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let read = (&mut self.lines).take(LONGEST).read_until(b'\n', &mut line).await?;
        self.place += read as u64;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        Ok((read > 0).then_some(line))
    }
}

#[async_trait]
impl Source for FileSource {
    async fn next(&mut self) -> Result<Option<Page>, SourceError> {
        let mut page = Page { before: Some(self.place), ..Page::default() };
        let mut looked_at = 0;
        while page.scanned < READ {
            let line = self.line().await.map_err(|error| SourceError::File(self.name.clone(), error))?;
            let Some(line) = line else { break };
            if line.trim_ascii().is_empty() {
                continue;
            }
            page.scanned += 1;
            looked_at += 1;
            let event = parse(&line).map(Arc::new);
            if event.as_ref().is_ok_and(|event| !self.selection.matches(event)) {
                continue;
            }
            page.items.push(Item { place: self.place, event, scanned: std::mem::take(&mut looked_at) });
        }
        page.upto = self.place;
        Ok((page.scanned > 0).then_some(page))
    }
}
