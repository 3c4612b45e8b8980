//! Path templates of `google.api.http`, such as `/v1/executions/{execution_id}:cancel`.
//!
//! A `:` in the last segment of a request's path starts the verb. A value that has one itself is sent as `%3A`.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// A template that is not understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnsupportedTemplate(pub(crate) String);

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// One segment, the value of a field of the request.
    Field(String),
}

/// A parsed template.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Template {
    segments: Vec<Segment>,
    verb: Option<String>,
}

/// The path of a request, taken apart once for all templates. Segments are still encoded.
#[derive(Debug)]
pub(crate) struct RequestPath<'a> {
    segments: Vec<&'a str>,
    verb: Option<&'a str>,
}

impl<'a> RequestPath<'a> {
    /// Takes a path apart. It starts with `/`, as every path of HTTP does.
    pub(crate) fn new(path: &'a str) -> Self {
        let path = path.strip_prefix('/').unwrap_or(path);
        let start_of_last = path.rfind('/').map_or(0, |slash| slash + 1);
        let (path, verb) = match path[start_of_last..].find(':') {
            Some(colon) => (&path[..start_of_last + colon], Some(&path[start_of_last + colon + 1..])),
            None => (path, None),
        };
        Self { segments: path.split('/').collect(), verb }
    }
}

impl Template {
    /// Parses literals, `{field}`, `{field=*}` and a verb. Patterns over several segments are not in use.
    pub(crate) fn parse(text: &str) -> Result<Self, UnsupportedTemplate> {
        let unsupported = || UnsupportedTemplate(text.to_owned());
        let rest = text.strip_prefix('/').ok_or_else(unsupported)?;
        let (path, verb) = match rest.rfind(':') {
            Some(colon) if !rest[colon..].contains(['/', '}']) => (&rest[..colon], Some(rest[colon + 1..].to_owned())),
            _ => (rest, None),
        };
        let segments = path.split('/').map(|segment| {
            if let Some(field) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                let field = field.strip_suffix("=*").unwrap_or(field);
                let is_path = field
                    .split('.')
                    .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
                return is_path.then(|| Segment::Field(field.to_owned()));
            }
            let is_literal = !segment.is_empty() && !segment.contains(['{', '}', '*']);
            is_literal.then(|| Segment::Literal(segment.to_owned()))
        });
        let segments = segments.collect::<Option<Vec<_>>>().ok_or_else(unsupported)?;
        Ok(Self { segments, verb })
    }

    /// The fields that the path sets and their values, still encoded. `None` when the path is another one.
    pub(crate) fn matches<'a>(&'a self, path: &RequestPath<'a>) -> Option<Vec<(&'a str, &'a str)>> {
        if self.verb.as_deref() != path.verb || self.segments.len() != path.segments.len() {
            return None;
        }
        let mut fields = Vec::new();
        for (segment, text) in self.segments.iter().zip(&path.segments) {
            match segment {
                Segment::Literal(literal) => {
                    if percent_decode_str(text).decode_utf8().ok()? != literal.as_str() {
                        return None;
                    }
                }
                Segment::Field(_) if text.is_empty() => return None,
                Segment::Field(field) => fields.push((field.as_str(), *text)),
            }
        }
        Some(fields)
    }

    /// The names of the fields that the path sets.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Field(field) => Some(field.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// How many segments are literals: of two templates that match, the one with more is meant.
    pub(crate) fn literals(&self) -> usize {
        self.segments.iter().filter(|segment| matches!(segment, Segment::Literal(_))).count()
    }
}

/// Decodes `%xx`. `None` when the result is not UTF-8.
pub(crate) fn decode(text: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(text).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(template: &str, path: &str) -> Option<Vec<(String, String)>> {
        let template = Template::parse(template).unwrap();
        let path = RequestPath::new(path);
        let fields = template.matches(&path)?;
        Some(fields.into_iter().map(|(field, value)| (field.to_owned(), value.to_owned())).collect())
    }

    fn id(value: &str) -> Option<Vec<(String, String)>> {
        Some(vec![("execution_id".to_owned(), value.to_owned())])
    }

    #[test]
    fn a_verb_is_told_from_the_value_before_it() {
        let (plain, cancel) = ("/v1/executions/{execution_id}", "/v1/executions/{execution_id}:cancel");
        assert_eq!(matched(plain, "/v1/executions/17"), id("17"));
        assert_eq!(matched(cancel, "/v1/executions/17:cancel"), id("17"));
        assert_eq!(matched(plain, "/v1/executions/17:cancel"), None);
        assert_eq!(matched(cancel, "/v1/executions/17"), None);
        assert_eq!(matched(cancel, "/v1/executions/17:cancelled"), None);
        assert_eq!(matched(cancel, "/v1/executions/:cancel"), None);
        assert_eq!(matched(plain, "/v1/executions/a%3Ab"), id("a%3Ab"));
    }

    #[test]
    fn paths_match_as_a_whole() {
        let template = "/v1/executions/{execution_id}/result";
        assert_eq!(matched(template, "/v1/executions/17/result"), id("17"));
        for other in ["/v1/executions/17", "/v1/executions/17/result/", "/v1/executions//result", "/", "", "/v1"] {
            assert_eq!(matched(template, other), None, "{other}");
        }
        assert_eq!(matched("/v1/limits", "/v1/limits"), Some(Vec::new()));
        assert_eq!(matched("/v1/limits", "/v1/l%69mits"), Some(Vec::new()));
    }

    #[test]
    fn what_is_not_understood_is_refused_when_it_is_parsed() {
        assert!(Template::parse("/v1/{name=*}").is_ok());
        for template in ["v1/x", "/v1/{name=things/*}", "/v1/**", "/v1/*", "/v1//x", "/v1/{}", "/v1/{a b}", "/v1/x{y}"]
        {
            assert_eq!(Template::parse(template), Err(UnsupportedTemplate(template.to_owned())));
        }
    }
}
