//! The methods about retry policies.

use std::time::{Duration, SystemTime};

use runmesh_bus::{LONGEST_WAIT, MOST_RETRIES, Override, PolicySet, RetryPolicy};
use runmesh_events::{Catalog, TopicSpec, TraceParent, from_duration, to_duration, to_timestamp};
use runmesh_proto::{
    dlq::{self, PolicyEntry, ResetRetryPolicyRequest, SetRetryPolicyRequest},
    event::RetryPreset,
};
use runmesh_rpc::Violation;

use crate::{
    error::DlqError,
    service::Inner,
    tell::{self, By},
    view,
};

/// The greatest number of characters of a group's name.
const NAME: usize = 256;

/// The presets by their names.
const PRESETS: [(&str, RetryPreset); 5] = [
    ("aggressive", RetryPreset::Aggressive),
    ("cautious", RetryPreset::Cautious),
    ("immediate", RetryPreset::Immediate),
    ("default", RetryPreset::Default),
    ("manual", RetryPreset::Manual),
];

fn name_of(preset: RetryPreset) -> &'static str {
    PRESETS.into_iter().find(|(_, known)| *known == preset).map_or("default", |(name, _)| name)
}

fn topic(event_type: i32) -> Result<&'static TopicSpec, DlqError> {
    view::parse_topic(event_type).ok_or_else(|| match event_type {
        0 => DlqError::field("event_type", "is missing"),
        _ => DlqError::field("event_type", view::NO_EVENT_TYPE),
    })
}

fn view_of(policy: &RetryPolicy, preset: &str) -> dlq::RetryPolicy {
    dlq::RetryPolicy {
        preset: preset.to_owned(),
        max_retries: view::small(policy.max_retries),
        first_wait: Some(to_duration(policy.first_wait)),
        max_wait: Some(to_duration(policy.max_wait)),
        multiplier: policy.multiplier,
        jitter: policy.jitter,
        discard_exhausted: policy.discard_exhausted,
        keep_order: policy.keep_order,
    }
}

fn entry_of(topic: &TopicSpec, group: &str, set: Option<&Override>) -> PolicyEntry {
    let entry = PolicyEntry { event_type: topic.event_type as i32, group: group.to_owned(), ..Default::default() };
    match set {
        None => {
            let policy = RetryPolicy::preset(topic.retry_preset);
            PolicyEntry { policy: Some(view_of(&policy, name_of(topic.retry_preset))), ..entry }
        }
        Some(set) => PolicyEntry {
            policy: Some(view_of(&set.policy, &set.preset)),
            overridden: true,
            set_by: set.actor.clone(),
            reason: set.reason.clone(),
            set_at: Some(to_timestamp(set.at)),
            ..entry
        },
    }
}

fn in_force(current: &PolicySet, topic: &TopicSpec, group: &str) -> PolicyEntry {
    entry_of(topic, group, current.override_of(&topic.name, group))
}

pub(crate) async fn list(inner: &Inner) -> Result<Vec<PolicyEntry>, DlqError> {
    let current = inner.letters.policies().current().await?;
    let mut policies = Vec::new();
    for topic in Catalog::get().topics() {
        policies.push(in_force(&current, topic, ""));
        let of_groups = current.overrides().iter().filter(|set| set.topic == topic.name && !set.group.is_empty());
        policies.extend(of_groups.map(|set| entry_of(topic, &set.group, Some(set))));
    }
    Ok(policies)
}

pub(crate) async fn get(inner: &Inner, event_type: i32, group: &str) -> Result<PolicyEntry, DlqError> {
    let topic = topic(event_type)?;
    let current = inner.letters.policies().current().await?;
    Ok(in_force(&current, topic, group))
}

pub(crate) async fn set(
    inner: &Inner,
    request: SetRetryPolicyRequest,
    trace: &TraceParent,
) -> Result<PolicyEntry, DlqError> {
    let topic = topic(request.event_type)?;
    let by = By::parse(&request.actor, &request.reason).map_err(DlqError::Invalid)?;
    check_group(&request.group)?;
    let asked = request.policy.as_ref().ok_or_else(|| DlqError::field("policy", "is missing"))?;
    let policy = parse(asked).map_err(DlqError::Invalid)?;
    let target = Override::id_of(&topic.name, &request.group);
    tell::operation(&*inner.events, "SetRetryPolicy", by, &target, &request, trace).await?;
    let set = Override {
        topic: topic.name.clone(),
        group: request.group.clone(),
        policy,
        preset: asked.preset.clone(),
        actor: by.actor.to_owned(),
        reason: by.reason.to_owned(),
        at: SystemTime::now(),
    };
    inner.letters.policies().set(set.clone()).await?;
    Ok(entry_of(topic, &request.group, Some(&set)))
}

pub(crate) async fn reset(
    inner: &Inner,
    request: ResetRetryPolicyRequest,
    trace: &TraceParent,
) -> Result<PolicyEntry, DlqError> {
    let topic = topic(request.event_type)?;
    let by = By::parse(&request.actor, &request.reason).map_err(DlqError::Invalid)?;
    check_group(&request.group)?;
    let target = Override::id_of(&topic.name, &request.group);
    tell::operation(&*inner.events, "ResetRetryPolicy", by, &target, &request, trace).await?;
    if !inner.letters.policies().reset(&topic.name, &request.group).await? {
        return Err(DlqError::NotFound("retry policy", target));
    }
    get(inner, request.event_type, &request.group).await
}

