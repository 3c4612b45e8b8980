//! Ports of the loopback address that nobody else takes.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as UnixAddress, UnixListener},
    },
};

use anyhow::bail;
use rand::RngExt as _;

/// Below what the kernel gives to clients and to those who ask for port 0. A server that is down for a while finds its
/// port still free when it is started again, which a port from there would not promise.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// Ports that are ours as long as this lives, whether something listens on them or not.
#[derive(Debug)]
pub(crate) struct Ports {
    ports: Vec<u16>,
    /// One abstract socket per port, named after it: the kernel lets one process of the machine have it, and takes it
    /// back from a process that has ended, however it ended.
    _claims: Vec<UnixListener>,
}

impl Ports {
    /// Takes that many free ports.
    pub(crate) fn take(count: usize) -> anyhow::Result<Self> {
        let mut taken = Self { ports: Vec::new(), _claims: Vec::new() };
        let start = rand::rng().random_range(RANGE);
        for port in (start..RANGE.end).chain(RANGE.start..start) {
            if taken.ports.len() == count {
                return Ok(taken);
            }
            let Some(claim) = claim(port) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                taken.ports.push(port);
                taken._claims.push(claim);
            }
        }
        bail!("no {count} free ports from {} to {}", RANGE.start, RANGE.end)
    }

    /// The address of the port with this index.
    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[index]))
    }
}

fn claim(port: u16) -> Option<UnixListener> {
    let name = UnixAddress::from_abstract_name(format!("runmesh-test-port-{port}")).ok()?;
    UnixListener::bind_addr(&name).ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_port_is_given_once_and_given_back() -> anyhow::Result<()> {
        let ports = Ports::take(3)?;
        for &port in &ports.ports {
            assert!(RANGE.contains(&port));
            assert!(claim(port).is_none(), "nobody else gets {port}");
            eventually(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())?;
        }
        let port = ports.ports[0];
        drop(ports);
        eventually(|| claim(port)).map(drop)
    }

    /// Waits for what there is as soon as no process that another test starts has a copy of our sockets: it has them
    /// until it loads its program.
    fn eventually<T>(get: impl Fn() -> Option<T>) -> anyhow::Result<T> {
        let since = Instant::now();
        loop {
            if let Some(got) = get() {
                return Ok(got);
            }
            anyhow::ensure!(since.elapsed() < Duration::from_secs(60), "a socket is still held");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_port_on_which_something_listens_is_not_taken() -> anyhow::Result<()> {
        // All but one of a window are claimed by listeners alone, as by programs that know nothing of the claims.
        let ports = Ports::take(1)?;
        let port = ports.ports[0];
        let _listener = eventually(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())?;
        drop(ports);
        let others = Ports::take(usize::from(RANGE.end - RANGE.start) / 100)?;
        assert!(!others.ports.contains(&port));
        Ok(())
    }
}
