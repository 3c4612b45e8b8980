//! The servers that many tests share.

pub(crate) mod commands;
pub(crate) mod session;
pub(crate) mod state;

use std::env;

use anyhow::{Context as _, bail};

use crate::{Kind, State};

/// Names a Kafka to be used instead of the test servers' own: its bootstrap addresses, `host:port,…`.
pub const KAFKA_VARIABLE: &str = "MESH_TEST_KAFKA";
/// Names a real MongoDB to be used instead of FerretDB: its URI, `mongodb://…`.
pub const MONGODB_VARIABLE: &str = "MESH_TEST_MONGODB";

/// The addresses of the shared servers.
///
/// Many tests use them at the same time and one after the other: each has to use names of its own (of databases, groups,
/// keys), and must not stop them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Where Kafka's clients start: `host:port,…`.
    pub kafka_bootstrap: String,
    /// What a MongoDB client connects to: `mongodb://…`.
    pub mongodb_uri: String,
}

impl Shared {
    /// Those of the environment, else those that `cargo xtask servers up` has started, each on its own.
    ///
    /// # Errors
    /// When there is neither, or it does not run; the error says what to do.
    pub fn find() -> anyhow::Result<Self> {
        Ok(Self { kafka_bootstrap: Self::kafka()?, mongodb_uri: Self::mongodb()? })
    }

    /// The bootstrap addresses of Kafka alone, for tests that need nothing else.
    ///
    /// # Errors
    /// As [`Shared::find`].
    pub fn kafka() -> anyhow::Result<String> {
        address(Kind::Kafka)
    }

    /// The URI of the MongoDB-protocol server alone, for tests that need nothing else.
    ///
    /// # Errors
    /// As [`Shared::find`].
    pub fn mongodb() -> anyhow::Result<String> {
        address(Kind::MongoDb)
    }
}

fn address(kind: Kind) -> anyhow::Result<String> {
    if let Some(named) = named(kind)? {
        return Ok(named);
    }
    let state = State::read(&crate::folder())?;
    let server = state.get(kind).with_context(|| format!("{kind} was not started: run `cargo xtask servers up`"))?;
    if !server.serves() {
        bail!("{kind} does not run any more (it was at {}): run `cargo xtask servers up`", server.address);
    }
    Ok(server.uri.clone())
}

/// The server of this kind that the environment names, if it does.
pub(crate) fn named(kind: Kind) -> anyhow::Result<Option<String>> {
    let variable = match kind {
        Kind::Kafka => KAFKA_VARIABLE,
        Kind::MongoDb => MONGODB_VARIABLE,
    };
    let value = match env::var(variable) {
        Ok(value) => value,
        Err(env::VarError::NotPresent) => return Ok(None),
        Err(error) => return Err(error).context(variable),
    };
    match kind {
        _ if value.is_empty() => Ok(None),
        Kind::Kafka if value.contains("://") => bail!("{variable} has to be host:port,…, without a scheme: {value}"),
        Kind::MongoDb if !value.starts_with("mongodb://") && !value.starts_with("mongodb+srv://") => {
            // Not shown: it may have a password.
            bail!("{variable} has to start with mongodb:// or mongodb+srv://")
        }
        Kind::Kafka | Kind::MongoDb => Ok(Some(value)),
    }
}
