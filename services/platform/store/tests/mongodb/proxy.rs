//! Stands between a store and its server, and loses a message of its choice.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What is lost, with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The request: the server never hears of it.
    Request,
    /// The answer: the server has done it.
    Answer,
}

type Plan = Arc<Mutex<Option<(&'static str, Lost)>>>;

/// A proxy for MongoDB's protocol, until this is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    plan: Plan,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before a server.
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plan = Plan::default();
        let task = tokio::spawn(accept(listener, server, Arc::clone(&plan)));
        Self { address, plan, task }
    }

    /// What a store connects to.
    pub(crate) fn uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true&retryWrites=false&retryReads=false", self.address)
    }

    /// Loses a message of the next command of this name.
    pub(crate) fn lose(&self, command: &'static str, lost: Lost) {
        *self.plan.lock().unwrap() = Some((command, lost));
    }

    /// Whether it has lost what it was to lose.
    pub(crate) fn has_lost(&self) -> bool {
        self.plan.lock().unwrap().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, plan: Plan) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let plan = Arc::clone(&plan);
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(server).await else { return };
            // Ends with either side, or when it loses a message.
            let _ = forward(client, server, &plan).await;
        });
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, plan: &Plan) -> std::io::Result<()> {
    loop {
        let request = message(&mut client).await?;
        let lost = {
            let mut plan = plan.lock().unwrap();
            let lost = plan.filter(|(wanted, _)| command(&request) == Some(wanted)).map(|(_, lost)| lost);
            if lost.is_some() {
                *plan = None;
            }
            lost
        };
        if lost == Some(Lost::Request) {
            return Ok(());
        }
        server.write_all(&request).await?;
        let answer = message(&mut server).await?;
        if lost == Some(Lost::Answer) {
            return Ok(());
        }
        client.write_all(&answer).await?;
    }
}

/// One message: its length, little-endian and with itself, and the rest.
async fn message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; 4];
    stream.read_exact(&mut message).await?;
    let length = u32::from_le_bytes([message[0], message[1], message[2], message[3]]);
    message.resize(length as usize, 0);
    stream.read_exact(&mut message[4..]).await?;
    Ok(message)
}

/// The command of an `OP_MSG`: the name of the first field of its body, behind the header, the flags, the kind of the
/// section, the length of the document and the type of the field.
fn command(message: &[u8]) -> Option<&str> {
    let is_body = message.get(12..16)? == 2013_u32.to_le_bytes() && *message.get(20)? == 0;
    let name = message.get(26..).filter(|_| is_body)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&name[..end]).ok()
}
