//! A member of a group: the thread that joins it, polls, and joins again where its membership is over.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult},
    types::RDKafkaErrorCode as Code,
};
use runmesh_events::{Catalog, GroupName};

use super::{
    KafkaConfig, error,
    handoff::{Handoff, Pressure},
    logs,
    subscription::delivery,
};
use crate::{BusError, Lane};

/// How long a poll waits for a record. It also bounds how long leaving takes.
const POLL: Duration = Duration::from_millis(100);

/// The same while partitions are paused: then the consumer, not a record, is what is waited for.
const POLL_PAUSED: Duration = Duration::from_millis(5);

/// How many records are taken between two looks at the pressure.
const BURST: usize = 256;

/// How long to wait before the group is joined again.
const REJOIN: Duration = Duration::from_millis(500);

/// How many sessions long the brokers may go on believing in an earlier run of this process that did not leave its group.
/// By default their session, `group.consumer.session.timeout.ms`, is longer than ours: 45 s.
const UNRELEASED: u32 = 6;

type GroupConsumer = BaseConsumer<Rebalances>;

/// Where the consumer of the present membership is found.
#[derive(Default)]
pub(super) struct Place(Mutex<Weak<GroupConsumer>>);

impl Place {
    fn set(&self, consumer: &Arc<GroupConsumer>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(consumer);
    }

    /// Commits as the present member. Blocks.
    pub(super) fn commit(&self, offsets: &TopicPartitionList) -> Result<(), BusError> {
        let consumer = self.0.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let Some(consumer) = consumer else {
            return Err(BusError::Unavailable("commit: the member is not in its group".to_owned()));
        };
        consumer.commit(offsets, CommitMode::Sync).map_err(|error| error::of("commit", &error))
    }
}

/// What a membership is made of.
pub(super) struct Member {
    config: KafkaConfig,
    group: GroupName,
    topics: Vec<&'static str>,
    handoff: Arc<Handoff>,
    place: Arc<Place>,
}

/// Why a membership is over.
enum End {
    /// The subscription is.
    Left,
    /// The process stood still.
    StoodStill,
    /// The brokers will have no more of it.
    Fatal(Code, String),
}

impl Member {
    /// Joins the group in a thread of its own, which ends when the subscription does.
    pub(super) fn start(
        config: &KafkaConfig,
        group: GroupName,
        topics: Vec<&'static str>,
        handoff: Arc<Handoff>,
    ) -> Result<Arc<Place>, BusError> {
        let place = Arc::new(Place::default());
        let member = Self { config: config.clone(), group, topics, handoff, place: Arc::clone(&place) };
        // Here, so that settings that can't work are told at once.
        let consumer = member.join()?;
        thread::Builder::new()
            .name(format!("kafka-{group}"))
            .spawn(move || {
                member.run(consumer);
                member.handoff.is_gone();
            })
            .map_err(|error| BusError::Unavailable(format!("no thread for the consumer: {error}")))?;
        Ok(place)
    }

    fn join(&self) -> Result<Arc<GroupConsumer>, BusError> {
        let context = Rebalances { handoff: Arc::clone(&self.handoff), patience: self.config.revoke_patience };
        let consumer: GroupConsumer = self
            .config
            .member(self.group)
            .create_with_context(context)
            .map_err(|error| error::of("consumer", &error))?;
        consumer.subscribe(&self.topics).map_err(|error| error::of("subscribe", &error))?;
        let consumer = Arc::new(consumer);
        self.place.set(&consumer);
        Ok(consumer)
    }

