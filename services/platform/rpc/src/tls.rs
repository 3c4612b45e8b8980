//! TLS for servers and channels: one certificate for both, read from files, and again when they change.

mod files;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ServerConfig};

use self::files::{Loaded, Stamp};

/// How often the files are looked at, at most. They are looked at when a connection is made.
const RECHECK: Duration = Duration::from_secs(10);

/// Whether a server wants its clients to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// A client without a certificate of the CA is refused.
    #[default]
    Require,
    /// A certificate is checked where one is shown.
    Optional,
    /// None is asked for.
    None,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate and those between it and the CA (PEM).
    pub certificate: PathBuf,
    /// The certificate's private key (PEM: PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

/// The files that TLS is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates of those who are trusted to sign (PEM).
    pub ca: PathBuf,
    /// The own certificate. A server needs one; a client needs one where the server asks for it.
    pub identity: Option<IdentityFiles>,
    /// What the server asks of its clients.
    pub client_auth: ClientAuth,
}

/// Why TLS can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read {what} {path}: {source}", path = path.display())]
    Read {
        /// What the file is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{what} {path}: {reason}", path = path.display())]
    Content {
        /// What the file is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A server was asked for, and there is no certificate.
    #[error("a server needs a certificate and its key")]
    NoIdentity,
}

/// TLS by files. Cheap to clone; clones share what was read.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    files: TlsFiles,
    recheck: Duration,
    state: Mutex<State>,
}

struct State {
    loaded: Loaded,
    /// Of the files when they were read.
    stamp: Stamp,
    checked: Instant,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.0.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// When a file is missing, is not PEM of the right kind, or the key is not the certificate's.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        Self::load_rechecked(files, RECHECK)
    }

    /// As [`Tls::load`], with another bound on how often the files are looked at.
    ///
    /// # Errors
    ///
    /// As [`Tls::load`].
    pub fn load_rechecked(files: TlsFiles, recheck: Duration) -> Result<Self, TlsError> {
        // The stamp comes first: what changes in between is read again.
        let stamp = Stamp::of(&files);
        let loaded = Loaded::read(&files)?;
        let state = State { loaded, stamp, checked: Instant::now() };
        Ok(Self(Arc::new(Inner { files, recheck, state: Mutex::new(state) })))
    }

    /// Whether a client without a certificate is refused.
    pub fn requires_client_certificate(&self) -> bool {
        self.0.files.client_auth == ClientAuth::Require
    }

    /// The configuration of a server's next connection.
    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.current(|loaded| loaded.server.clone()).ok_or(TlsError::NoIdentity)
    }

    /// The configuration of a channel's next connection.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.current(|loaded| Arc::clone(&loaded.client))
    }

    /// Reads the files again where they have changed. What can't be used leaves the old ones in use: certificate and key
    /// are two files, so for a moment they need not fit.
    fn current<T>(&self, take: impl FnOnce(&Loaded) -> T) -> T {
        let Inner { files, recheck, state } = &*self.0;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.checked.elapsed() >= *recheck {
            state.checked = Instant::now();
            let stamp = Stamp::of(files);
            if stamp != state.stamp {
                match Loaded::read(files) {
                    Ok(loaded) => {
                        tracing::info!(ca = %files.ca.display(), "certificates were read again");
                        state.loaded = loaded;
                        state.stamp = stamp;
                    }
                    Err(error) => tracing::warn!(%error, "new certificates can't be used; the old ones stay"),
                }
            }
        }
        take(&state.loaded)
    }
}
