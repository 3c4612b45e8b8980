//! A network between a test and a server that is slow, or cut, when the test says so.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// How much is read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// How many chunks may be on their way in one direction.
const ON_THE_WAY: usize = 256;

/// Forwards connections to a server. Both directions take as long, and are cut together. It ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    network: Arc<Network>,
}

#[derive(Debug, Default)]
struct Network {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Where connections go. `None`: nowhere yet, they are closed.
    target: Option<SocketAddr>,
    delay: Duration,
    cut: bool,
    ended: bool,
    /// Both ends of each connection.
    connections: Vec<[TcpStream; 2]>,
}

impl Proxy {
    /// A proxy that forwards nowhere yet: its address is known before the server that advertises it is started.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port for a proxy")?;
        let address = listener.local_addr().context("a proxy's address")?;
        let network = Arc::new(Network::default());
        thread::spawn({
            let network = Arc::clone(&network);
            move || network.accept(&listener)
        });
        Ok(Self { address, network })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards new connections to this server.
    pub fn forward_to(&self, target: SocketAddr) {
        self.network.change(|state| state.target = Some(target));
    }

    /// From now on everything takes so much longer, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.network.change(|state| state.delay = delay);
    }

    /// Lets nothing through any more. Connections stay open and are silent, new ones too, as when a cable is cut.
    pub fn cut(&self) {
        self.network.change(|state| state.cut = true);
    }

    /// Lets through what was held back, and what comes.
    pub fn heal(&self) {
        self.network.change(|state| state.cut = false);
    }

    /// Breaks all connections. New ones are forwarded.
    pub fn disconnect(&self) {
        self.network.change(State::disconnect);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.network.change(|state| {
            state.ended = true;
            state.disconnect();
        });
        // So that the one who accepts looks.
        TcpStream::connect(self.address).ok();
    }
}

impl State {
    fn disconnect(&mut self) {
        for end in self.connections.drain(..).flatten() {
            end.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Network {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().map_while(Result::ok) {
            let (ended, target) = {
                let state = self.lock();
                (state.ended, state.target)
            };
            if ended {
                return;
            }
            // Who can't be forwarded is closed.
            if let Some(server) = target.and_then(|target| TcpStream::connect(target).ok()) {
                self.connect(&client, &server).ok();
            }
        }
    }

    fn connect(self: &Arc<Self>, client: &TcpStream, server: &TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        self.lock().connections.push([client.try_clone()?, server.try_clone()?]);
        for (from, to) in [(client, server), (server, client)] {
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            let (put, take) = mpsc::sync_channel(ON_THE_WAY);
            thread::spawn(move || read(from, &put));
            let network = Arc::clone(self);
            thread::spawn(move || network.write(to, &take));
        }
        Ok(())
    }

    fn write(&self, mut to: TcpStream, chunks: &Receiver<(Instant, Vec<u8>)>) {
        while let Ok((read_at, chunk)) = chunks.recv() {
            if !self.let_through(read_at) || to.write_all(&chunk).is_err() {
                break;
            }
        }
        to.shutdown(Shutdown::Both).ok();
    }

    /// Waits until what was read then may go on. `false`: never.
    fn let_through(&self, read_at: Instant) -> bool {
        let mut state = self.lock();
        loop {
            if state.ended {
                return false;
            }
            let left = (read_at + state.delay).saturating_duration_since(Instant::now());
            state = if state.cut {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else if left.is_zero() {
                return true;
            } else {
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }
}

fn read(mut from: TcpStream, chunks: &SyncSender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if chunks.send((Instant::now(), buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    fn echo() -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let (mut from, mut to) = (&stream, &stream);
                    std::io::copy(&mut from, &mut to).ok();
                });
            }
        });
        Ok(address)
    }

    fn say(stream: &mut TcpStream, word: &[u8; 4]) -> anyhow::Result<Duration> {
        let since = Instant::now();
        stream.write_all(word)?;
        let mut said = [0; 4];
        stream.read_exact(&mut said)?;
        anyhow::ensure!(said == *word, "{said:?} is not what was said");
        Ok(since.elapsed())
    }

    #[test]
    fn what_is_said_is_slow_or_held_back_and_never_lost() -> anyhow::Result<()> {
        let proxy = Proxy::start()?;
        proxy.forward_to(echo()?);
        let mut stream = TcpStream::connect(proxy.address())?;
        say(&mut stream, b"fast")?;
        proxy.delay(Duration::from_millis(100));
        assert!(say(&mut stream, b"slow")? >= Duration::from_millis(200));
        proxy.delay(Duration::ZERO);
        proxy.cut();
        stream.write_all(b"held")?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        assert!(stream.read(&mut [0; 4]).is_err(), "nothing comes through");
        proxy.heal();
        stream.set_read_timeout(None)?;
        let mut said = [0; 4];
        stream.read_exact(&mut said)?;
        assert_eq!(&said, b"held");
        say(&mut stream, b"fine")?;
        proxy.disconnect();
        assert_eq!(stream.read(&mut [0; 4])?, 0, "the connection is over");
        say(&mut TcpStream::connect(proxy.address())?, b"anew")?;
        Ok(())
    }

    #[test]
    fn an_ended_proxy_lets_its_port_go_and_ends_its_connections() -> anyhow::Result<()> {
        let proxy = Proxy::start()?;
        let address = proxy.address();
        proxy.forward_to(echo()?);
        let mut stream = TcpStream::connect(address)?;
        say(&mut stream, b"here")?;
        drop(proxy);
        assert_eq!(stream.read(&mut [0; 4])?, 0);
        let closed = crate::process::wait(Duration::from_secs(10), || Ok(TcpListener::bind(address).ok().map(drop)));
        closed.context("the port is still taken")
    }
}
