//! A DeadLetterService that answers what the test says and keeps what it was asked, and the command line to ask it.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::Path,
    process::{Output, Stdio},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use prost_reflect::DynamicMessage;
use runmesh_gateway::DynamicCodec;
use runmesh_proto::dlq::dead_letter_service_server::SERVICE_NAME;
use runmesh_rpc::{RpcServer, ServerConfig, status};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpListener,
    process::Command,
    task::JoinHandle,
};
use tonic::{Response, Status, body::Body, server::NamedService};
use tower::Service;

const PATIENCE: Duration = Duration::from_secs(60);

/// Messages, and what follows them.
type Answer = (Vec<Value>, Then);

/// What follows the messages of an answer.
enum Then {
    End,
    Error(Status),
    Silence,
}

#[derive(Default)]
struct Script {
    answers: HashMap<String, Vec<Answer>>,
    calls: Vec<(String, Value)>,
}

/// The service.
#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

impl NamedService for Scripted {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for Scripted {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let script = self.0.clone();
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let service = runmesh_proto::descriptors().get_service_by_name(SERVICE_NAME).unwrap();
        let descriptor = service.methods().find(|known| known.name() == method).unwrap();
        async move {
            let codec = DynamicCodec::new(descriptor.input());
            let answer = tower::service_fn(move |request: tonic::Request<DynamicMessage>| {
                let answer = script.lock().unwrap().answer(&method, request.get_ref());
                let output = descriptor.output();
                async move {
                    let (messages, then) = answer?;
                    let messages = messages.into_iter().map(move |json| {
                        Ok(DynamicMessage::deserialize(output.clone(), json).expect("the test's answer is a message"))
                    });
                    let rest = match then {
                        Then::End => stream::empty().boxed(),
                        Then::Error(status) => stream::iter([Err(status)]).boxed(),
                        Then::Silence => stream::pending().boxed(),
                    };
                    Ok::<_, Status>(Response::new(stream::iter(messages).chain(rest)))
                }
            });
            // To the wire, one message is a stream of one.
            Ok(tonic::server::Grpc::new(codec).server_streaming(answer, request).await)
        }
        .boxed()
    }
}

impl Script {
    fn answer(&mut self, method: &str, request: &DynamicMessage) -> Result<Answer, Status> {
        self.calls.push((method.to_owned(), serde_json::to_value(request).unwrap()));
        let answers = self.answers.get_mut(method).filter(|answers| !answers.is_empty());
        let answer = answers.map(|answers| answers.remove(0));
        answer.ok_or_else(|| status::unimplemented(format!("the test has no more answers for {method}")))
    }
}

/// A server that runs, and a folder for the command.
pub(crate) struct Fake {
    script: Scripted,
    address: String,
    folder: TempDir,
    task: JoinHandle<std::io::Result<()>>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let script = Scripted::default();
        let server = RpcServer::builder(ServerConfig::default()).add_service(script.clone()).build();
        server.readiness().set_ready().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(server.serve(listener, std::future::pending(), Duration::ZERO));
        Self { script, address, folder: tempfile::tempdir().unwrap(), task }
    }

    /// The next answer to a method.
    pub(crate) fn answer(&self, method: &str, message: Value) {
        self.stream(method, [message], None);
    }

    /// The next answer to a method, with more than one message, or an error after them.
    pub(crate) fn stream(&self, method: &str, messages: impl Into<Vec<Value>>, error: Option<Status>) {
        self.push(method, (messages.into(), error.map_or(Then::End, Then::Error)));
    }

    /// The next answer to a method, which does not end after these messages.
    pub(crate) fn silence_after(&self, method: &str, messages: impl Into<Vec<Value>>) {
        self.push(method, (messages.into(), Then::Silence));
    }

    fn push(&self, method: &str, answer: Answer) {
        self.script.0.lock().unwrap().answers.entry(method.to_owned()).or_default().push(answer);
    }

    /// What a method was asked, in order.
    pub(crate) fn asked(&self, method: &str) -> Vec<Value> {
        let script = self.script.0.lock().unwrap();
        script.calls.iter().filter(|(name, _)| name == method).map(|(_, request)| request.clone()).collect()
    }

    /// Runs `runmesh dlq`, as the user `tester`.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, &[("USER", "tester")], "").await
    }

    /// Runs `runmesh dlq` with these variables, and this text on its standard input.
    pub(crate) async fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Ran {
        let stdin = self.path().join("stdin");
        std::fs::write(&stdin, input).unwrap();
        let mut command = self.command(arguments, variables);
        let output = command.stdin(Stdio::from(std::fs::File::open(&stdin).unwrap())).output();
        Ran::of(&tokio::time::timeout(PATIENCE, output).await.expect("it did not end").unwrap())
    }

    /// Runs `runmesh dlq` until it has said something on standard error, and then interrupts it.
    pub(crate) async fn interrupt(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments, &[("USER", "tester")]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let ran = async {
            let mut stderr = BufReader::new(child.stderr.take().unwrap());
            let mut said = String::new();
            stderr.read_line(&mut said).await.unwrap();
            let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
            stderr.read_to_string(&mut said).await.unwrap();
            Ran { stderr: said, ..Ran::of(&child.wait_with_output().await.unwrap()) }
        };
        tokio::time::timeout(PATIENCE, ran).await.expect("it did not end")
    }

    fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runmesh"));
        command
            .arg("dlq")
            .args(arguments)
            .args(["--server", &self.address])
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("TMPDIR", self.folder.path())
            .envs(variables.iter().copied())
            .kill_on_drop(true);
        command
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// That it went well, and what it printed.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// That it went well, and its lines of JSON.
    pub(crate) fn lines(self) -> Vec<Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// That it failed, and what it said about it.
    pub(crate) fn failed(self) -> String {
        assert_eq!(self.code, Some(1), "{self:?}");
        self.stderr
    }
}
