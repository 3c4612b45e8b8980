//! Puts the services of the node's roles together.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use runmesh_bus::{Bus, Consumer, ConsumerGroup};
use runmesh_dlq::DeadLetterService;
use runmesh_event_log::{EventLogService, Verifier};
use runmesh_execution::{Dependencies, Erasure, ExecutionService};
use runmesh_replay::ReplayService;
use runmesh_results::ResultService;
use runmesh_rpc::{RpcServer, RpcServerBuilder};
use runmesh_runner::{Runner, Runtimes, Sandbox, Toolchains};
use runmesh_saga::SagaService;
use runmesh_scheduler::{QueueService, Scheduler};
use runmesh_store::{DocumentStore, EventStore, Members, StoreError};
use tokio_util::sync::CancellationToken;

use super::{NodeError, patiently};
use crate::{Config, Environment, Role, Roles, groups::Groups, runtimes::LocalRuntimes, sandbox, store::Store};

/// What services are put together from.
pub(super) struct Parts<'a> {
    pub(super) config: &'a Config,
    pub(super) environment: &'a Environment,
    pub(super) data: &'a Path,
    pub(super) roles: &'a Roles,
    pub(super) store: &'a Store,
    pub(super) bus: &'a Arc<dyn Bus>,
    pub(super) consumer: &'a Consumer,
    pub(super) intake: &'a CancellationToken,
}

/// The services of the roles.
pub(super) struct Built {
    pub(super) server: RpcServer,
    pub(super) groups: Vec<ConsumerGroup>,
    /// Its group is by itself, since it stops first.
    pub(super) runner: Option<Runner>,
    /// Closed at the end.
    pub(super) sandbox: Option<Arc<dyn Sandbox>>,
    pub(super) queue: Option<QueueService>,
    /// One that works all the time: nobody else shares the store.
    pub(super) scheduler: Option<Scheduler>,
    /// Where the dead letters' role is: what is due has to be delivered.
    pub(super) dlq: Option<DeadLetterService>,
    /// Where the role of replays is: they have to be carried on.
    pub(super) replay: Option<ReplayService>,
    /// Where the saga's role is: its timers have to be run.
    pub(super) saga: Option<SagaService>,
}