fn check_group(group: &str) -> Result<(), DlqError> {
    if group.chars().count() > NAME || group.chars().any(char::is_control) {
        return Err(DlqError::field("group", "is not the name of a group"));
    }
    Ok(())
}

fn parse(asked: &dlq::RetryPolicy) -> Result<RetryPolicy, Vec<Violation>> {
    let mut violations = Vec::new();
    let mut wrong = |field: &str, why: String| violations.push(Violation::new(format!("policy.{field}"), why));
    let flags = (asked.discard_exhausted, asked.keep_order);
    let has_numbers = asked.max_retries != 0
        || asked.first_wait.is_some()
        || asked.max_wait.is_some()
        || asked.multiplier != 0.0
        || asked.jitter != 0.0;
    let policy = match PRESETS.into_iter().find(|(name, _)| *name == asked.preset) {
        Some((_, preset)) => {
            if has_numbers {
                wrong("preset", "is set together with numbers of one's own".to_owned());
            }
            RetryPolicy::preset(preset)
        }
        None if !asked.preset.is_empty() => {
            let names = PRESETS.map(|(name, _)| name).join(", ");
            wrong("preset", format!("is none of {names}"));
            RetryPolicy::preset(RetryPreset::Default)
        }
        None => {
            let max_retries = u32::try_from(asked.max_retries).ok().filter(|count| *count <= MOST_RETRIES);
            if max_retries.is_none() {
                wrong("max_retries", format!("is {}; it has to be from 0 to {MOST_RETRIES}", asked.max_retries));
            }
            let mut wait = |field: &str, duration: Option<&prost_types::Duration>| {
                let parsed = duration.map_or(Some(Duration::ZERO), from_duration).filter(|wait| *wait <= LONGEST_WAIT);
                if parsed.is_none() {
                    wrong(field, "has to be from 0 to 7 days".to_owned());
                }
                parsed.unwrap_or_default()
            };
            let first_wait = wait("first_wait", asked.first_wait.as_ref());
            let max_wait = match &asked.max_wait {
                None => first_wait,
                max_wait => wait("max_wait", max_wait.as_ref()),
            };
            if max_wait < first_wait {
                wrong("max_wait", "is less than first_wait".to_owned());
            }
            // 0 is what is not set.
            let multiplier = if asked.multiplier == 0.0 { 1.0 } else { asked.multiplier };
            if !(1.0..=100.0).contains(&multiplier) {
                wrong("multiplier", "has to be from 1 to 100".to_owned());
            }
            if !(0.0..=1.0).contains(&asked.jitter) {
                wrong("jitter", "has to be from 0 to 1".to_owned());
            }
            RetryPolicy {
                max_retries: max_retries.unwrap_or_default(),
                first_wait,
                max_wait,
                multiplier,
                jitter: asked.jitter,
                discard_exhausted: false,
                keep_order: false,
            }
        }
    };
    let policy = RetryPolicy { discard_exhausted: flags.0, keep_order: flags.1, ..policy };
    if violations.is_empty() { Ok(policy) } else { Err(violations) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(policy: dlq::RetryPolicy) -> Vec<String> {
        parse(&policy).map_or_else(|wrong| wrong.into_iter().map(|wrong| wrong.field).collect(), |_| Vec::new())
    }

    #[test]
    fn a_preset_is_taken_by_its_name_alone() {
        for (name, preset) in PRESETS {
            let asked = dlq::RetryPolicy { preset: name.to_owned(), keep_order: true, ..Default::default() };
            let expected = RetryPolicy { keep_order: true, ..RetryPolicy::preset(preset) };
            assert_eq!(parse(&asked).ok(), Some(expected), "{name}");
            assert_eq!(fields(dlq::RetryPolicy { max_retries: 1, ..asked }), ["policy.preset"]);
        }
        assert_eq!(fields(dlq::RetryPolicy { preset: "eager".to_owned(), ..Default::default() }), ["policy.preset"]);
    }

    #[test]
    fn each_bad_number_is_named() {
        let wait = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let bad = dlq::RetryPolicy {
            max_retries: 101,
            first_wait: wait(-1),
            max_wait: wait(8 * 24 * 3_600),
            multiplier: f64::NAN,
            jitter: 1.5,
            ..Default::default()
        };
        let expected = ["max_retries", "first_wait", "max_wait", "multiplier", "jitter"];
        assert_eq!(fields(bad), expected.map(|field| format!("policy.{field}")));
        let less = dlq::RetryPolicy { first_wait: wait(5), max_wait: wait(4), ..Default::default() };
        assert_eq!(fields(less), ["policy.max_wait"]);
        let one = dlq::RetryPolicy { max_retries: 2, first_wait: wait(5), ..Default::default() };
        let parsed = parse(&one).unwrap();
        assert_eq!((parsed.max_wait, parsed.multiplier), (Duration::from_secs(5), 1.0));
    }
}
