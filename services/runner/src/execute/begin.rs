//! What is recorded of a beginning: the attempt, its sandbox, its program.

use runmesh_events::{Event, NewEvent, TraceParent, lifecycle};
use runmesh_proto::event::{CompileResult, ContainerStatus, ExecutionStarted, PodCreated, PodRunning};

use super::{Execution, GivenUp};
use crate::{
    Run,
    lease::RunLease,
    service::{command_cause, ordinal},
};

/// The event that an attempt begins here, by this command and under this lease.
pub(crate) fn created(command: &Event, trace: TraceParent, lease: &RunLease, sandbox: &str) -> NewEvent {
    let created = PodCreated {
        execution_id: lease.execution_id.clone(),
        pod_name: lifecycle::pod_name(&lease.execution_id, lease.attempt),
        namespace: sandbox.to_owned(),
    };
    // New each time: with the id of another runner's it would be taken for that one, and accepted.
    command_cause(command).traced(trace).observe(created)
}

impl Execution {
    /// Records that there is a sandbox.
    pub(crate) async fn append_sandbox(&mut self) -> Result<(), GivenUp> {
        self.has_sandbox = true;
        self.append(self.sandbox_made()).await
    }

    fn sandbox_made(&self) -> Vec<NewEvent> {
        let (execution_id, pod_name) = (self.spec.execution_id.clone(), self.pod_name());
        let status =
            ContainerStatus { name: "script".to_owned(), ready: true, restart_count: 0, state: "running".to_owned() };
        let running = PodRunning { execution_id, pod_name, container_statuses: vec![status] };
        vec![self.cause().derive(ordinal::POD_RUNNING, running)]
    }

    /// Records that the program runs.
    pub(crate) async fn append_started(&mut self, run: &Run, compile: Option<CompileResult>) -> Result<(), GivenUp> {
        let mut events = if self.has_sandbox { Vec::new() } else { self.sandbox_made() };
        self.has_sandbox = true;
        let started = ExecutionStarted {
            execution_id: self.spec.execution_id.clone(),
            pod_name: self.pod_name(),
            node_name: Some(self.lease.document.node.clone()),
            container_id: run.started().pid.map(|pid| pid.to_string()),
            compile,
            receipt: self.receipt.clone(),
        };
        events.push(self.cause().derive(ordinal::STARTED, started));
        self.append(events).await
    }
}
