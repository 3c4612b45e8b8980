//! What every method of the contract says about itself.

use anyhow::{Context as _, ensure};
use prost_reflect::MethodDescriptor;

fn methods() -> impl Iterator<Item = MethodDescriptor> {
    let services: Vec<_> = runmesh_proto::descriptors().services().collect();
    services
        .into_iter()
        .filter(|service| service.package_name().starts_with("runmesh."))
        .flat_map(|service| service.methods().collect::<Vec<_>>())
}

#[test]
fn every_method_says_who_may_call_it() -> anyhow::Result<()> {
    let access =
        runmesh_proto::descriptors().get_extension_by_name("runmesh.api.v1.access").context("no option access")?;
    ensure!(methods().count() >= 12, "the methods were not found");
    for method in methods() {
        let value = method.options().get_extension(&access).as_enum_number();
        ensure!(value.is_some_and(|value| value > 0), "{} has no access", method.full_name());
    }
    Ok(())
}

#[test]
fn every_public_method_has_a_route_and_every_stream_of_events_says_how_it_resumes() -> anyhow::Result<()> {
    let pool = runmesh_proto::descriptors();
    let access = pool.get_extension_by_name("runmesh.api.v1.access").context("no option access")?;
    let http = pool.get_extension_by_name("google.api.http").context("no option http")?;
    let sse = pool.get_extension_by_name("runmesh.api.v1.sse").context("no option sse")?;
    let internal = pool
        .get_enum_by_name("runmesh.api.v1.Access")
        .and_then(|access| access.get_value_by_name("ACCESS_INTERNAL"))
        .context("no ACCESS_INTERNAL")?;
    for method in methods() {
        let options = method.options();
        if options.get_extension(&access).as_enum_number() == Some(internal.number()) {
            continue;
        }
        ensure!(options.has_extension(&http), "{} has no route", method.full_name());
        // A file has no place to say where it would go on.
        if !method.is_server_streaming() || method.output().full_name() == "google.api.HttpBody" {
            continue;
        }
        ensure!(options.has_extension(&sse), "{} does not say how it resumes", method.full_name());
        let sse = options.get_extension(&sse);
        let sse = sse.as_message().context("sse is a message")?;
        let text = |name: &str| sse.get_field_by_name(name).and_then(|value| value.as_str().map(str::to_owned));
        let field = |name| text(name).with_context(|| format!("{} has no {name}", method.full_name()));
        let (request, response) = (method.input(), method.output());
        ensure!(request.get_field_by_name(&field("cursor_field")?).is_some(), "{}", method.full_name());
        ensure!(response.get_field_by_name(&field("id_field")?).is_some(), "{}", method.full_name());
        let oneof = field("event_oneof")?;
        let oneof = response.oneofs().find(|one| one.name() == oneof).context("event_oneof is no oneof")?;
        let end = field("end_field")?;
        // What has no end of its own goes on until its caller goes, or fails.
        let endless = end.is_empty();
        ensure!(
            endless || oneof.fields().any(|one| one.name() == end),
            "{}: {end} is not in the oneof",
            method.full_name()
        );
    }
    Ok(())
}
