//! One execution is one trace, over gRPC and the bus.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::Span,
};
use runmesh_mesh_tests::{Mesh, Options, bash, eventually};
use runmesh_proto::execution::CreateExecutionRequest;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// What a client sends: the context of its own work.
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Keeps the spans that it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let spans = resources.into_iter().flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test]
async fn one_execution_is_one_trace_that_the_client_began() {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("telemetry.otlp_endpoint=http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(
        Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let mut mesh = Mesh::start_with(Options::set([endpoint.as_str()])).await.unwrap();
    let client = mesh.client().await.unwrap();
    let mut request = Request::new(CreateExecutionRequest { request_id: String::new(), spec: Some(bash("echo hi")) });
    request.metadata_mut().insert("traceparent", TRACEPARENT.parse().unwrap());
    let created = client.executions.clone().create_execution(request).await.unwrap().into_inner();
    let execution_id = created.execution.unwrap().execution_id;
    let transcript = client.follow(&execution_id).await.unwrap();
    // A group that has not begun with the last event by then would not be in the trace.
    eventually("a result", async || Ok(client.result(&execution_id).await.ok())).await.unwrap();
    // The last spans are sent at the end.
    mesh.stop().await.unwrap();
    serving.abort();

    let spans = collector.0.lock().unwrap().clone();
    let trace: Vec<&Span> = spans
        .iter()
        .filter(|span| span.trace_id == 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes())
        .collect();
    let groups: BTreeSet<String> = trace
        .iter()
        .flat_map(|span| &span.attributes)
        .filter(|attribute| attribute.key == "group")
        .filter_map(|attribute| Some(format!("{:?}", attribute.value.as_ref()?.value.as_ref()?)))
        .collect();
    for group in ["execution-coordinator", "saga-orchestrator", "scheduler", "runner", "result-processor"] {
        assert!(groups.iter().any(|found| found.contains(group)), "{group} is not in the trace: {groups:?}");
    }
    // Every span hangs on the client's or on another of the trace: the chain is never cut.
    let mut known: HashSet<Vec<u8>> = trace.iter().map(|span| span.span_id.clone()).collect();
    known.insert(0x00f0_67aa_0ba9_02b7_u64.to_be_bytes().to_vec());
    for span in &trace {
        assert!(known.contains(&span.parent_span_id), "{} hangs on nothing", span.name);
    }
    // The events carry it too, for consumers of their own.
    for event in transcript.events() {
        assert!(event.traceparent.contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{}", event.traceparent);
    }
}
