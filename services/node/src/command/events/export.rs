//! `runmesh events export`.

use std::{process::ExitCode, time::SystemTime};

use runmesh_proto::event_log::{ExportEventsRequest, ExportFormat};

use super::{download::Target, filter::filter, open, refused};
use crate::cli::events::{ExportArgs, FormatArg};

pub(super) async fn export(args: ExportArgs) -> anyhow::Result<ExitCode> {
    let is_csv = args.out.as_ref().and_then(|out| out.extension()).is_some_and(|end| end.eq_ignore_ascii_case("csv"));
    let format = match args.format {
        Some(FormatArg::Csv) => ExportFormat::Csv,
        None if is_csv => ExportFormat::Csv,
        Some(FormatArg::Ndjson) | None => ExportFormat::Ndjson,
    };
    let target = Target::open(args.out)?;
    let mut client = open(&args.server).await?;
    let request = ExportEventsRequest { filter: Some(filter(args.filter, SystemTime::now())), format: format.into() };
    let pieces = client.export_events(request).await.map_err(|status| refused(&status))?.into_inner();
    target.take(pieces, refused).await?;
    Ok(ExitCode::SUCCESS)
}
