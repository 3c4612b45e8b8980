//! Work that is in no hurry.

tokio::task_local! {
    static BACKGROUND: ();
}

/// Runs work whose writes wait for those of others, where a backend can tell them apart: what somebody waits for goes first.
/// Tasks that the work spawns are not part of it.
pub async fn in_background<F: Future>(work: F) -> F::Output {
    BACKGROUND.scope((), work).await
}

/// How many pieces of such work are written in one go: between the parts there is room for what is in a hurry.
pub(crate) const PART: usize = 8;

/// Whether the caller is such work.
pub(crate) fn is_background() -> bool {
    BACKGROUND.try_with(|()| ()).is_ok()
}