impl Parts<'_> {
    fn events(&self) -> Arc<dyn EventStore> {
        Arc::clone(&self.store.events)
    }

    fn documents(&self) -> Arc<dyn DocumentStore> {
        Arc::clone(&self.store.documents)
    }

    pub(super) async fn build(self, mut builder: RpcServerBuilder) -> Result<Built, NodeError> {
        let mut groups = Vec::new();
        let results = ResultService::build(self.events(), self.documents()).await?;
        let saga = self.saga().await?;
        // Recovery comes before the groups run: what a crash left half done is finished first.
        let (mut runner, mut opened) = (None, None);
        // The others need no sandboxes; where executions are created it is asked what one would hold to.
        if self.roles.has(Role::Runner) || self.roles.has(Role::Execution) {
            let (found, toolchains) = self.runtimes().await?;
            let pool = if self.roles.has(Role::Runner) { self.config.runner.pool } else { 0 };
            let sandbox: Arc<dyn Sandbox> =
                Arc::new(sandbox::open(self.config, self.data, &found, toolchains.readable(), pool)?);
            opened = Some(Arc::clone(&sandbox));
            if self.roles.has(Role::Runner) {
                let (events, documents) = (self.events(), self.documents());
                let members = Members::open(self.documents(), runmesh_scheduler::RUNNERS).await?;
                let offer = (members, sandbox::offer(self.config));
                let node = &self.config.node;
                let built = Runner::build(node, offer, events, documents, Arc::clone(&sandbox), toolchains).await?;
                built.recover().await?;
                // No command names a runner that nobody has heard of yet.
                let group = runmesh_runner::group_of(node);
                patiently(async || Ok(self.bus.begin_at_end(group, &runmesh_runner::TOPICS).await?)).await?;
                built.announce().await?;
                runner = Some(built);
            }
            if self.roles.has(Role::Execution) {
                let execution = self.execution(&results, &saga, found, sandbox).await?;
                groups.push(runmesh_execution::consumer_group(&execution));
                builder = builder.add_service(execution.into_server());
            }
        }
        let (mut queue, mut scheduler) = (None, None);
        if self.roles.has(Role::Scheduler) {
            let config = self.config.scheduler.clone();
            let service = QueueService::new(config, self.events(), self.documents(), self.intake.clone());
            // Where the store is shared, one of the schedulers works and this may not be it.
            if !self.store.events.is_shared() {
                let built = Scheduler::build(&self.config.scheduler, self.events(), self.documents()).await?;
                built.recover().await?;
                groups.push(built.consumer_group());
                service.set_working(Some(built.clone()));
                scheduler = Some(built);
            }
            builder = builder.add_service(service.clone().into_server());
            queue = Some(service);
        }
        if self.roles.has(Role::Saga) {
            groups.push(runmesh_saga::consumer_group(&saga));
            builder = builder.add_service(saga.clone().into_server());
        }
        if self.roles.has(Role::Results) {
            groups.push(runmesh_results::consumer_group(&results, self.events()));
            builder = builder.add_service(results.clone().into_server());
        }
        let mut dlq = None;
        if self.roles.has(Role::Dlq) {
            let built = self.dlq().await?;
            builder = builder.add_service(built.clone().into_server());
            dlq = Some(built);
        }
        let mut replay = None;
        if self.roles.has(Role::Replay) {
            let built = self.replay().await?;
            builder = builder.add_service(built.clone().into_server());
            replay = Some(built);
        }
        if self.roles.has(Role::EventLog) {
            let event_log = EventLogService::build(self.verifier().await?, self.intake.clone()).await?;
            builder = builder.add_service(event_log.into_server());
        }
        let saga = Some(saga).filter(|_| self.roles.has(Role::Saga));
        Ok(Built { server: builder.build(), groups, runner, sandbox: opened, queue, scheduler, dlq, replay, saga })
    }

    /// The interpreters and compilers of this machine.
    async fn runtimes(&self) -> Result<(Arc<Runtimes>, Toolchains), NodeError> {
        let found = Arc::new(Runtimes::discover(&sandbox::search(self.config, self.environment)).await?);
        for missing in found.missing() {
            tracing::debug!(language = missing.name, package = missing.package, "not found here");
        }
        let toolchains = sandbox::toolchains(self.environment, self.data, Arc::clone(&found))?;
        Ok((found, toolchains))
    }

    async fn dlq(&self) -> Result<DeadLetterService, StoreError> {
        DeadLetterService::build(runmesh_dlq::Dependencies {
            events: self.events(),
            documents: self.documents(),
            bus: Arc::clone(self.bus),
            letters: self.consumer.dead_letters().clone(),
            paused: self.consumer.paused_groups().clone(),
            groups: Arc::new(Groups::open(self.documents()).await?),
            shutdown: self.intake.clone(),
        })
        .await
    }

    async fn replay(&self) -> Result<ReplayService, StoreError> {
        let dependencies = runmesh_replay::Dependencies {
            events: self.events(),
            documents: self.documents(),
            bus: Arc::clone(self.bus),
            groups: Arc::new(Groups::open(self.documents()).await?),
            read_models: vec![
                Arc::new(runmesh_execution::read_model(self.events(), self.documents()).await?),
                Arc::new(runmesh_results::read_model(self.events(), self.documents()).await?),
            ],
            shutdown: self.intake.clone(),
        };
        ReplayService::build(self.config.replay.settings(self.data), dependencies).await
    }

    async fn verifier(&self) -> Result<Verifier, StoreError> {
        Verifier::build(runmesh_event_log::Dependencies {
            store: self.events(),
            documents: self.documents(),
            bus: Arc::clone(self.bus),
            groups: Arc::new(Groups::open(self.documents()).await?),
        })
        .await
    }

    async fn saga(&self) -> Result<SagaService, StoreError> {
        let dependencies = runmesh_saga::Dependencies {
            store: self.events(),
            documents: self.documents(),
            shutdown: self.intake.clone(),
        };
        SagaService::build(self.config.saga.clone(), dependencies).await
    }

    async fn execution(
        &self,
        results: &ResultService,
        saga: &SagaService,
        found: Arc<Runtimes>,
        sandbox: Arc<dyn Sandbox>,
    ) -> Result<ExecutionService, NodeError> {
        let dependencies = Dependencies {
            store: self.events(),
            documents: self.documents(),
            runtimes: Arc::new(LocalRuntimes::new(found, sandbox, self.config.runner.strict)),
            erasures: vec![Arc::new(EraseResult(results.clone())), Arc::new(EraseSaga(saga.clone()))],
            shutdown: self.intake.clone(),
        };
        Ok(ExecutionService::build(self.config.execution.clone(), dependencies).await?)
    }
}

/// A result goes with its execution.
struct EraseResult(ResultService);

#[async_trait]
impl Erasure for EraseResult {
    async fn erase(&self, execution_id: &str) -> Result<(), StoreError> {
        self.0.erase(execution_id).await
    }
}

/// So does what is kept of its saga.
struct EraseSaga(SagaService);

#[async_trait]
impl Erasure for EraseSaga {
    async fn erase(&self, execution_id: &str) -> Result<(), StoreError> {
        self.0.erase(execution_id).await
    }
}
