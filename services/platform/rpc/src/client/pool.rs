//! The servers of an upstream, as the settings name them and as names are resolved.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::future::BoxFuture;
use metrics::gauge;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    address::{Address, Addresses},
    breaker::BreakerConfig,
    config::UpstreamConfig,
    connect::{Connector, Target, has_tls},
    endpoint::Endpoint,
};

/// The shortest time between two looks at a name, however often connections fail.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// Finds the addresses of a name.
pub trait Resolve: fmt::Debug + Send + Sync {
    /// All addresses of the name, with this port.
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The operating system's resolver, with its files and search domains.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) })
    }
}

type Endpoints = Arc<[Arc<Endpoint>]>;

/// The servers.
#[derive(Debug)]
pub(crate) struct Pool {
    upstream: Arc<str>,
    entries: Vec<Address>,
    connector: Connector,
    breaker: BreakerConfig,
    endpoints: watch::Sender<Endpoints>,
    /// A connection failed: the names may stand for others now.
    doubted: Arc<Notify>,
}

impl Pool {
    /// The servers of `addresses`. The handle keeps names up to date until it is dropped; `None`: there is no name to be
    /// resolved again.
    pub(crate) fn start(
        upstream: Arc<str>,
        addresses: &Addresses,
        config: &UpstreamConfig,
        resolver: Arc<dyn Resolve>,
    ) -> (Arc<Self>, Option<AbortOnDropHandle<()>>) {
        let connector = Connector {
            timeout: config.connect_timeout,
            keep_alive: config.keep_alive,
            tls: config.tls.clone(),
            resolver,
        };
        let breaker = BreakerConfig {
            failures: config.ejection_failures.max(1),
            time: config.ejection_time,
            maximum: config.ejection_maximum,
        };
        let entries = addresses.entries().to_vec();
        let has_groups = entries.iter().any(|entry| entry.is_group);
        let (endpoints, doubted) = (watch::Sender::new(Endpoints::default()), Arc::default());
        let pool = Arc::new(Self { upstream, entries, connector, breaker, endpoints, doubted });
        pool.update(&vec![None; pool.entries.len()]);
        let interval = config.resolve_interval.max(SHORTEST_INTERVAL);
        let task = has_groups.then(|| {
            let (pool, doubted) = (Arc::downgrade(&pool), Arc::clone(&pool.doubted));
            AbortOnDropHandle::new(tokio::spawn(keep_resolved(pool, doubted, interval)))
        });
        (pool, task)
    }

    /// The servers now.
    pub(crate) fn endpoints(&self) -> Endpoints {
        self.endpoints.borrow().clone()
    }

    /// The servers, for which it waits a little where none is known yet.
    pub(crate) async fn known_endpoints(&self) -> Endpoints {
        let endpoints = self.endpoints();
        if !endpoints.is_empty() {
            return endpoints;
        }
        let mut known = self.endpoints.subscribe();
        let _ = timeout(self.connector.timeout, known.wait_for(|endpoints| !endpoints.is_empty())).await;
        self.endpoints()
    }

    /// Has the names resolved soon.
    pub(crate) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Resolves each name once.
    async fn resolve(&self) -> Vec<Option<Vec<SocketAddr>>> {
        let lookups = self.entries.iter().map(async |entry| {
            if !entry.is_group {
                return None;
            }
            match self.connector.resolver.resolve(&entry.host.name, entry.host.port).await {
                Ok(mut found) if !found.is_empty() => {
                    // Resolvers turn the order of what they find.
                    found.sort_unstable();
                    Some(found)
                }
                Ok(_) => {
                    tracing::warn!(upstream = %self.upstream, name = entry.host.name, "the name has no address");
                    None
                }
                Err(error) => {
                    let name = &entry.host.name;
                    tracing::warn!(upstream = %self.upstream, name, %error, "the name can't be resolved");
                    None
                }
            }
        });
        futures::future::join_all(lookups).await
    }

    /// Takes over what was found, by entry. `None`: nothing new, and what was there stays. A server that is not among
    /// them any more gets no more calls, and those that it has go on.
    fn update(&self, found: &[Option<Vec<SocketAddr>>]) {
        let before = self.endpoints();
        let mut now: Vec<Arc<Endpoint>> = Vec::new();
        for (entry, found) in self.entries.iter().zip(found) {
            let target = |address| Target {
                host: entry.host.clone(),
                address,
                has_tls: has_tls(entry.security, self.connector.tls.is_some()),
            };
            let targets: Vec<Target> = match found {
                Some(addresses) => addresses.iter().map(|address| target(Some(*address))).collect(),
                None if entry.is_group => {
                    let known = before.iter().map(|endpoint| endpoint.target());
                    known.filter(|known| known.host == entry.host && known.address.is_some()).cloned().collect()
                }
                None => vec![target(None)],
            };
            for target in targets {
                if now.iter().any(|endpoint| *endpoint.target() == target) {
                    continue;
                }
                let known = before.iter().find(|endpoint| *endpoint.target() == target).cloned();
                now.push(known.unwrap_or_else(|| {
                    let (upstream, connector) = (Arc::clone(&self.upstream), self.connector.clone());
                    Endpoint::new(upstream, target, connector, self.breaker)
                }));
            }
        }
        gauge!("rpc_client_endpoints", "upstream" => self.upstream.to_string()).set(now.len() as f64);
        let is_same = now.len() == before.len() && now.iter().zip(before.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
        if !is_same {
            let servers: Vec<String> = now.iter().map(|endpoint| endpoint.target().label()).collect();
            tracing::debug!(upstream = %self.upstream, ?servers, "servers");
            self.endpoints.send_replace(now.into());
        }
    }
}

/// Resolves the names again and again, sooner when a connection failed.
async fn keep_resolved(pool: Weak<Pool>, doubted: Arc<Notify>, interval: Duration) {
    loop {
        let is_known = {
            let Some(pool) = pool.upgrade() else { return };
            let found = pool.resolve().await;
            pool.update(&found);
            !pool.endpoints().is_empty()
        };
        let resolved = Instant::now();
        let pause = if is_known { interval } else { SHORTEST_INTERVAL };
        // Not in step with others that started at the same time.
        let pause = pause.mul_f64(rand::random_range(0.9..1.1));
        tokio::select! {
            () = sleep(pause) => {}
            () = doubted.notified() => sleep_until(resolved + SHORTEST_INTERVAL).await,
        }
    }
}
