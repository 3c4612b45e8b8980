//! What the consumer groups have done with the records of their topics.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use runmesh_bus::KnownGroup;
use runmesh_bus::{Delivery, Extent, Lane, header};
use runmesh_events::{EventType, GroupName, to_duration};
use runmesh_proto::event_log::{Finding, FindingKind, GroupLedger, GroupTopicLedger};

use crate::{
    VerifyError,
    cut::Cut,
    letters::{self, Letters},
    report::{Report, finding, topic_name},
    verifier::Task,
};

/// A group in a lane.
#[derive(Debug)]
struct Member {
    group: GroupName,
    /// The first record that the group had not done with.
    from: u64,
    records: i64,
    pending: i64,
    oldest: Option<Pending>,
}

/// The oldest record that a group has not done with.
#[derive(Debug, Clone, Copy)]
struct Pending {
    offset: u64,
    at: SystemTime,
}

/// The groups' accounts while records are read.
pub(crate) struct Groups {
    members: HashMap<Lane, Vec<Member>>,
}

impl Groups {
    /// Opens the accounts, and reports groups that are out of bounds.
    pub(crate) async fn new(task: &Task<'_>, cut: &Cut, report: &mut Report) -> Result<Self, VerifyError> {
        let mut members: HashMap<Lane, Vec<Member>> = HashMap::new();
        for group in task.groups {
            let mut suspects = Vec::new();
            for extent in group.topics.iter().flat_map(|event_type| cut.lanes(*event_type)) {
                let committed = cut.committed(group.name, extent.lane);
                if committed.is_some_and(|next| next < extent.first || next > extent.next) {
                    suspects.push(*extent);
                }
                let from = committed.unwrap_or(extent.first).max(extent.first);
                let member = Member { group: group.name, from, records: 0, pending: 0, oldest: None };
                members.entry(extent.lane).or_default().push(member);
            }
            if !suspects.is_empty() {
                out_of_bounds(task, group, &suspects, report).await?;
            }
        }
        Ok(Self { members })
    }

    /// The first record in the lane that some group had not done with.
    pub(crate) fn first_pending(&self, lane: Lane) -> Option<u64> {
        self.members.get(&lane)?.iter().map(|member| member.from).min()
    }

    /// Takes a record into account.
    pub(crate) fn take(&mut self, delivery: &Delivery) {
        let Some(members) = self.members.get_mut(&delivery.lane) else { return };
        // What delivers an event again has that event's time, not its own.
        let is_old = is_again(delivery);
        for member in members {
            member.records += 1;
            if delivery.offset < member.from {
                continue;
            }
            member.pending += 1;
            if !is_old && member.oldest.is_none_or(|oldest| delivery.timestamp < oldest.at) {
                member.oldest = Some(Pending { offset: delivery.offset, at: delivery.timestamp });
            }
        }
    }

    /// Reports groups that do not move on, counts the dead letters, and closes the accounts.
    pub(crate) async fn finish(self, task: &Task<'_>, report: &mut Report) -> Result<Vec<GroupLedger>, VerifyError> {
        self.stalled(task, report).await?;
        let letters = letters::count(task.letters).await?;
        let mut ledgers: BTreeMap<&str, BTreeMap<String, GroupTopicLedger>> = BTreeMap::new();
        for group in task.groups {
            let topics = ledgers.entry(group.name.as_str()).or_default();
            for event_type in &group.topics {
                topics.insert(topic_name(*event_type), self.account(task, group.name, *event_type));
            }
        }
        for (group, topics) in &letters {
            let ledger = ledgers.entry(group).or_default();
            for (topic, count) in topics {
                ledger.entry(topic.clone()).or_default().dead_letters = *count;
            }
        }
        report_letters(&letters, report).await;
        Ok(ledgers.into_iter().map(|(group, topics)| total(group, topics)).collect())
    }

    fn account(&self, task: &Task<'_>, group: GroupName, event_type: EventType) -> GroupTopicLedger {
        let mut ledger = GroupTopicLedger::default();
        let mut oldest: Option<SystemTime> = None;
        let lanes = self.members.iter().filter(|(lane, _)| lane.event_type == event_type);
        for member in lanes.flat_map(|(_, members)| members).filter(|member| member.group == group) {
            ledger.records += member.records;
            ledger.pending += member.pending;
            let at = member.oldest.map(|pending| pending.at);
            oldest = oldest.into_iter().chain(at).min();
        }
        ledger.handled = ledger.records - ledger.pending;
        ledger.oldest_pending = oldest.map(|at| to_duration(task.age(at)));
        ledger
    }

