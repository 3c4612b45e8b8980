//! `runmesh dlq watch`.

use std::{convert::Infallible, process::ExitCode, time::SystemTime};

use runmesh_proto::dlq::{
    DeadLetter, WatchDeadLettersRequest, WatchDeadLettersResponse, watch_dead_letters_response::Item,
};

use super::{
    Stop,
    filter::filter,
    follow::{Next, follow},
    open, print, refused,
    table::{Table, left, right},
    words,
};
use crate::cli::dlq::WatchArgs;

/// Shows letters as they change, until the user asks to stop.
pub(super) async fn watch(args: WatchArgs) -> anyhow::Result<ExitCode> {
    let client = open(&args.output.server).await?;
    let mut stop = Stop::listen()?;
    let filter = filter(args.filter, SystemTime::now());
    let ask = async move |cursor| {
        let request = WatchDeadLettersRequest { filter: Some(filter.clone()), cursor };
        Ok(client.clone().watch_dead_letters(request).await?.into_inner())
    };
    let mut table = table();
    let take = |message: WatchDeadLettersResponse| {
        if args.output.json {
            print::message(&message, "runmesh.dlq.v1.WatchDeadLettersResponse")?;
        } else if let Some(Item::DeadLetter(letter)) = &message.item {
            for line in table.lines(vec![row(letter)]) {
                print::line(line)?;
            }
        }
        Ok(Next::<Infallible>::After(message.cursor))
    };
    follow(args.cursor, ask, take, refused, &mut stop).await?;
    Ok(ExitCode::SUCCESS)
}

fn table() -> Table {
    Table::new([left("CHANGED"), left("STATE"), left("TYPE"), left("GROUP"), right("RETRIES"), left("ID"), left("WHY")])
}

fn row(letter: &DeadLetter) -> Vec<String> {
    vec![
        words::time(letter.changed_at.as_ref()),
        words::state(letter.state()),
        letter.topic.clone(),
        letter.group.clone(),
        letter.retries.to_string(),
        letter.dead_letter_id.clone(),
        words::error(if letter.cause.is_empty() { &letter.error } else { &letter.cause }),
    ]
}
