//! The gateway's way to the services: those of this process, and those of others.

use runmesh_rpc::{
    RpcServer, Tls,
    client::{Router, Upstream},
};

use crate::{Config, ConfigError, Role, Roles, config};

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
