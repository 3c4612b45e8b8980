//! `runmesh call`: any method, by its descriptor.

use std::process::ExitCode;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use http::uri::PathAndQuery;
use prost_reflect::DynamicMessage;
use runmesh_gateway::DynamicCodec;
use tonic::{Request, service::Interceptor as _};

use super::{connect, print};
use crate::cli::CallArgs;

pub(super) async fn call(args: CallArgs) -> anyhow::Result<ExitCode> {
    let (service, method) =
        args.method.split_once('/').with_context(|| format!("{:?} is not of the form SERVICE/METHOD", args.method))?;
    let service = runmesh_proto::descriptors()
        .get_service_by_name(service)
        .with_context(|| format!("there is no service {service:?}"))?;
    let method = service
        .methods()
        .find(|known| known.name() == method)
        .with_context(|| format!("{} has no method {method:?}", service.full_name()))?;
    if method.is_client_streaming() {
        anyhow::bail!("{} takes a stream of requests, which this command can't send", method.full_name());
    }
    let mut json = serde_json::Deserializer::from_str(&args.request);
    let request = DynamicMessage::deserialize(method.input(), &mut json)
        .and_then(|message| json.end().map(|()| message))
        .with_context(|| format!("the request is not a {}", method.input().full_name()))?;

    let (channel, mut credentials) = connect(&args.server).await?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.context("the node went away")?;
    let path = PathAndQuery::try_from(format!("/{}/{}", service.full_name(), method.name()))?;
    let codec = DynamicCodec::new(method.output());
    let (metadata, extensions, ()) =
        credentials.call(Request::new(())).map_err(|status| print::error(&status))?.into_parts();
    let request = Request::from_parts(metadata, extensions, request);
    if method.is_server_streaming() {
        let response = client.server_streaming(request, path, codec).await.map_err(|status| print::error(&status))?;
        let mut messages = response.into_inner();
        while let Some(message) = messages.try_next().await.map_err(|status| print::error(&status))? {
            print::line(print::json(&message)?)?;
        }
    } else {
        let response = client.unary(request, path, codec).await.map_err(|status| print::error(&status))?;
        print::line(print::json(response.get_ref())?)?;
    }
    Ok(ExitCode::SUCCESS)
}
