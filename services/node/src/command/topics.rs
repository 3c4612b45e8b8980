//! `runmesh topics`.

use std::process::ExitCode;

use runmesh_events::Catalog;
use serde_json::json;

use super::{print, serve::settings};
use crate::{
    Environment, bus,
    cli::{TopicsAction, TopicsArgs},
};

pub(super) async fn topics(args: TopicsArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    match args.action {
        TopicsAction::List => list(args.json)?,
        TopicsAction::Check => return check(args, environment).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(as_json: bool) -> std::io::Result<()> {
    let topics = Catalog::get().topics();
    if as_json {
        let topics: Vec<_> = topics
            .iter()
            .map(|topic| {
                json!({
                    "name": topic.name,
                    "category": topic.category.as_str_name(),
                    "partitions": topic.partitions,
                    "retentionSeconds": topic.retention.as_secs(),
                    "retryPreset": topic.retry_preset.as_str_name(),
                    "streamable": topic.streamable,
                })
            })
            .collect();
        print::line(json!(topics))?;
        return Ok(());
    }
    print::line(format_args!("{:<36} {:>10} {:>10}  {:<10} STREAMED", "TOPIC", "PARTITIONS", "RETENTION", "RETRIES"))?;
    for topic in topics {
        let retries = topic.retry_preset.as_str_name().trim_start_matches("RETRY_PRESET_").to_lowercase();
        let days = format!("{} d", topic.retention.as_secs() / 86_400);
        let streamed = if topic.streamable { "yes" } else { "no" };
        print::line(format_args!(
            "{:<36} {:>10} {:>10}  {:<10} {streamed}",
            topic.name, topic.partitions, days, retries
        ))?;
    }
    Ok(())
}

async fn check(args: TopicsArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let config = settings(&args.config, environment, None, &[])?;
    if !config.bus.is_remote() {
        print::line("the bus is embedded: its topics are the catalog's")?;
        return Ok(ExitCode::SUCCESS);
    }
    let bus = bus::open(&config.bus, &config.node, None)?.bus;
    let report = bus.check_topics(Catalog::get().topics()).await?;
    for topic in &report.created {
        print::line(format_args!("{topic}: missing"))?;
    }
    for topic in &report.grown {
        print::line(format_args!("{topic}: too few partitions"))?;
    }
    for drift in &report.drift {
        print::line(format_args!(
            "{}: {} is {}, the catalog says {}",
            drift.topic, drift.setting, drift.found, drift.wanted
        ))?;
    }
    let clean = report.created.is_empty() && report.grown.is_empty() && report.drift.is_empty();
    if clean {
        print::line(format_args!("all {} topics are as the catalog says", Catalog::get().topics().len()))?;
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
