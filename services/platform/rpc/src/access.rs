//! Who may call which method, from the option `(runmesh.api.v1.access)` beside its definition.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::{Arc, LazyLock},
    task::{Context, Poll},
};

use futures::future::Either;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use prost_reflect::Value;
use runmesh_proto::api::Access;
use subtle::ConstantTimeEq as _;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::status;

/// A text that must not be seen: it does not print itself, and is compared in constant time.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// A secret of this text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Whether `candidate` is the secret. Takes the same time wherever they differ.
    pub fn matches(&self, candidate: &str) -> bool {
        self.0.as_bytes().ct_eq(candidate.as_bytes()).into()
    }

    /// The text, for those who must send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Who makes a call. A request extension of every call that was let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The user. Empty while accounts are not in use.
    pub user_id: String,
}

/// Who made the call.
pub fn caller_of<T>(request: &tonic::Request<T>) -> Caller {
    request.extensions().get::<Caller>().cloned().unwrap_or_default()
}

/// Decides on calls.
#[derive(Debug, Clone, Default)]
pub struct AccessPolicy {
    /// What a caller must send as `authorization: Bearer …`, except to public methods. `None`: everyone may call
    /// everything, which the node allows on loopback only.
    pub token: Option<Secret>,
}

/// The rule of each method, by its path `/package.Service/Method`.
static RULES: LazyLock<HashMap<String, Access>> = LazyLock::new(read_rules);

fn read_rules() -> HashMap<String, Access> {
    let pool = runmesh_proto::descriptors();
    let Some(option) = pool.get_extension_by_name("runmesh.api.v1.access") else {
        // Without the option no method has a rule, so none can be called.
        return HashMap::new();
    };
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    methods
        .filter_map(|method| {
            let options = method.options();
            let Value::EnumNumber(number) = *options.get_extension(&option) else { return None };
            let access = Access::try_from(number).ok().filter(|access| *access != Access::Unspecified)?;
            Some((format!("/{}/{}", method.parent_service().full_name(), method.name()), access))
        })
        .collect()
}

/// Services that anyone may call: they say what the server is and how it is, and nothing of what it holds.
pub(crate) fn is_exempt(path: &str) -> bool {
    path.starts_with("/grpc.health.v1.Health/") || path.starts_with("/grpc.reflection.")
}

impl AccessPolicy {
    /// Decides on a call of `path` (`/package.Service/Method`) with these headers (for a call over HTTP: the same ones).
    ///
    /// # Errors
    ///
    /// UNIMPLEMENTED when the method is unknown or has no access option; UNAUTHENTICATED when the token is missing or
    /// wrong.
    pub fn check(&self, path: &str, headers: &HeaderMap) -> Result<Caller, Status> {
        if is_exempt(path) {
            return Ok(Caller::default());
        }
        let Some(access) = RULES.get(path) else {
            return Err(status::unimplemented(
                "there is no such method, or its definition does not say who may call it",
            ));
        };
        match access {
            Access::Public => Ok(Caller::default()),
            _ => self.check_token(headers),
        }
    }

    /// Decides on what is no method but needs the same credentials.
    ///
    /// # Errors
    ///
    /// UNAUTHENTICATED when the token is missing or wrong.
    pub fn check_token(&self, headers: &HeaderMap) -> Result<Caller, Status> {
        let Some(token) = &self.token else { return Ok(Caller::default()) };
        let Some(header) = headers.get(AUTHORIZATION) else {
            return Err(status::unauthenticated("send the token as `authorization: Bearer …`"));
        };
        let given = header.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        match given {
            Some(given) if token.matches(given) => Ok(Caller::default()),
            Some(_) => Err(status::unauthenticated("the bearer token is not valid")),
            None => Err(status::unauthenticated("the header authorization is not of the form `Bearer …`")),
        }
    }
}

/// Lets calls through that an [`AccessPolicy`] allows.
#[derive(Debug, Clone)]
pub(crate) struct AccessLayer(pub(crate) Arc<AccessPolicy>);

impl<S> Layer<S> for AccessLayer {
    type Service = AccessService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessService { inner, policy: self.0.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct AccessService<S> {
    inner: S,
    policy: Arc<AccessPolicy>,
}

impl<S> Service<Request<Body>> for AccessService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.policy.check(request.uri().path(), request.headers()) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const CREATE: &str = "/runmesh.execution.v1.ExecutionService/CreateExecution";
    const RUNTIMES: &str = "/runmesh.execution.v1.ExecutionService/ListRuntimes";

    fn code(policy: &AccessPolicy, path: &str, authorization: Option<&str>) -> Option<Code> {
        let headers = authorization.map(|text| (AUTHORIZATION, text.parse().unwrap())).into_iter().collect();
        policy.check(path, &headers).err().map(|status| status.code())
    }

    #[test]
    fn without_a_token_every_method_is_open_but_none_without_a_rule() {
        let open = AccessPolicy::default();
        assert_eq!(code(&open, CREATE, None), None);
        assert_eq!(code(&open, "/runmesh.execution.v1.ExecutionService/Nothing", None), Some(Code::Unimplemented));
        assert_eq!(code(&open, "/grpc.health.v1.Health/Check", None), None);
    }

    #[test]
    fn with_a_token_only_public_methods_health_and_reflection_are_open() {
        let policy = AccessPolicy { token: Some(Secret::new("s3cret")) };
        for refused in [None, Some("Bearer wrong"), Some("Bearer "), Some("Basic s3cret"), Some("s3cret")] {
            assert_eq!(code(&policy, CREATE, refused), Some(Code::Unauthenticated), "{refused:?}");
        }
        assert_eq!(code(&policy, CREATE, Some("Bearer s3cret")), None);
        assert_eq!(code(&policy, CREATE, Some("bearer s3cret")), None);
        assert_eq!(code(&policy, RUNTIMES, None), None);
        assert_eq!(code(&policy, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", None), None);
    }

    #[test]
    fn every_method_of_the_contract_has_a_rule() {
        for service in runmesh_proto::descriptors().services() {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                assert!(RULES.contains_key(&path), "{path} has no (runmesh.api.v1.access)");
            }
        }
    }

    #[test]
    fn a_secret_does_not_print_itself() {
        assert_eq!(format!("{:?}", AccessPolicy { token: Some(Secret::new("s3cret")) }).find("s3cret"), None);
    }
}
