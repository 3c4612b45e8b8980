//! The first contact with the cluster: what it has, or why it can't be reached.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::KafkaError,
    metadata::Metadata,
    types::RDKafkaErrorCode as Code,
};

use super::{KafkaConfig, error, logs};
use crate::BusError;

/// How long an attempt lasts before what went wrong meanwhile is looked at.
const ATTEMPT: Duration = Duration::from_millis(250);

/// How long brokers may refuse this process before it believes them: another of them may let it in.
const REFUSED: Duration = Duration::from_secs(2);

/// All topics of the cluster. Blocks, until there is an answer or `request_timeout` has passed.
///
/// # Errors
/// [`BusError::Backend`] when the brokers do not accept this process, or it does not accept them: that does not change by
/// itself, other than a cluster that is away.
pub(super) fn metadata(config: &KafkaConfig) -> Result<Metadata, BusError> {
    let client: BaseConsumer<Troubles> =
        config.client().create_with_context(Troubles::default()).map_err(|error| error::of("client", &error))?;
    let since = Instant::now();
    loop {
        // All topics at once: to ask for one that is missing could make it.
        let found = client.fetch_metadata(None, ATTEMPT);
        let error = match found {
            Ok(metadata) => return Ok(metadata),
            Err(error) => error,
        };
        // Troubles are told to who polls.
        let _ = client.poll(Duration::ZERO);
        let troubles = client.context().lock();
        let refused = troubles.refused.as_ref().filter(|_| since.elapsed() >= REFUSED);
        if let Some(reason) = refused {
            return Err(BusError::Backend(format!("the brokers at {} can't be used: {reason}", config.brokers)));
        }
        if since.elapsed() >= config.request_timeout {
            return Err(match &troubles.last {
                Some(reason) => BusError::Unavailable(format!("no broker answers at {}: {reason}", config.brokers)),
                None => error::of("topics", &error),
            });
        }
    }
}

/// Asks again, until `request_timeout` has passed, what the cluster can't answer for the moment: coordinators of groups
/// move, and on a new cluster they have to come into being first. Blocks.
pub(super) fn patiently<T>(config: &KafkaConfig, ask: impl Fn() -> Result<T, BusError>) -> Result<T, BusError> {
    let since = Instant::now();
    loop {
        match ask() {
            Err(error) if error.is_transient() && since.elapsed() + ATTEMPT < config.request_timeout => {
                tracing::debug!(%error, "asking again");
                thread::sleep(ATTEMPT);
            }
            answer => return answer,
        }
    }
}

/// What went wrong so far.
#[derive(Debug, Default)]
struct Troubles(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    last: Option<String>,
    /// Why a broker did not let this process in, or the other way round.
    refused: Option<String>,
}

impl Troubles {
    fn lock(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Troubles {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        logs::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        logs::failed(&error, reason);
        let mut found = self.lock();
        match error.rdkafka_error_code() {
            // It adds nothing to what was said of each.
            Some(Code::AllBrokersDown) if found.last.is_some() => {}
            code => {
                let refusals = [Code::Authentication, Code::SaslAuthenticationFailed, Code::SSL];
                // With TLS 1.3 a broker refuses a certificate, or the lack of one, when the client thinks that it is in.
                if code.is_some_and(|code| refusals.contains(&code)) || reason.contains("SSL alert") {
                    found.refused = Some(reason.to_owned());
                }
                found.last = Some(reason.to_owned());
            }
        }
    }
}

impl ConsumerContext for Troubles {}
