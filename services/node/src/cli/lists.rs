//! Arguments that commands share which show what a node keeps.

use std::time::{Duration, SystemTime};

use clap::Args;
use runmesh_events::Catalog;
use runmesh_proto::event::EventType;

use super::{ServerArgs, humantime_duration};

/// How the answer is shown, and who is asked.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Print JSON; of a list, one object in a line
    #[arg(long)]
    pub json: bool,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// How much of a list is shown.
#[derive(Debug, Clone, Args)]
pub struct PageArgs {
    /// How many entries at most
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// All entries, however many there are
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// So long ago.
    Ago(Duration),
    /// Then.
    At(SystemTime),
}

impl When {
    /// The time that is meant.
    pub fn before(self, now: SystemTime) -> SystemTime {
        match self {
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
            Self::At(time) => time,
        }
    }
}

/// An event type by its topic's name.
pub(super) fn topic(text: &str) -> Result<EventType, String> {
    Catalog::get().event_type(text).map_err(|_| "is not an event type; `runmesh topics` lists them".to_owned())
}

/// A point in time, as it is given.
pub(super) fn when(text: &str) -> Result<When, String> {
    let ago = humantime_duration(text).map(When::Ago);
    let at = || humantime::parse_rfc3339_weak(text).map(When::At);
    ago.or_else(|_| at())
        .map_err(|_| "is neither so long ago, such as 1h, nor a time, such as 2026-01-02T03:04:05Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_so_long_ago_or_a_moment() {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
        assert_eq!(when("1970-01-02T00:00:00Z"), Ok(When::At(then)));
        assert_eq!(when("400s"), Ok(When::Ago(Duration::from_secs(400))));
        assert_eq!(When::Ago(Duration::from_secs(400)).before(then), then - Duration::from_secs(400));
        assert!(when("yesterday").is_err());
        assert_eq!(topic("pod_created"), Ok(EventType::PodCreated));
    }
}
