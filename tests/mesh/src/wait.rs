//! Waiting for conditions.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::bail;

/// How long tests wait for what normally takes a moment. Generous, since it only matters when something is broken, and
/// the machine may be slow, and busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Tries again until there is a value.
///
/// # Errors
/// When there is none within [`PATIENCE`], saying what was waited for; when a try fails.
pub async fn eventually<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let since = Instant::now();
    loop {
        if let Some(value) = attempt().await? {
            return Ok(value);
        }
        if since.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} in vain for: {what}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