    /// A group is stalled in a lane when an old record was pending at the start, and is pending still.
    async fn stalled(&self, task: &Task<'_>, report: &mut Report) -> Result<(), VerifyError> {
        for group in task.groups {
            let mut suspects: Vec<(Lane, &Member, Pending)> = Vec::new();
            for (lane, members) in &self.members {
                for member in members.iter().filter(|member| member.group == group.name) {
                    suspects.extend(
                        member
                            .oldest
                            .filter(|oldest| task.age(oldest.at) > task.patience)
                            .map(|oldest| (*lane, member, oldest)),
                    );
                }
            }
            if suspects.is_empty() {
                continue;
            }
            suspects.sort_by_key(|(lane, ..)| *lane);
            let now: HashMap<Lane, u64> = task.bus.committed(group.name, &group.topics).await?.into_iter().collect();
            for (lane, member, oldest) in suspects {
                if now.get(&lane).is_some_and(|next| *next > oldest.offset) {
                    continue;
                }
                let words = format!(
                    "the group has not done with {} records; the oldest is {} s old",
                    member.pending,
                    task.age(oldest.at).as_secs()
                );
                report.found(of_lane(lane, oldest.offset, group.name, FindingKind::Stalled, words)).await;
            }
        }
        Ok(())
    }
}

/// Whether a record delivers again what had been published.
pub(crate) fn is_again(delivery: &Delivery) -> bool {
    delivery.header(header::REPLAY).is_some() || delivery.header(header::REDRIVE_GROUP).is_some()
}

/// Reports offsets beyond what a lane holds, if they are still where they were: what the group commits meanwhile, and
/// what expires, must not look like one.
async fn out_of_bounds(
    task: &Task<'_>,
    group: &KnownGroup,
    suspects: &[Extent],
    report: &mut Report,
) -> Result<(), VerifyError> {
    let committed: HashMap<Lane, u64> = task.bus.committed(group.name, &group.topics).await?.into_iter().collect();
    let extents = task.bus.extents(&group.topics).await?;
    for extent in suspects {
        let Some(next) = committed.get(&extent.lane).copied() else { continue };
        let end = extents.iter().find(|now| now.lane == extent.lane).map_or(extent.next, |now| now.next);
        let (kind, words) = if next < extent.first {
            let lost = extent.first - next;
            (FindingKind::ExpiredUnread, format!("{lost} records expired before the group had done with them"))
        } else if next > end {
            (FindingKind::Ahead, format!("the group has committed {next}, but the partition ends at {end}"))
        } else {
            continue;
        };
        report.found(of_lane(extent.lane, next, group.name, kind, words)).await;
    }
    Ok(())
}

fn of_lane(lane: Lane, offset: u64, group: GroupName, kind: FindingKind, words: String) -> Finding {
    Finding {
        topic: topic_name(lane.event_type),
        partition: Some(lane.partition),
        offset: i64::try_from(offset).ok(),
        group: group.to_string(),
        ..finding(kind, words)
    }
}

async fn report_letters(letters: &Letters, report: &mut Report) {
    for (group, topics) in letters {
        for (topic, count) in topics {
            let words = format!("{count} dead letters are kept");
            let (group, topic) = (group.clone(), topic.clone());
            report.found(Finding { group, topic, ..finding(FindingKind::DeadLetters, words) }).await;
        }
    }
}

fn total(group: &str, topics: BTreeMap<String, GroupTopicLedger>) -> GroupLedger {
    let topics: Vec<GroupTopicLedger> =
        topics.into_iter().map(|(topic, ledger)| GroupTopicLedger { topic, ..ledger }).collect();
    GroupLedger {
        group: group.to_owned(),
        records: topics.iter().map(|topic| topic.records).sum(),
        handled: topics.iter().map(|topic| topic.handled).sum(),
        pending: topics.iter().map(|topic| topic.pending).sum(),
        dead_letters: topics.iter().map(|topic| topic.dead_letters).sum(),
        topics,
    }
}
