//! `runmesh dlq export`.

use std::{process::ExitCode, time::SystemTime};

use runmesh_proto::dlq::ExportDeadLettersRequest;

use super::{download::Target, filter::filter, open, refused};
use crate::cli::dlq::ExportArgs;

pub(super) async fn export(args: ExportArgs) -> anyhow::Result<ExitCode> {
    let target = Target::open(args.out)?;
    let mut client = open(&args.server).await?;
    let request = ExportDeadLettersRequest { filter: Some(filter(args.filter, SystemTime::now())) };
    let pieces = client.export_dead_letters(request).await.map_err(|status| refused(&status))?.into_inner();
    target.take(pieces, refused).await?;
    Ok(ExitCode::SUCCESS)
}
