//! From files to configurations of rustls.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    ClientConfig, Error, RootCertStore, ServerConfig,
    client::WebPkiServerVerifier,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::WebPkiClientVerifier,
};

use super::{ClientAuth, IdentityFiles, TlsError, TlsFiles};

const CA: &str = "the CA's certificate";
const CERTIFICATE: &str = "the certificate";
const KEY: &str = "the key";

/// gRPC is HTTP/2, and clients insist on its being negotiated.
const HTTP_2: &[u8] = b"h2";

/// By what a change of the files is seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<(SystemTime, u64)>>);

impl Stamp {
    pub(super) fn of(files: &TlsFiles) -> Self {
        let identity = files.identity.iter().flat_map(|identity| [&identity.certificate, &identity.key]);
        let of_file = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        Self([&files.ca].into_iter().chain(identity).map(of_file).collect())
    }
}

/// What the files come to.
pub(super) struct Loaded {
    /// `None`: there is no certificate.
    pub(super) server: Option<Arc<ServerConfig>>,
    pub(super) client: Arc<ClientConfig>,
}

impl Loaded {
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots(&files.ca)?);
        let identity = files.identity.as_ref().map(Identity::read).transpose()?;
        let server =
            identity.as_ref().map(|identity| server(&provider, &roots, identity, files)).transpose()?.map(Arc::new);
        let client = Arc::new(client(&provider, &roots, identity.as_ref(), files)?);
        Ok(Self { server, client })
    }
}

struct Identity<'a> {
    files: &'a IdentityFiles,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl<'a> Identity<'a> {
    fn read(files: &'a IdentityFiles) -> Result<Self, TlsError> {
        let chain = certificates(CERTIFICATE, &files.certificate)?;
        let bytes = read(KEY, &files.key)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound => content(KEY, &files.key, "has no private key in it"),
            error => content(KEY, &files.key, error.to_string()),
        })?;
        Ok(Self { files, chain, key })
    }

    /// What rustls has against the pair, in terms of its files.
    fn refused(&self, error: Error) -> TlsError {
        match error {
            Error::InconsistentKeys(_) => {
                let reason = format!("is not the key of the certificate {}", self.files.certificate.display());
                content(KEY, &self.files.key, reason)
            }
            Error::InvalidCertificate(error) => {
                content(CERTIFICATE, &self.files.certificate, format!("is not usable: {error}"))
            }
            error => content(KEY, &self.files.key, format!("is not usable: {error}")),
        }
    }
}

fn server(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    identity: &Identity<'_>,
    files: &TlsFiles,
) -> Result<ServerConfig, TlsError> {
    let verifier = || WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
    let verifier = match files.client_auth {
        ClientAuth::None => Ok(WebPkiClientVerifier::no_client_auth()),
        ClientAuth::Optional => verifier().allow_unauthenticated().build(),
        ClientAuth::Require => verifier().build(),
    };
    let verifier = verifier.map_err(|error| content(CA, &files.ca, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| identity.refused(error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| identity.refused(error))?;
    config.alpn_protocols = vec![HTTP_2.to_vec()];
    Ok(config)
}

fn client(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    identity: Option<&Identity<'_>>,
    files: &TlsFiles,
) -> Result<ClientConfig, TlsError> {
    let refused = |error: Error| match identity {
        Some(identity) => identity.refused(error),
        None => content(CA, &files.ca, error.to_string()),
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .build()
        .map_err(|error| content(CA, &files.ca, error.to_string()))?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_webpki_verifier(verifier);
    let mut config = match identity {
        Some(identity) => {
            builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key()).map_err(refused)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![HTTP_2.to_vec()];
    Ok(config)
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CA, path)? {
        roots.add(certificate).map_err(|error| content(CA, path, format!("is not usable: {error}")))?;
    }
    Ok(roots)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(what, path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| content(what, path, error.to_string()))?;
    if chain.is_empty() {
        return Err(content(what, path, "has no certificate in it"));
    }
    Ok(chain)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { what, path: path.to_owned(), source })
}

fn content(what: &'static str, path: &Path, reason: impl Into<String>) -> TlsError {
    TlsError::Content { what, path: path.to_owned(), reason: reason.into() }
}
