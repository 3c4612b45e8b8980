//! The dead letters that are kept.

use std::collections::BTreeMap;

use runmesh_bus::DeadLetter;
use runmesh_store::{Documents, IndexValue, PageQuery, StoreError};

/// How many letters one read brings. Each has the whole value of its record.
const READ: usize = 16;

/// The number of dead letters of each group, by topic.
pub(crate) type Letters = BTreeMap<String, BTreeMap<String, i64>>;

/// Counts the dead letters.
pub(crate) async fn count(letters: &Documents<DeadLetter>) -> Result<Letters, StoreError> {
    let mut counts = Letters::new();
    for (group, _) in letters.count_by("by_group").await? {
        let IndexValue::Text(name) = &group else { continue };
        let of_group = counts.entry(name.clone()).or_default();
        let mut query =
            PageQuery { index: "by_group", equal: vec![group.clone()], limit: READ, ..PageQuery::default() };
        loop {
            let page = letters.page(query.clone()).await?;
            for letter in page.documents {
                *of_group.entry(letter.document.topic).or_default() += 1;
            }
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
    }
    Ok(counts)
}
