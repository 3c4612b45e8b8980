//! A preview for people.

use runmesh_proto::replay::ReplayPreview;

use crate::command::{
    print,
    table::{Table, left, right},
    words,
};

/// What a replay would do.
pub(super) fn lines(preview: &ReplayPreview) -> Vec<String> {
    let mut lines = Vec::new();
    let at_least = if preview.complete { "" } else { "at least " };
    let mut head = format!("{at_least}{} events", preview.count);
    if preview.count > 0 {
        let (first, last) = (words::time(preview.first_at.as_ref()), words::time(preview.last_at.as_ref()));
        head.push_str(&format!(", from {first} to {last}"));
    }
    if preview.to_send != preview.count {
        head.push_str(&format!("; {} would be sent", preview.to_send));
    }
    lines.push(head);
    if !preview.complete {
        lines.push(format!("Only the first {} events were looked at: the numbers are theirs.", preview.scanned));
    }
    if preview.unreadable > 0 {
        lines.push(format!("{} lines of the file are no events", preview.unreadable));
    }
    let mut section = |table: Vec<String>| {
        if !table.is_empty() {
            lines.push(String::new());
            lines.extend(table);
        }
    };
    let types = preview.types.iter().map(|one| vec![one.topic.clone(), one.count.to_string()]).collect();
    section(Table::new([left("TYPE"), right("EVENTS")]).lines(types));
    let counts: Vec<i64> = preview.hours.iter().map(|hour| hour.count).collect();
    if let (Some(first), true) = (preview.hours.first(), counts.len() > 1) {
        let since = words::time(first.hour.as_ref());
        section(vec![format!("by hour since {since}, without those that have none: {}", words::sparkline(&counts))]);
    }
    let groups = preview.groups.iter().map(|group| {
        let effects = if group.outside_effects { "yes" } else { "no" };
        vec![group.group.clone(), group.count.to_string(), effects.to_owned()]
    });
    section(Table::new([left("GROUP"), right("EVENTS"), left("EFFECTS OUTSIDE THE MESH")]).lines(groups.collect()));
    if !preview.refusing_groups.is_empty() {
        section(vec![print::plain(&format!("skipped by {}", preview.refusing_groups.join(", ")))]);
    }
    let samples = preview.samples.iter().map(|sample| {
        vec![
            sample.event_id.clone(),
            sample.topic.clone(),
            words::time(sample.occurred_at.as_ref()),
            sample.aggregate_id.clone(),
        ]
    });
    section(Table::new([left("SUCH AS"), left("TYPE"), left("RECORDED"), left("ABOUT")]).lines(samples.collect()));
    section(vec![match preview.duration {
        Some(_) => format!("takes {}{} at this pace", at_least, words::duration(preview.duration.as_ref())),
        None => "as fast as it goes: there is no --speed and no --rate".to_owned(),
    }]);
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runmesh_events::to_duration;
    use runmesh_proto::replay::{ReplayGroup, TypeCount};

    use super::*;

    #[test]
    fn a_preview_says_who_sees_what_and_how_long_it_takes() {
        let preview = ReplayPreview {
            count: 120,
            to_send: 100,
            types: vec![TypeCount { topic: "pod_created".to_owned(), count: 120 }],
            groups: vec![ReplayGroup { group: "bold".to_owned(), count: 120, outside_effects: true }],
            refusing_groups: vec!["runner".to_owned()],
            duration: Some(to_duration(Duration::from_secs(90))),
            complete: true,
            ..Default::default()
        };
        let text = lines(&preview).join("\n");
        for line in [
            "120 events, from - to -; 100 would be sent\n",
            "pod_created     120\n",
            "bold      120  yes\n",
            "skipped by runner\n",
            "takes 1m30s at this pace",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
        let text = lines(&ReplayPreview { scanned: 7, complete: false, duration: None, ..preview }).join("\n");
        assert!(text.starts_with("at least 120 events") && text.contains("the first 7 events"), "{text}");
        assert!(text.contains("no --speed"), "{text}");
    }
}
