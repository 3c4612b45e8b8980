//! Who does something.

use anyhow::Context as _;

use crate::Environment;

/// Who does something.
pub(super) fn actor(given: Option<String>, environment: &Environment) -> anyhow::Result<String> {
    let name = given.or_else(|| environment.user.clone()).filter(|name| !name.trim().is_empty());
    name.context("--actor is needed, since $USER does not say who does this")
}
