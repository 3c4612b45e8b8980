//! `runmesh events tail`.

use std::{convert::Infallible, process::ExitCode, time::SystemTime};

use runmesh_proto::event_log::{TailEventsRequest, TailEventsResponse, tail_events_response::Item};

use super::{
    Stop,
    filter::filter,
    follow::{Next, follow},
    list::{row, table},
    open, print, refused,
};
use crate::cli::events::TailArgs;

/// Shows events as they are recorded, until the user asks to stop.
pub(super) async fn tail(args: TailArgs) -> anyhow::Result<ExitCode> {
    let client = open(&args.output.server).await?;
    let mut stop = Stop::listen()?;
    let filter = filter(args.filter, SystemTime::now());
    let ask = async move |cursor| {
        let request = TailEventsRequest { filter: Some(filter.clone()), cursor };
        Ok(client.clone().tail_events(request).await?.into_inner())
    };
    let mut table = table();
    let take = |message: TailEventsResponse| {
        if args.output.json {
            print::message(&message, "runmesh.event_log.v1.TailEventsResponse")?;
        } else if let Some(Item::Event(event)) = &message.item {
            for line in table.lines(vec![row(event)]) {
                print::line(line)?;
            }
        }
        Ok(Next::<Infallible>::After(message.cursor))
    };
    follow(args.cursor, ask, take, refused, &mut stop).await?;
    Ok(ExitCode::SUCCESS)
}
