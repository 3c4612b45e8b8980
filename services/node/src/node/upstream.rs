//! The gateway's way to the services: those of this process, and those of others.

use runmesh_proto::execution::execution_service_client::ExecutionServiceClient;
use runmesh_replay::Executions;
use runmesh_rpc::{
    RpcServer, Tls,
    client::{Credentials, Router, Upstream},
};

use crate::{Config, ConfigError, Role, Roles, config};

/// The way to the execution service, as [`router`] has it. `None`: this process knows of none.
pub(super) fn executions(
    config: &Config,
    roles: &Roles,
    server: &RpcServer,
    tls: Option<&Tls>,
) -> Result<Option<Executions>, ConfigError> {
    let config::Upstreams { roles: of_roles, rest } = config::addresses(config)?;
    let named = of_roles.into_iter().find(|(named, _)| *named == Role::Execution).map(|(_, addresses)| addresses);
    let router = match named.or(rest) {
        Some(addresses) => {
            let settings = config.upstream.config(tls.cloned());
            Router::builder().rest(Upstream::new(Role::Execution.as_str(), &addresses, &settings))
        }
        None if roles.has(Role::Execution) => Router::builder().rest(server.local()),
        None => return Ok(None),
    };
    let credentials = Credentials::new(config.token().as_ref())
        .map_err(|status| ConfigError::Setting { key: "auth.token", reason: status.message().to_owned() })?;
    Ok(Some(ExecutionServiceClient::with_interceptor(router.build(), credentials)))
}

/// A transport to all services. A service is where `services` says; or else behind `gateway.upstream`; or else in this
/// process.
pub(super) fn router(
    config: &Config,
    roles: &Roles,
    server: &RpcServer,
    tls: Option<&Tls>,
) -> Result<Router, ConfigError> {
    let config::Upstreams { roles: of_roles, rest } = config::addresses(config)?;
    let settings = config.upstream.config(tls.cloned());
    let mut router = Router::builder();
    for role in Role::ALL {
        let named = of_roles.iter().find(|(named, _)| *named == role);
        let named = named.map(|(_, addresses)| Upstream::new(role.as_str(), addresses, &settings));
        for service in role.services() {
            router = match &named {
                Some(upstream) => router.route(service, upstream.clone()),
                None if rest.is_some() => router,
                None if roles.has(role) => router.route(service, server.local()),
                None if role == Role::Execution => {
                    let reason =
                        "services.execution or gateway.upstream is needed where the gateway runs without the role";
                    return Err(ConfigError::Setting { key: "services.execution", reason: reason.to_owned() });
                }
                None => {
                    let setting = role.setting();
                    tracing::info!(service, "has no address in services.{setting}; its calls are UNIMPLEMENTED");
                    router
                }
            };
        }
    }
    if let Some(addresses) = rest {
        router = router.rest(Upstream::new("upstream", &addresses, &settings));
    }
    Ok(router.build())
}
