//! A plan for people.

use runmesh_events::from_duration;
use runmesh_proto::dlq::RedrivePlan;

use crate::command::{
    dlq::words,
    print,
    table::{Table, left, right},
};

/// What a redrive would do. The token is of use to those alone who start it by themselves.
pub(super) fn lines(plan: &RedrivePlan, with_token: bool) -> Vec<String> {
    if plan.count == 0 {
        return vec!["No dead letters match: there is nothing to deliver.".to_owned()];
    }
    let mut lines = vec![format!("{} dead letters, about {} aggregates", plan.count, plan.affected_aggregates)];
    let topics = plan.topics.iter().map(|(topic, count)| vec![topic.clone(), count.to_string()]).collect();
    lines.push(String::new());
    lines.extend(Table::new([left("TYPE"), right("LETTERS")]).lines(topics));
    let targets = plan.targets.iter().map(|target| {
        let effects = if target.outside_effects { "yes" } else { "no" };
        vec![target.group.clone(), target.count.to_string(), effects.to_owned()]
    });
    lines.push(String::new());
    lines.extend(
        Table::new([left("GROUP"), right("LETTERS"), left("EFFECTS OUTSIDE THE MESH")]).lines(targets.collect()),
    );
    let samples = plan.samples.iter().map(|letter| {
        vec![letter.dead_letter_id.clone(), letter.topic.clone(), letter.group.clone(), words::error(&letter.error)]
    });
    let samples = Table::new([left("SUCH AS"), left("TYPE"), left("GROUP"), left("ERROR")]).lines(samples.collect());
    if !samples.is_empty() {
        lines.push(String::new());
        lines.extend(samples);
    }
    lines.push(String::new());
    if !plan.aggregate_samples.is_empty() {
        lines.push(print::plain(&format!("aggregates such as {}", plan.aggregate_samples.join(", "))));
    }
    lines.push(match plan.duration.as_ref().and_then(from_duration) {
        Some(_) => format!("takes {} at this rate", words::duration(plan.duration.as_ref())),
        None => "takes as long as it takes: there is no --rate".to_owned(),
    });
    if with_token {
        lines.push(format!("plan {}", plan.plan_token));
        lines.push(format!("good until {}; later letters are not part of it", words::time(plan.expires_at.as_ref())));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use runmesh_events::to_duration;
    use runmesh_proto::dlq::{DeadLetter, RedriveTarget};

    use super::*;

    fn plan() -> RedrivePlan {
        let target =
            |group: &str, count, outside_effects| RedriveTarget { group: group.to_owned(), count, outside_effects };
        RedrivePlan {
            plan_token: "t0ken".to_owned(),
            count: 120,
            topics: BTreeMap::from([("execution_requested".to_owned(), 100), ("pod_created".to_owned(), 20)]),
            targets: vec![target("runner", 100, true), target("saga-orchestrator", 20, false)],
            affected_aggregates: 60,
            aggregate_samples: vec!["a1".to_owned(), "a2".to_owned()],
            samples: vec![DeadLetter {
                dead_letter_id: "17".to_owned(),
                error: "boom".to_owned(),
                ..Default::default()
            }],
            duration: Some(to_duration(Duration::from_secs(90))),
            expires_at: None,
        }
    }

    #[test]
    fn a_plan_says_what_is_reached_and_how_long_it_takes() {
        let text = lines(&plan(), true).join("\n");
        for line in [
            "120 dead letters, about 60 aggregates\n",
            "execution_requested      100\n",
            "runner                 100  yes\n",
            "saga-orchestrator       20  no\n",
            "17",
            "aggregates such as a1, a2\n",
            "takes 1m30s at this rate\n",
            "plan t0ken\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
        let text = lines(&RedrivePlan { duration: None, ..plan() }, false).join("\n");
        assert!(text.contains("there is no --rate") && !text.contains("t0ken"), "{text}");
    }

    #[test]
    fn a_plan_of_nothing_says_so() {
        assert_eq!(lines(&RedrivePlan::default(), true).len(), 1);
    }
}
