//! Keeps web pages of other sites away from a gateway that needs no token.
//!
//! A page may not read the answers of another origin, but a browser sends some requests all the same, and a page whose DNS
//! name is made to point to this machine has the same origin. On a developer's laptop either could run scripts.

use http::{HeaderMap, Method, StatusCode, Uri, header::HOST, header::ORIGIN};

use crate::{config::GatewayConfig, problem::Problem};

/// Refuses requests that a page of a foreign site could have caused.
pub(crate) fn check(config: &GatewayConfig, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    // What is not text is some name, but none that is served.
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    // HTTP/2 has the host in the target.
    let host = text(HOST).or_else(|| uri.authority().map(|authority| authority.as_str()));
    if let Some(host) = host
        && config.token.is_none()
        && !is_known_host(config, host)
    {
        let detail = "this host name is not served without a token; see allowed_hosts";
        return Err(Problem::http(StatusCode::FORBIDDEN, "HOST_NOT_ALLOWED", detail));
    }
    let Some(origin) = text(ORIGIN) else { return Ok(()) };
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let own = origin.split_once("://").map(|(_, rest)| rest) == host;
    if own || config.cors_origins.iter().any(|allowed| allowed == "*" || allowed == origin) {
        return Ok(());
    }
    Err(Problem::http(
        StatusCode::FORBIDDEN,
        "ORIGIN_NOT_ALLOWED",
        "pages of this origin may not call; see cors_origins",
    ))
}

fn is_known_host(config: &GatewayConfig, host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        // The last colon of `[::1]` belongs to the address.
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let name = name.trim_end_matches('.');
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    // An address can't be made to point elsewhere; only names can.
    address.is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || config.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use runmesh_rpc::Secret;

    use super::*;

    fn allowed(config: &GatewayConfig, method: Method, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        check(config, &method, &Uri::from_static("/"), &headers).is_ok()
    }

    #[test]
    fn without_a_token_only_loopback_names_addresses_and_allowed_hosts_are_served() {
        let mut config = GatewayConfig { allowed_hosts: vec!["mesh.example".to_owned()], ..Default::default() };
        for host in ["localhost:8080", "127.0.0.1", "127.0.0.1:1", "[::1]:8080", "[::1]", "mesh.example:1"] {
            assert!(allowed(&config, Method::GET, host, None), "{host}");
        }
        assert!(!allowed(&config, Method::GET, "evil.example:8080", None));
        config.token = Some(Secret::new("s3cret"));
        assert!(allowed(&config, Method::GET, "evil.example:8080", None));
    }

    #[test]
    fn changes_come_from_the_own_or_an_allowed_origin() {
        let mut config = GatewayConfig::default();
        let host = "localhost:8080";
        assert!(allowed(&config, Method::POST, host, None));
        assert!(allowed(&config, Method::POST, host, Some("http://localhost:8080")));
        assert!(!allowed(&config, Method::POST, host, Some("http://localhost:9")));
        assert!(!allowed(&config, Method::POST, host, Some("null")));
        assert!(allowed(&config, Method::GET, host, Some("https://app.example")));
        config.cors_origins = vec!["https://app.example".to_owned()];
        assert!(allowed(&config, Method::DELETE, host, Some("https://app.example")));
    }
}
