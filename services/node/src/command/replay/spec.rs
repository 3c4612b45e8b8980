//! What the flags ask for.

use std::time::SystemTime;

use runmesh_proto::{
    event::EventFilter,
    execution::Limits,
    replay::{
        FileTarget, GroupTarget, ProjectionTarget, ReplayOptions, ReplaySpec, RerunOptions, RerunTarget, ShadowTarget,
        TopicsTarget, replay_spec::Target,
    },
};

use crate::{
    cli::replay::{HowArgs, RerunArgs, SpecArgs, TargetArgs},
    command::{events::filter::filter, run::limits},
};

/// The spec, as of now.
pub(super) fn spec(args: SpecArgs, now: SystemTime) -> ReplaySpec {
    let SpecArgs { which, target: to, rerun, how } = args;
    let HowArgs { map, speed, rate, preserve_timestamps, batch_size, max_events, skip_errors, retries, dry_run } = how;
    let topic_map = map.into_iter().map(|mapping| (mapping.from, mapping.to)).collect();
    let target = match to {
        TargetArgs { to_group: Some(group), .. } => Some(Target::Group(GroupTarget { group })),
        TargetArgs { to_topics: true, .. } => Some(Target::Topics(TopicsTarget { topic_map })),
        TargetArgs { to_file: true, .. } => Some(Target::File(FileTarget {})),
        TargetArgs { rerun: true, .. } => Some(Target::Rerun(RerunTarget { options: Some(reruns(rerun)) })),
        TargetArgs { shadow: true, .. } => {
            let (slower, larger) = (rerun.slower, rerun.larger);
            Some(Target::Shadow(ShadowTarget { options: Some(reruns(rerun)), slower, larger }))
        }
        TargetArgs { to_projection: Some(read_model), .. } => Some(Target::Projection(ProjectionTarget { read_model })),
        TargetArgs { .. } => None,
    };
    let (all, source_file) = (which.all, which.from_file.clone().unwrap_or_default());
    let filter = Some(filter(which.filter, now)).filter(|filter| *filter != EventFilter::default());
    let options = Some(ReplayOptions {
        speed,
        rate,
        preserve_timestamps,
        batch_size,
        max_events,
        skip_errors,
        retry_attempts: retries,
        dry_run,
    });
    ReplaySpec { filter, all, source_file, target, options }
}

fn reruns(args: RerunArgs) -> RerunOptions {
    let limits = Some(limits(&args.limits)).filter(|limits| *limits != Limits::default());
    RerunOptions { language_version: args.language_version.unwrap_or_default(), limits, parallel: args.parallel }
}

/// Where events go, in words.
pub(super) fn target(spec: Option<&ReplaySpec>) -> String {
    match spec.and_then(|spec| spec.target.as_ref()) {
        Some(Target::Topics(target)) if target.topic_map.is_empty() => "topics".to_owned(),
        Some(Target::Topics(target)) => {
            let map: Vec<String> = target.topic_map.iter().map(|(from, to)| format!("{from}={to}")).collect();
            format!("topics, {}", map.join(", "))
        }
        Some(Target::Group(target)) => format!("group {}", target.group),
        Some(Target::File(_)) => "file".to_owned(),
        Some(Target::Rerun(_)) => "rerun".to_owned(),
        Some(Target::Shadow(_)) => "shadow".to_owned(),
        Some(Target::Projection(target)) => format!("projection {}", target.read_model),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;
    use runmesh_events::{EventType, to_timestamp};

    use super::*;
    use crate::{
        Cli,
        cli::{Command, replay::ReplayAction},
    };

    fn parse(arguments: &[&str]) -> Result<ReplaySpec, String> {
        let command = ["runmesh", "replay", "preview"].iter().chain(arguments);
        let cli = Cli::try_parse_from(command).map_err(|error| error.to_string())?;
        let Command::Replay(args) = cli.command else { return Err("another command".to_owned()) };
        let ReplayAction::Preview(args) = args.action else { return Err("another action".to_owned()) };
        Ok(spec(args.spec, SystemTime::UNIX_EPOCH + Duration::from_secs(7_200)))
    }

    #[test]
    fn each_flag_has_its_field() {
        let which = "--type pod_created --not-type pod_failed --execution e --aggregate a --user u --service s \
                     --correlation c --since 1h --until 1970-01-01T02:00:00Z --text t --id i --from-file f";
        let how = "--to-topics --map pod_created=other --speed 2.5 --rate 9 --preserve-timestamps --batch-size 7 \
                   --max-events 8 --skip-errors --retries 0 --dry-run";
        let arguments: Vec<&str> = which.split_whitespace().chain(how.split_whitespace()).collect();
        let at = |seconds| Some(to_timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)));
        let filter = EventFilter {
            event_types: vec![EventType::PodCreated.into()],
            exclude_event_types: vec![EventType::PodFailed.into()],
            event_ids: vec!["i".to_owned()],
            execution_id: "e".to_owned(),
            aggregate_id: "a".to_owned(),
            user_id: "u".to_owned(),
            producer: "s".to_owned(),
            correlation_id: "c".to_owned(),
            from: at(3_600),
            until: at(7_200),
            text: "t".to_owned(),
        };
        let topic_map = [("pod_created".to_owned(), "other".to_owned())].into();
        let options = ReplayOptions {
            speed: 2.5,
            rate: 9.0,
            preserve_timestamps: true,
            batch_size: 7,
            max_events: 8,
            skip_errors: true,
            retry_attempts: Some(0),
            dry_run: true,
        };
        let expected = ReplaySpec {
            filter: Some(filter),
            all: false,
            source_file: "f".to_owned(),
            target: Some(Target::Topics(TopicsTarget { topic_map })),
            options: Some(options),
        };
        assert_eq!(parse(&arguments), Ok(expected));
        let file = parse(&["--all", "--to-file"]).unwrap();
        assert_eq!(
            (file.all, file.filter, target(Some(&ReplaySpec { target: file.target, ..Default::default() }))),
            (true, None, "file".to_owned())
        );
        let group = parse(&["--all", "--to-group", "shop"]).unwrap();
        assert_eq!(target(Some(&group)), "group shop");
        let how =
            ["--language-version", "3.12", "--memory", "1M", "--parallel", "3", "--slower", "2", "--larger", "1.5"];
        let shadow = parse(&[["--all", "--shadow"].as_slice(), &how].concat()).unwrap();
        let limits = Some(Limits { memory_bytes: 1 << 20, ..Default::default() });
        let options = Some(RerunOptions { language_version: "3.12".into(), limits, parallel: 3 });
        assert_eq!(shadow.target, Some(Target::Shadow(ShadowTarget { options, slower: 2.0, larger: 1.5 })));
        let projection = parse(&["--all", "--to-projection", "results"]).unwrap();
        assert_eq!(target(Some(&projection)), "projection results");
        let rerun = parse(&["--all", "--rerun"]).unwrap();
        assert_eq!(rerun.target, Some(Target::Rerun(RerunTarget { options: Some(RerunOptions::default()) })));
    }

    #[test]
    fn there_is_one_target() {
        assert!(parse(&["--all"]).unwrap_err().contains("--to-topics"));
        assert!(parse(&["--all", "--to-topics", "--to-file"]).unwrap_err().contains("--to-file"));
        assert!(parse(&["--all", "--to-file", "--map", "a=b"]).is_err());
        assert!(parse(&["--all", "--to-topics", "--map", "a"]).unwrap_err().contains("TOPIC=OTHER"));
        assert!(parse(&["--type", "nothing", "--to-file"]).unwrap_err().contains("--type"));
    }
}
