//! What a process needs where it shares its store with others: a name of its own, its part of the publishing, news of
//! what others append, and its turn where one process works for all.

use std::{sync::Arc, time::Duration};

use runmesh_bus::{Consumer, Relay, kafka::Tail};
use runmesh_events::{Catalog, EventType};
use runmesh_scheduler::{QueueService, Scheduler};
use runmesh_store::{Lease, Leases, StoreError};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::NodeError;
use crate::{Config, ConfigError, Role, Roles, bus::OpenBus, store::Store};

/// How long a process is believed to be alive without a sign of life.
const LEASE: Duration = Duration::from_secs(10);

/// How long a process waits for its name: an earlier run of it may have been killed a moment ago.
const NAME_PATIENCE: Duration = Duration::from_secs(25);

/// How long the last events may take to be published at the end.
const FAREWELL: Duration = Duration::from_secs(6);

/// A process's place among those that share the store.
pub(super) struct Shared {
    leases: Leases,
    relay: Relay,
    publishing: JoinHandle<()>,
    stop_publishing: DropGuard,
    // Tells of what others append, until it is dropped.
    _tail: Option<Tail>,
}

impl Shared {
    /// Takes the process's place. To be called before anything is appended.
    pub(super) async fn join(
        config: &Config,
        roles: &Roles,
        store: &Store,
        bus: &OpenBus,
    ) -> Result<(Self, Lease), NodeError> {
        let leases = Leases::open(Arc::clone(&store.documents), &store.process).await?;
        let name = take_name(&leases, &config.node).await?;
        let relay = Relay::new(Arc::clone(&store.events), Arc::clone(&bus.bus), Arc::clone(&store.documents)).await?;
        let (ready, stop) = (CancellationToken::new(), CancellationToken::new());
        let publishing = {
            let (relay, leases, appends) = (relay.clone(), leases.clone(), store.events.live().appends());
            let (ready, stop) = (ready.clone(), stop.clone());
            tokio::spawn(async move { relay.run_own(leases, appends, ready, stop).await })
        };
        let stop_publishing = stop.drop_guard();
        ready.cancelled().await;
        let tail = match (&bus.kafka, heard_by(roles)) {
            (Some(kafka), types) if !types.is_empty() => Some(kafka.hint(store.events.live().clone(), &types)?),
            _ => None,
        };
        Ok((Self { leases, relay, publishing, stop_publishing, _tail: tail }, name))
    }

    /// Keeps the process's name. It ends only when another process took it.
    pub(super) fn keep_name(
        &self,
        mut lease: Lease,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let leases = self.leases.clone();
        async move {
            loop {
                let name = lease.name().to_owned();
                if stop.run_until_cancelled(leases.keep(&mut lease)).await.is_none() {
                    // So that the next run need not wait. Otherwise it ends by itself.
                    let _ = leases.release(lease).await;
                    return Ok(());
                }
                tracing::warn!(lease = name, "the lease of this process's name was lost; taking it again");
                loop {
                    match leases.acquire(&name, LEASE).await {
                        Ok(Some(again)) => {
                            lease = again;
                            break;
                        }
                        Ok(None) => return Err(format!("another process has taken {name}")),
                        Err(error) => tracing::warn!(%error, "can't take it; trying again"),
                    }
                    sleep(LEASE / 8).await;
                }
            }
        }
    }

    /// Publishes what processes left behind that are gone.
    pub(super) fn publish_orphans(
        &self,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (relay, leases) = (self.relay.clone(), self.leases.clone());
        async move {
            relay.run_orphans(leases, stop).await;
            Ok(())
        }
    }

    /// Runs the scheduler while it is this process's turn. Of several, one works: the queue is in its memory.
    pub(super) fn schedule(
        &self,
        config: &Config,
        store: &Store,
        consumer: Consumer,
        queue: QueueService,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), NodeError>> + Send + use<> {
        let (leases, store) = (self.leases.clone(), store.clone());
        let (config, compare) = (config.scheduler.clone(), config.reconciler.interval);
        async move {
            while let Some(mut lease) = stop.run_until_cancelled(leases.wait_for("scheduler", LEASE)).await {
                tracing::info!("schedules from now on");
                let turn = stop.child_token();
                let work = async {
                    // A new one for each turn: what an earlier one remembers may be out of date.
                    let scheduler =
                        Scheduler::build(&config, Arc::clone(&store.events), Arc::clone(&store.documents)).await?;
                    scheduler.recover().await?;
                    queue.set_working(Some(scheduler.clone()));
                    let watch = turn.child_token();
                    let work = async {
                        let ended = consumer.run(scheduler.consumer_group(), turn.clone()).await;
                        watch.cancel();
                        ended
                    };
                    let (ended, ()) = tokio::join!(work, scheduler.watch(compare, watch.clone()));
                    ended?;
                    Ok::<_, NodeError>(())
                };
                let mut work = std::pin::pin!(work);
                let ended = tokio::select! {
                    ended = &mut work => ended,
                    () = leases.keep(&mut lease) => {
                        tracing::warn!("the scheduler's lease was lost");
                        turn.cancel();
                        work.await
                    }
                };
                queue.set_working(None);
                match ended {
                    Ok(()) => {}
                    Err(error) if error.is_transient() => {
                        tracing::warn!(%error, "the scheduler can't work; trying again");
                    }
                    Err(error) => return Err(error),
                }
                let _ = leases.release(lease).await;
            }
            Ok(())
        }
    }

    /// Publishes what is left, after everything else has ended.
    pub(super) async fn leave(self) {
        drop(self.stop_publishing);
        if timeout(FAREWELL, self.publishing).await.is_err() {
            tracing::warn!("some events are not published yet; another process does it");
        }
    }
}

/// The types of which a process with these roles has to hear at once when another appends one.
fn heard_by(roles: &Roles) -> Vec<EventType> {
    if roles.has(Role::Execution) {
        return Catalog::get().event_types().collect();
    }
    let mut types = Vec::new();
    if roles.has(Role::Saga) {
        types.extend(runmesh_saga::machine::TYPES);
    } else if roles.has(Role::Runner) {
        types.push(EventType::DeletePodCommand);
    }
    types
}

/// The process's name belongs to it alone: what is recorded under it (leases of runs, group members) is taken for its own.
async fn take_name(leases: &Leases, node: &str) -> Result<Lease, NodeError> {
    let deadline = Instant::now() + NAME_PATIENCE;
    let mut told = false;
    loop {
        if let Some(lease) = leases.acquire(&format!("node/{node}"), LEASE).await? {
            return Ok(lease);
        }
        if Instant::now() >= deadline {
            let reason = format!("{node:?} is the name of another process of this mesh, which is alive");
            return Err(ConfigError::Setting { key: "node", reason }.into());
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!(node, "waits for an earlier process of this name to be given up");
        }
        sleep(LEASE / 20).await;
    }
}
