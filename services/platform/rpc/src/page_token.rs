//! Pages of lists: how long one is, and its token: where it ended, and which filters it had.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::Violation;

/// The greatest number of entries of a page.
const MAX_PAGE: i32 = 1_000;

/// The number of entries of a page, by a request's `page_size`; 0 stands for the default.
///
/// # Errors
/// It is negative or above 1,000.
pub fn size(asked: i32, default: usize) -> Result<usize, Violation> {
    match asked {
        0 => Ok(default),
        1..=MAX_PAGE => Ok(usize::try_from(asked).unwrap_or(default)),
        _ => Err(Violation::new("page_size", format!("is {asked}; it has to be from 0 to {MAX_PAGE}"))),
    }
}

#[derive(Serialize, Deserialize)]
struct Token {
    after: String,
    filters: u64,
}

/// The token of the page after a place, for the same filters. `None`: there is no such page, and the token is empty.
pub fn encode(after: Option<String>, filters: &[u8]) -> String {
    let token = after.map(|after| Token { after, filters: fingerprint(filters) });
    token.map(|token| BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())).unwrap_or_default()
}

/// The place that a token names; for the empty one, the start. `None`: it is not one that [`encode`] made for these
/// filters.
pub fn decode(text: &str, filters: &[u8]) -> Option<Option<String>> {
    if text.is_empty() {
        return Some(None);
    }
    let token: Token = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    (token.filters == fingerprint(filters)).then_some(Some(token.after))
}

fn fingerprint(filters: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    filters.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_the_filters_that_it_was_made_for_alone() {
        let token = encode(Some("place".to_owned()), b"a");
        assert_eq!(decode(&token, b"a"), Some(Some("place".to_owned())));
        assert_eq!(decode(&token, b"b"), None);
        assert_eq!(decode("nonsense", b"a"), None);
        assert_eq!((encode(None, b"a").as_str(), decode("", b"a")), ("", Some(None)));
    }
}
