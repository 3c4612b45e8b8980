//! One server: its connections, its calls, its record.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use metrics::counter;
use tokio::time::sleep;

use super::{
    breaker::{Admission, Breaker, BreakerConfig, Verdict},
    connect::{ConnectError, Connection, Connector, Target},
};

type Opening = Shared<BoxFuture<'static, Result<(), Arc<ConnectError>>>>;

/// A server.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// The upstream that it belongs to, for logs and metrics.
    upstream: Arc<str>,
    target: Target,
    connector: Connector,
    /// Calls that are on their way.
    load: AtomicUsize,
    breaker: Mutex<Breaker>,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    open: Vec<Connection>,
    /// The one that is being made, for all who wait for it.
    opening: Option<Opening>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Endpoint {
    pub(crate) fn new(upstream: Arc<str>, target: Target, connector: Connector, breaker: BreakerConfig) -> Arc<Self> {
        let breaker = Mutex::new(Breaker::new(breaker, Instant::now()));
        let (load, connections) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { upstream, target, connector, load, breaker, connections })
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Calls that are on their way.
    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Whether it should be called.
    pub(crate) fn is_available(&self) -> bool {
        lock(&self.breaker).is_available()
    }

    /// Notes a call.
    pub(crate) fn enter(self: &Arc<Self>) -> Ticket {
        self.load.fetch_add(1, Ordering::Relaxed);
        let admission = lock(&self.breaker).admit();
        Ticket { endpoint: Arc::clone(self), admission, is_told: false }
    }

    /// A place on a connection: on one that there is, or else on a new one.
    pub(crate) async fn place(self: &Arc<Self>) -> Result<Place, Arc<ConnectError>> {
        loop {
            let opening = {
                let mut connections = lock(&self.connections);
                if let Some(place) = connections.place() {
                    return Ok(place);
                }
                self.open(&mut connections)
            };
            opening.await?;
        }
    }

    fn open(self: &Arc<Self>, connections: &mut Connections) -> Opening {
        if let Some(opening) = &connections.opening {
            return opening.clone();
        }
        let endpoint = Arc::clone(self);
        // A task, since whoever asked first may be gone before the others.
        let task = tokio::spawn(async move {
            let result = endpoint.connector.connect(&endpoint.target).await;
            let mut connections = lock(&endpoint.connections);
            connections.opening = None;
            connections.open.push(result?);
            Ok::<_, ConnectError>(())
        });
        let label = self.target.label();
        let opening = async move {
            let result = task.await.unwrap_or(Err(ConnectError::Stopped(label)));
            result.map_err(Arc::new)
        };
        let opening = opening.boxed().shared();
        connections.opening = Some(opening.clone());
        opening
    }

    /// Leaves the server out for this time, and then until it can be connected to.
    fn eject(self: &Arc<Self>, mut time: Duration, mut ejection: u64, reason: &str) {
        counter!("rpc_client_ejections_total", "upstream" => self.upstream.to_string()).increment(1);
        let (upstream, server) = (Arc::clone(&self.upstream), self.target.label());
        tracing::warn!(%upstream, server, ?time, reason, "a server failed and is left out for a while");
        let endpoint = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                sleep(time).await;
                let Some(endpoint) = Weak::upgrade(&endpoint) else { return };
                let result = endpoint.place().await.map(drop);
                let mut breaker = lock(&endpoint.breaker);
                match result {
                    Ok(()) => {
                        if breaker.half_open(ejection) {
                            tracing::info!(%upstream, server, "a server can be connected to again");
                        }
                        return;
                    }
                    Err(error) => match breaker.stay_open(ejection, rand::random()) {
                        Some(again) => {
                            tracing::debug!(%upstream, server, time = ?again, %error, "still left out");
                            (time, ejection) = (again, breaker.epoch());
                        }
                        None => return,
                    },
                }
            }
        });
    }
}

impl Connections {
    /// The connection with the fewest calls, if it takes one more.
    fn place(&mut self) -> Option<Place> {
        self.open.retain(|connection| !connection.sender.is_closed());
        let calls = |connection: &&Connection| connection.calls.load(Ordering::Relaxed);
        let connection = self.open.iter().min_by_key(calls)?;
        let most = connection.most.load(Ordering::Relaxed).max(1);
        (calls(&connection) < most).then(|| {
            connection.calls.fetch_add(1, Ordering::Relaxed);
            Place(connection.clone())
        })
    }
}

/// A call's place on a connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Connection);

impl Place {
    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call that a server has, until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    endpoint: Arc<Endpoint>,
    admission: Admission,
    is_told: bool,
}

impl Ticket {
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Tells how the call went for the server. Only the first time counts.
    pub(crate) fn tell(&mut self, verdict: Verdict, reason: &str) {
        if std::mem::replace(&mut self.is_told, true) {
            return;
        }
        let ejected = {
            let mut breaker = lock(&self.endpoint.breaker);
            let time = breaker.result(self.admission, verdict, Instant::now(), rand::random());
            time.map(|time| (time, breaker.epoch()))
        };
        if let Some((time, ejection)) = ejected {
            self.endpoint.eject(time, ejection, reason);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tell(Verdict::Unknown, "");
        self.endpoint.load.fetch_sub(1, Ordering::Relaxed);
    }
}