    fn run(&self, first: Arc<GroupConsumer>) {
        let unreleased = self.config.session_timeout * UNRELEASED;
        let (mut consumer, mut since) = (Some(first), Instant::now());
        while !self.handoff.has_left() {
            let end = match consumer.take().map_or_else(|| self.join(), Ok) {
                Ok(consumer) => self.poll(&consumer),
                Err(error) => {
                    tracing::warn!(group = %self.group, %error, "can't join again; trying again");
                    self.handoff.pause(REJOIN);
                    continue;
                }
            };
            match end {
                End::Left => return,
                End::StoodStill => {
                    tracing::info!(group = %self.group, "joins again");
                    since = Instant::now();
                }
                // An earlier run of this process was killed, and the brokers have not noticed yet.
                End::Fatal(Code::UnreleasedInstanceId, reason) if since.elapsed() < unreleased => {
                    tracing::info!(group = %self.group, reason, "waits for an earlier run of this process to be given up");
                    self.handoff.lose_all();
                    self.handoff.pause(REJOIN);
                }
                End::Fatal(code, reason) => {
                    self.handoff.lose_all();
                    return self.handoff.fail(self.failure(code, &reason));
                }
            }
        }
    }

    fn failure(&self, code: Code, reason: &str) -> BusError {
        let group = self.group;
        match code {
            Code::FencedInstanceId | Code::UnreleasedInstanceId => {
                let name = self.config.static_member.as_deref().unwrap_or_default();
                BusError::Backend(format!(
                    "another process is in group {group} under this one's name, {name:?}: {reason}"
                ))
            }
            _ => BusError::Backend(format!("group {group}: {reason}")),
        }
    }

    fn poll(&self, consumer: &GroupConsumer) -> End {
        let handoff = &*self.handoff;
        handoff.begin();
        // Whether some of the partitions are paused, and whether all are.
        let (mut paused, mut all_paused) = (false, false);
        while !handoff.has_left() {
            if !handoff.is_alive() {
                return End::StoodStill;
            }
            if handoff.take_assigned() {
                all_paused = false;
            }
            match handoff.pressure() {
                Pressure::Full if !all_paused => {
                    all_paused = switch(consumer, "pause", |all| consumer.pause(all));
                    paused |= all_paused;
                }
                Pressure::Low if paused => {
                    paused = !switch(consumer, "resume", |all| consumer.resume(all));
                    all_paused &= paused;
                }
                _ => {}
            }
            let mut wait = if paused { POLL_PAUSED } else { POLL };
            for _ in 0..BURST {
                match consumer.poll(wait) {
                    Some(Ok(message)) => {
                        if let Some(record) = delivery(&message) {
                            handoff.push(record);
                        }
                    }
                    Some(Err(error)) => {
                        if let Some((code, reason)) = consumer.client().fatal_error() {
                            return End::Fatal(code, reason);
                        }
                        // The client goes on by itself.
                        if !logs::is_outage(&error) {
                            tracing::warn!(group = %self.group, %error, "kafka consumer");
                        }
                    }
                    None => break,
                }
                wait = Duration::ZERO;
            }
        }
        End::Left
    }
}

fn switch(consumer: &GroupConsumer, what: &str, action: impl FnOnce(&TopicPartitionList) -> KafkaResult<()>) -> bool {
    let done = consumer.assignment().and_then(|all| action(&all));
    if let Err(error) = &done {
        tracing::warn!(%error, what, "partitions can't be switched; trying again");
    }
    done.is_ok()
}

/// Hears of partitions that come and go. Called by the polling thread, inside a poll.
struct Rebalances {
    handoff: Arc<Handoff>,
    patience: Duration,
}

impl ClientContext for Rebalances {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        logs::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        logs::failed(&error, reason);
    }
}

impl ConsumerContext for Rebalances {
    fn pre_rebalance(&self, member: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => {
                let lanes = lanes(partitions);
                tracing::debug!(?lanes, "assigned");
                self.handoff.assigned(&lanes);
            }
            Rebalance::Revoke(partitions) => {
                let lanes = lanes(partitions);
                let lost = member.assignment_lost();
                tracing::debug!(?lanes, lost, "revoked");
                if lanes.is_empty() {
                } else if lost {
                    self.handoff.lost(&lanes);
                } else {
                    self.handoff.revoke(&lanes, self.patience);
                }
            }
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance"),
        }
    }
}

fn lanes(partitions: &TopicPartitionList) -> Vec<Lane> {
    let catalog = Catalog::get();
    partitions
        .elements()
        .iter()
        .filter_map(|element| {
            let event_type = catalog.event_type(element.topic()).ok()?;
            Some(Lane { event_type, partition: element.partition() })
        })
        .collect()
}
