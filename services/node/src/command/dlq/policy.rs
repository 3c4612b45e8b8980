//! `runmesh dlq policy`.

use std::{process::ExitCode, time::Duration};

use runmesh_events::{Catalog, to_duration};
use runmesh_proto::dlq::{
    GetRetryPolicyRequest, ListRetryPoliciesRequest, PolicyEntry, ResetRetryPolicyRequest, RetryPolicy,
    SetRetryPolicyRequest,
};

use super::{
    actor, open,
    pages::show,
    refused,
    table::{Table, left, right},
    words,
};
use crate::{
    Environment,
    cli::{
        dlq::{PolicyAction, PolicyNumbers, PolicySetArgs},
        lists::OutputArgs,
    },
};

/// What the numbers are that are not given: the longest wait that there is, and what most presets have.
const MAX_WAIT: Duration = Duration::from_secs(7 * 86_400);
const MULTIPLIER: f64 = 2.0;
const JITTER: f64 = 0.1;

pub(super) async fn policy(action: PolicyAction, environment: &Environment) -> anyhow::Result<ExitCode> {
    match action {
        PolicyAction::Ls(args) => {
            let answer = open(&args.output.server).await?.list_retry_policies(ListRetryPoliciesRequest {}).await;
            let mut policies = answer.map_err(|status| refused(&status))?.into_inner().policies;
            policies.retain(|entry| entry.overridden || !args.overridden);
            show_entries(&policies, &args.output)
        }
        PolicyAction::Get(args) => {
            let request = GetRetryPolicyRequest { event_type: args.event_type.into(), group: args.group };
            let answer = open(&args.output.server).await?.get_retry_policy(request).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            show_entries(&[answer.policy.unwrap_or_default()], &args.output)
        }
        PolicyAction::Set(args) => {
            let request = SetRetryPolicyRequest {
                event_type: args.event_type.into(),
                policy: Some(policy_of(&args)),
                group: args.group,
                actor: actor(args.why.actor, environment)?,
                reason: args.why.reason,
            };
            let answer = open(&args.output.server).await?.set_retry_policy(request).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            show_entries(&[answer.policy.unwrap_or_default()], &args.output)
        }
        PolicyAction::Reset(args) => {
            let request = ResetRetryPolicyRequest {
                event_type: args.event_type.into(),
                group: args.group,
                actor: actor(args.why.actor, environment)?,
                reason: args.why.reason,
            };
            let answer = open(&args.output.server).await?.reset_retry_policy(request).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            show_entries(&[answer.policy.unwrap_or_default()], &args.output)
        }
    }
}

/// The policy that is asked for.
fn policy_of(args: &PolicySetArgs) -> RetryPolicy {
    let given = RetryPolicy {
        discard_exhausted: args.discard_exhausted,
        keep_order: args.keep_order,
        ..RetryPolicy::default()
    };
    if let Some(preset) = &args.preset {
        return RetryPolicy { preset: preset.clone(), ..given };
    }
    let PolicyNumbers { retries, first_wait, max_wait, multiplier, jitter } = args.numbers;
    RetryPolicy {
        max_retries: retries.unwrap_or_default(),
        first_wait: Some(to_duration(first_wait.unwrap_or_default())),
        max_wait: Some(to_duration(max_wait.unwrap_or(MAX_WAIT))),
        multiplier: multiplier.unwrap_or(MULTIPLIER),
        jitter: jitter.unwrap_or(JITTER),
        ..given
    }
}

fn show_entries(entries: &[PolicyEntry], output: &OutputArgs) -> anyhow::Result<ExitCode> {
    show(output.json, "runmesh.dlq.v1.PolicyEntry", entries, &mut table(), row)?;
    Ok(ExitCode::SUCCESS)
}

fn table() -> Table {
    let numbers = ["RETRIES", "FIRST WAIT", "MAX WAIT", "FACTOR", "JITTER"].map(right);
    let words = ["EXHAUSTED", "ORDER", "SET BY", "REASON"].map(left);
    Table::new([left("TYPE"), left("GROUP"), left("PRESET")].into_iter().chain(numbers).chain(words))
}

fn row(entry: &PolicyEntry) -> Vec<String> {
    let policy = entry.policy.clone().unwrap_or_default();
    let topic = Catalog::get().topic(entry.event_type());
    let set_by = match (entry.overridden, entry.set_by.as_str()) {
        (false, _) => words::NONE.to_owned(),
        (true, by) => format!("{} {}", words::or_none(by), words::time(entry.set_at.as_ref())),
    };
    vec![
        topic.map_or_else(|| entry.event_type.to_string(), |topic| topic.name.clone()),
        words::or_none(&entry.group),
        words::or_none(&policy.preset),
        policy.max_retries.to_string(),
        words::duration(policy.first_wait.as_ref()),
        words::duration(policy.max_wait.as_ref()),
        policy.multiplier.to_string(),
        policy.jitter.to_string(),
        if policy.discard_exhausted { "discarded" } else { "parked" }.to_owned(),
        if policy.keep_order { "kept" } else { words::NONE }.to_owned(),
        set_by,
        entry.reason.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use runmesh_proto::event::EventType;

    use super::*;
    use crate::cli::{Cli, Command, dlq::DlqAction};

    fn parsed(flags: &[&str]) -> RetryPolicy {
        let command = ["runmesh", "dlq", "policy", "set", "execution_failed", "--reason", "x"];
        let Command::Dlq(args) = Cli::try_parse_from([&command, flags].concat()).unwrap().command else { panic!() };
        let DlqAction::Policy(args) = args.action else { panic!() };
        let PolicyAction::Set(args) = args.action else { panic!() };
        policy_of(&args)
    }

    #[test]
    fn a_preset_leaves_the_numbers_unset() {
        let policy = parsed(&["--preset", "cautious", "--keep-order", "--discard-exhausted"]);
        let expected = RetryPolicy {
            preset: "cautious".to_owned(),
            keep_order: true,
            discard_exhausted: true,
            ..RetryPolicy::default()
        };
        assert_eq!(policy, expected);
    }

    #[test]
    fn numbers_that_are_not_given_have_defaults() {
        let policy = parsed(&["--retries", "7", "--first-wait", "30s"]);
        assert_eq!((policy.max_retries, policy.multiplier, policy.jitter), (7, 2.0, 0.1));
        assert_eq!(policy.first_wait, Some(to_duration(Duration::from_secs(30))));
        assert_eq!(policy.max_wait, Some(to_duration(MAX_WAIT)));
        let policy =
            parsed(&["--retries", "0", "--max-wait", "5m", "--multiplier", "1", "--jitter", "0", "--first-wait", "0s"]);
        assert_eq!((policy.max_retries, policy.multiplier, policy.jitter), (0, 1.0, 0.0));
    }

    #[test]
    fn a_policy_is_one_line() {
        let entry = PolicyEntry {
            event_type: EventType::ExecutionRequested.into(),
            policy: Some(RetryPolicy {
                preset: "aggressive".to_owned(),
                max_retries: 5,
                first_wait: Some(to_duration(Duration::from_secs(30))),
                max_wait: Some(to_duration(Duration::from_secs(300))),
                multiplier: 2.5,
                jitter: 0.1,
                ..RetryPolicy::default()
            }),
            ..PolicyEntry::default()
        };
        let expected =
            ["execution_requested", "-", "aggressive", "5", "30s", "5m", "2.5", "0.1", "parked", "-", "-", ""];
        assert_eq!(row(&entry), expected);
    }
}
