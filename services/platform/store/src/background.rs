//! Work that is in no hurry.

tokio::task_local! {
    static BACKGROUND: ();
}

/// Runs work whose writes wait for those of others, where a backend can tell them apart: what somebody waits for goes first.
/// Tasks that the work spawns are not part of it.
pub async fn in_background<F: Future>(work: F) -> F::Output {
    BACKGROUND.scope((), work).await
}

/// How many pieces of such work are written in one go.
pub(crate) const PART: usize = 8;

/// What is written in one go: all of it, or `size` at a time where the caller is such work, since between the parts there is
/// room for what is in a hurry.
pub(crate) fn parts<T>(pieces: Vec<T>, size: usize) -> impl Iterator<Item = Vec<T>> {
    let size = if is_background() { size } else { usize::MAX };
    let mut pieces = pieces.into_iter();
    std::iter::from_fn(move || Some(pieces.by_ref().take(size).collect::<Vec<_>>()).filter(|part| !part.is_empty()))
}

/// How many documents or events are made before others have their turn.
const AT_ONCE: usize = 8;

/// Lets others have their turn before the piece of this number is made, where there were enough since the last time.
pub async fn give_way(number: usize) {
    if number % AT_ONCE == AT_ONCE - 1 {
        tokio::task::yield_now().await;
    }
}

/// Whether the caller is such work.
pub(crate) fn is_background() -> bool {
    BACKGROUND.try_with(|()| ()).is_ok()
}
