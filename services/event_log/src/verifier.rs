//! A verification as a whole: the parts in their order, and the ledger.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_stream::try_stream;
use futures::Stream;
use runmesh_bus::{Bus, DeadLetter, GroupTable, KnownGroup};
use runmesh_events::{Catalog, Event, to_duration, to_timestamp};
use runmesh_proto::event_log::{Ledger, VerifyResponse, verify_response::Item};
use runmesh_store::{DocumentStore, Documents, EventStore, StoreError};
use tokio::sync::mpsc;

use crate::{VerifyError, cut::Cut, ends::time_of, groups::Groups, logs, report::Report, topic};

/// The cursor of the last message.
pub(crate) const END: &str = "end";

/// How many messages wait for the reader.
const MESSAGES: usize = 64;

/// What a verification compares.
#[derive(Clone)]
pub struct Dependencies {
    /// The event store.
    pub store: Arc<dyn EventStore>,
    /// The document store, which has the dead letters.
    pub documents: Arc<dyn DocumentStore>,
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// The consumer groups of the mesh.
    pub groups: Arc<dyn GroupTable>,
}

/// What a verification looks at.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Only events recorded at this time or later. `None`: all.
    pub since: Option<SystemTime>,
    /// How long what is on its way may take before it is reported.
    pub patience: Duration,
    /// The greatest number of findings of each kind that are told one by one.
    pub max_findings: usize,
}

impl Default for VerifyOptions {
    /// All events, a patience of a minute, 100 findings of each kind.
    fn default() -> Self {
        Self { since: None, patience: Duration::from_secs(60), max_findings: 100 }
    }
}

/// Compares what is stored with what is on the topics and with what the groups have done. Clones share everything.
#[derive(Clone)]
pub struct Verifier {
    pub(crate) dependencies: Dependencies,
    pub(crate) letters: Documents<DeadLetter>,
}

impl Verifier {
    /// A verifier of these.
    ///
    /// # Errors
    /// When the collection of dead letters can't be made.
    pub async fn build(dependencies: Dependencies) -> Result<Self, StoreError> {
        let letters = Documents::open(Arc::clone(&dependencies.documents)).await?;
        Ok(Self { dependencies, letters })
    }

    /// Verifies: progress and findings as they come, last the ledger, which has a cursor. The stream can be dropped at any
    /// time.
    pub fn verify(
        &self,
        options: VerifyOptions,
    ) -> impl Stream<Item = Result<VerifyResponse, VerifyError>> + Send + use<> {
        let verifier = self.clone();
        try_stream! {
            let (sender, mut messages) = mpsc::channel(MESSAGES);
            let mut work = pin!(verifier.run(options, sender));
            let ledger = loop {
                let step = tokio::select! {
                    biased;
                    Some(message) = messages.recv() => Step::Message(message),
                    ledger = &mut work => Step::End(ledger.map(Box::new)),
                };
                match step {
                    Step::Message(message) => yield message,
                    Step::End(ledger) => break *ledger?,
                }
            };
            while let Ok(message) = messages.try_recv() {
                yield message;
            }
            yield VerifyResponse { cursor: END.to_owned(), item: Some(Item::End(ledger)) };
        }
    }

    async fn run(self, options: VerifyOptions, messages: mpsc::Sender<VerifyResponse>) -> Result<Ledger, VerifyError> {
        let (started_at, started) = (SystemTime::now(), Instant::now());
        let groups = self.dependencies.groups.groups().await?;
        let task = Task::new(&self, &groups, &options, started_at);
        let mut report = Report::new(messages, options.max_findings);
        report.stage("logs").await;
        let cut = Cut::take(&task).await?;
        let mut groups = Groups::new(&task, &cut, &mut report).await?;
        let (logs, counts) = logs::check(&task, &mut report).await?;
        let mut topics = Vec::new();
        for spec in Catalog::get().topics() {
            if counts.of(spec.event_type) == 0 && !cut.has_records(spec.event_type) {
                continue;
            }
            report.stage(&spec.name).await;
            let ledger = topic::check(&task, spec, &cut, &mut groups, &mut report).await?;
            if ledger.in_store + ledger.records + ledger.undecodable > 0 {
                topics.push(ledger);
            }
        }
        report.stage("groups").await;
        let groups = groups.finish(&task, &mut report).await?;
        let pending = logs.pending
            + topics.iter().map(|topic| topic.pending).sum::<i64>()
            + groups.iter().map(|group| group.pending).sum::<i64>();
        Ok(Ledger {
            sound: report.is_sound(),
            settled: pending == 0,
            started_at: Some(to_timestamp(started_at)),
            took: Some(to_duration(started.elapsed())),
            since: task.since.map(to_timestamp),
            findings: report.counts(),
            logs: Some(logs),
            topics,
            groups,
        })
    }
}

enum Step {
    Message(VerifyResponse),
    End(Result<Box<Ledger>, VerifyError>),
}

/// One verification.
pub(crate) struct Task<'a> {
    pub(crate) store: &'a dyn EventStore,
    pub(crate) bus: &'a dyn Bus,
    pub(crate) letters: &'a Documents<DeadLetter>,
    pub(crate) groups: &'a [KnownGroup],
    /// In whole milliseconds, which every store and bus keeps.
    pub(crate) since: Option<SystemTime>,
    pub(crate) patience: Duration,
    /// When it began.
    pub(crate) now: SystemTime,
}

impl<'a> Task<'a> {
    fn new(verifier: &'a Verifier, groups: &'a [KnownGroup], options: &VerifyOptions, now: SystemTime) -> Self {
        let since = options.since.map(|since| {
            let millis = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
            SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
        });
        Self {
            store: verifier.dependencies.store.as_ref(),
            bus: verifier.dependencies.bus.as_ref(),
            letters: &verifier.letters,
            groups,
            since,
            patience: options.patience,
            now,
        }
    }

    /// Whether an event was recorded in the time that is looked at. Stores and buses look by times of their own, which may
    /// differ a little.
    pub(crate) fn is_of_the_time(&self, event: &Event) -> bool {
        self.since.is_none_or(|since| time_of(event) >= since)
    }

    /// How long before the verification something happened.
    pub(crate) fn age(&self, at: SystemTime) -> Duration {
        self.now.duration_since(at).unwrap_or_default()
    }
}
