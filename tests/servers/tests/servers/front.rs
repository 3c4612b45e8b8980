//! The front before FerretDB, byte by byte.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::ensure;
use runmesh_servers::MongoLike;

const OP_MSG: u32 = 2013;
const MORE_TO_COME: u32 = 1 << 1;
const HEADER: usize = 16;

/// A BSON document of 32-bit numbers and strings.
#[derive(Default)]
struct Bson(Vec<u8>);

impl Bson {
    fn number(mut self, key: &str, value: i32) -> Self {
        self.0.extend([&[0x10], key.as_bytes(), &[0], &value.to_le_bytes()].concat());
        self
    }

    fn string(mut self, key: &str, value: &str) -> Self {
        let length = u32::try_from(value.len() + 1).unwrap();
        self.0.extend([&[0x02], key.as_bytes(), &[0], &length.to_le_bytes(), value.as_bytes(), &[0]].concat());
        self
    }

    /// A list of documents, or a document.
    fn nested(mut self, kind: u8, key: &str, value: &Bson) -> Self {
        self.0.extend([&[kind], key.as_bytes(), &[0], value.bytes().as_slice()].concat());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() + 5).unwrap();
        [length.to_le_bytes().as_slice(), &self.0, &[0]].concat()
    }
}

fn message(id: u32, flags: u32, body: &Bson) -> Vec<u8> {
    // The flags, and the kind of the section that has the body.
    let content = [flags.to_le_bytes().as_slice(), &[0], &body.bytes()].concat();
    let length = u32::try_from(HEADER + content.len()).unwrap();
    let header = [length, id, 0, OP_MSG].map(u32::to_le_bytes).concat();
    [header, content].concat()
}

fn insert(document: i32) -> Bson {
    let documents = Bson::default().nested(0x03, "0", &Bson::default().number("_id", document));
    Bson::default().string("insert", "lines").nested(0x04, "documents", &documents).string("$db", "test")
}

fn count() -> Bson {
    Bson::default().string("count", "lines").string("$db", "test")
}

fn connect(server: &MongoLike) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(server.address())?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// The next reply: to which request it is, and its body.
fn reply(stream: &mut TcpStream) -> anyhow::Result<(u32, Vec<u8>)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let field = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let mut body = vec![0; usize::try_from(field(0))? - HEADER];
    stream.read_exact(&mut body)?;
    Ok((field(8), body))
}

/// The count in the reply to [`count`].
fn counted(body: &[u8]) -> Option<i32> {
    let at = body.windows(3).position(|part| part == b"\x10n\0")? + 3;
    Some(i32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?))
}

#[test]
fn a_message_with_more_to_come_is_done_and_gets_no_reply() -> anyhow::Result<()> {
    let server = MongoLike::start()?;
    let mut client = connect(&server)?;
    for id in 1..=3 {
        client.write_all(&message(id, MORE_TO_COME, &insert(i32::try_from(id)?)))?;
    }
    client.write_all(&message(4, 0, &count()))?;
    let (to, body) = reply(&mut client)?;
    assert_eq!((to, counted(&body)), (4, Some(3)));
    Ok(())
}

#[test]
fn requests_that_are_sent_at_once_are_answered_in_order() -> anyhow::Result<()> {
    let server = MongoLike::start()?;
    let mut client = connect(&server)?;
    let all: Vec<u8> = (1..=20).flat_map(|id| message(id, 0, &insert(i32::try_from(id).unwrap()))).collect();
    client.write_all(&all)?;
    for id in 1..=20 {
        assert_eq!(reply(&mut client)?.0, id);
    }
    Ok(())
}

#[test]
fn a_client_that_is_slow_or_goes_in_the_middle_holds_up_nobody() -> anyhow::Result<()> {
    let server = MongoLike::start()?;
    let whole = message(1, 0, &insert(1));
    // Slow: the second half of its request is still to come.
    let mut slow = connect(&server)?;
    slow.write_all(&whole[..whole.len() / 2])?;
    // Gone, in the middle of a request, and before its reply.
    connect(&server)?.write_all(&message(1, 0, &insert(2))[..20])?;
    connect(&server)?.write_all(&message(1, 0, &insert(3)))?;

    let mut client = connect(&server)?;
    client.write_all(&message(1, 0, &insert(4)))?;
    assert_eq!(reply(&mut client)?.0, 1);
    slow.write_all(&whole[whole.len() / 2..])?;
    assert_eq!(reply(&mut slow)?.0, 1);
    // 2 never arrived whole. 3 did, and may or may not have been done by now.
    client.write_all(&message(2, 0, &count()))?;
    let (_, body) = reply(&mut client)?;
    assert!(matches!(counted(&body), Some(2 | 3)), "{:?}", counted(&body));
    Ok(())
}

#[test]
fn what_is_no_message_ends_its_connection_and_no_other() -> anyhow::Result<()> {
    let server = MongoLike::start()?;
    let mut client = connect(&server)?;
    let header = |length: u32, code: u32| [length, 1, 0, code].map(u32::to_le_bytes).concat();
    for wrong in [header(15, OP_MSG), header(u32::MAX, OP_MSG), header(50_000_000, OP_MSG), header(16, 2012)] {
        let mut other = connect(&server)?;
        other.write_all(&wrong)?;
        let ended = match other.read(&mut [0]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        ensure!(ended, "{wrong:?} was taken for a message");
    }
    client.write_all(&message(1, 0, &count()))?;
    assert_eq!(reply(&mut client)?.0, 1);
    Ok(())
}
