//! Fingerprints: what letters of one cause have in common.

use super::derived_id;

/// How many characters of an error count.
const CHARACTERS: usize = 1_000;

/// How many hexadecimal digits a fingerprint has.
const DIGITS: usize = 16;

/// The fingerprint of an error with its causes, of a group on a topic: the same whatever numbers, ids and quoted names the
/// error's words have.
pub(super) fn of(group: &str, topic: &str, errors: &[String]) -> String {
    let words: Vec<String> = errors.iter().map(|error| without_particulars(error)).collect();
    let digits = derived_id(&format!("{group}\n{topic}\n{}", words.join("\n"))).replace('-', "");
    digits[..DIGITS].to_owned()
}

/// The text with `#` for what has a digit in it, and `"…"` for what is quoted.
fn without_particulars(text: &str) -> String {
    let text: String = text.chars().take(CHARACTERS).collect();
    let mut words = String::new();
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let quoted = |quote: char| rest[1..].find(quote).map(|end| end + 2);
        if let Some(end) = Some(first).filter(|quote| matches!(quote, '"' | '`')).and_then(quoted) {
            words.push_str("\"…\"");
            rest = &rest[end..];
        } else if is_word(first) {
            let end = rest.find(|character| !is_word(character)).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(end);
            words.push_str(if word.contains(|character: char| character.is_ascii_digit()) { "#" } else { word });
            rest = behind;
        } else {
            words.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    words
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '-' | '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(error: &str) -> String {
        of("group", "topic", &[error.to_owned()])
    }

    #[test]
    fn numbers_ids_and_quoted_names_do_not_count() {
        let one =
            print("execution 0199a3b1-7a5e-7d0c-b9c1-000000000001 of \"ann\" failed after 12.5 ms at 10.0.0.1:80");
        let other =
            print("execution 0199a3b1-7a5e-7d0c-b9c1-00000000ffff of \"bob é\" failed after 3.75 ms at 10.9.8.7:443");
        assert_eq!(one, other);
        assert_eq!(one.len(), DIGITS);
        assert_ne!(one, print("execution 7 of \"ann\" ended after 12.5 ms at 10.0.0.1:80"));
        assert_ne!(print("no"), of("group", "topic", &["no".into(), "because".into()]));
        assert_ne!(print("no"), of("other", "topic", &["no".into()]));
        assert_eq!(without_particulars("a quote \" that stays open"), "a quote \" that stays open");
    }
}
