//! What a client adds to each of its calls.

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

use crate::{Secret, trace};

/// An interceptor that sends the bearer token and the trace context of the current span.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    authorization: Option<MetadataValue<Ascii>>,
}

impl Credentials {
    /// Sends this token. `None`: sends none.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT when the token has characters that a header can't carry.
    pub fn new(token: Option<&Secret>) -> Result<Self, Status> {
        let authorization = token
            .map(|token| {
                let mut value = MetadataValue::try_from(format!("Bearer {}", token.expose())).map_err(|_| {
                    crate::status::invalid_argument("token", "has characters that a header can't carry")
                })?;
                value.set_sensitive(true);
                Ok::<_, Status>(value)
            })
            .transpose()?;
        Ok(Self { authorization })
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        if let Some(trace) = trace::of_current_span() {
            trace::inject(&trace, request.metadata_mut().as_mut());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_sent_and_never_printed() {
        let mut credentials = Credentials::new(Some(&Secret::new("s3cret"))).unwrap();
        assert!(!format!("{credentials:?}").contains("s3cret"));
        let request = credentials.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer s3cret");
        assert!(Credentials::new(Some(&Secret::new("a\nb"))).is_err());
    }
}
