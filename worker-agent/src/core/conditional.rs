//! What HTTP says of answers that are given again: validators and conditional requests (RFC 9110, sections 8.8.3 and
//! 13.1.2), and which answers may be kept (RFC 9111). It knows headers, not what they belong to.

use http::HeaderMap;
use http::header::{CACHE_CONTROL, IF_NONE_MATCH, PRAGMA};
use sha2::{Digest as _, Sha256};

/// Headers of an answer that its 304 repeats (RFC 9110, section 15.4.5).
pub const REPEATED: &[&str] = &[
    "age",
    "cache-control",
    "content-location",
    "date",
    "etag",
    "expires",
    "vary",
];

/// How much of a body is read to know an exception document, in bytes.
const HEAD_OF_BODY: usize = 1024;

/// The strong validator of a body: the same for the same bytes of the same type, on every agent.
#[must_use]
pub fn etag(content_type: &str, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(content_type.as_bytes());
    hash.update([0]);
    hash.update(body);
    let digest = hash.finalize();
    let mut tag = String::with_capacity(34);
    tag.push('"');
    // Half of it is more than enough to tell answers apart.
    for byte in &digest[..16] {
        for digit in [byte >> 4, byte & 15] {
            tag.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    tag.push('"');
    tag
}

/// Whether the client has the answer with this validator already: `If-None-Match` names it, or any.
#[must_use]
pub fn has_already(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.trim() == "*" || tags(value).any(|tag| tag == opaque(etag)))
}

/// A tag without the mark of weakness, which the comparison for `If-None-Match` does not look at.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// The tags of a list, with their quotes and without `W/`. A comma may stand within a tag. What is no tag ends the list.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = opaque(rest.trim_start_matches([' ', '\t', ',']));
        let inner = rest.strip_prefix('"')?;
        let end = inner.find('"')? + 2;
        let (tag, after) = rest.split_at(end);
        rest = after;
        Some(tag)
    })
}

/// What a client says of answers that were kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// `no-cache`: the answer is to be made anew.
    pub anew: bool,
    /// `no-store`: the answer is not to be kept.
    pub unkept: bool,
}

impl Wants {
    /// Reads `Cache-Control`, and `Pragma` where there is none.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut wants = Self::default();
        for directive in directives(headers.get_all(CACHE_CONTROL).iter()) {
            wants.anew |= directive == "no-cache";
            wants.unkept |= directive == "no-store";
        }
        let pragma = || directives(headers.get_all(PRAGMA).iter()).any(|directive| directive == "no-cache");
        wants.anew |= !headers.contains_key(CACHE_CONTROL) && pragma();
        wants
    }
}

fn directives<'a>(values: impl Iterator<Item = &'a http::HeaderValue>) -> impl Iterator<Item = String> {
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|directive| directive.trim().to_ascii_lowercase())
}

/// Whether an answer may be kept and given to others: it is a whole success, and neither its headers nor its body say
/// otherwise. `varies_by` are the headers that are part of its question, in small letters.
#[must_use]
pub fn may_be_kept(status: u16, headers: &[(String, String)], body: &[u8], varies_by: &[String]) -> bool {
    let allowed = |(name, value): &(String, String)| match name.to_ascii_lowercase().as_str() {
        "set-cookie" => false,
        "cache-control" => value
            .split(',')
            .all(|directive| !forbids_keeping(&directive.trim().to_ascii_lowercase())),
        "vary" => value
            .split(',')
            .map(|name| name.trim().to_ascii_lowercase())
            .all(|name| name.is_empty() || varies_by.contains(&name)),
        _ => true,
    };
    status == 200 && !body.is_empty() && headers.iter().all(allowed) && !is_exception(body)
}

fn forbids_keeping(directive: &str) -> bool {
    let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
    match name {
        // A `no-cache` of QGIS's side cannot be asked about without rendering.
        "no-store" | "no-cache" | "private" => true,
        "max-age" | "s-maxage" => value.trim_matches('"').parse::<u64>().is_ok_and(|age| age == 0),
        _ => false,
    }
}

/// Whether a body is an exception document of any service; QGIS sends some with status 200.
fn is_exception(body: &[u8]) -> bool {
    let head = &body[..body.len().min(HEAD_OF_BODY)];
    let text = head.trim_ascii_start();
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    // `ServiceExceptionReport`, `ExceptionReport` and `ows:ExceptionReport`.
    text.starts_with(b"<")
        && text
            .windows(16)
            .any(|window| window == b"ExceptionReport " || window == b"ExceptionReport>")
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn list(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_validator_is_of_the_type_and_the_bytes() {
        // Worked out apart from this code: sha256sum over "text/xml", a NUL and "<a/>".
        assert_eq!(etag("text/xml", b"<a/>"), "\"cd32ef404978f4fadd1dda03129e2311\"");
        assert_ne!(etag("text/xml", b"<a/>"), etag("text/html", b"<a/>"));
        assert_ne!(etag("text/xml", b"<a/>"), etag("text/xml", b"<b/>"));
    }

    #[test]
    fn if_none_match_is_a_list_or_a_star_and_weakness_does_not_matter() {
        let has = |value| has_already(&map(&[("if-none-match", value)]), "\"a,b\"");
        for yes in [
            "\"a,b\"",
            "W/\"a,b\"",
            "*",
            " * ",
            "\"x\", \"a,b\"",
            "\"x\",W/\"a,b\" , \"y\"",
            ",,\"a,b\"",
        ] {
            assert!(has(yes), "{yes}");
        }
        for no in ["", "\"a\"", "a,b", "\"a,b", "\"x\", y, \"a,b\"", "\"*\"", "w/\"a,b\""] {
            assert!(!has(no), "{no}");
        }
        assert!(has_already(&map(&[("if-none-match", "\"a\"")]), "W/\"a\""));
        assert!(!has_already(&HeaderMap::new(), "\"a\""));
        let mut two = map(&[("if-none-match", "\"a\"")]);
        two.append("if-none-match", HeaderValue::from_static("\"b\""));
        assert!(has_already(&two, "\"b\""));
    }

    #[test]
    fn clients_may_want_it_made_anew() {
        let wants = |pairs| Wants::of(&map(pairs));
        let (anew, unkept) = (true, true);
        assert_eq!(wants(&[]), Wants::default());
        assert_eq!(wants(&[("cache-control", "max-age=0")]), Wants::default());
        let expected = Wants {
            anew,
            ..Wants::default()
        };
        assert_eq!(wants(&[("cache-control", "max-age=0, No-Cache")]), expected);
        assert_eq!(wants(&[("pragma", "no-cache")]), expected);
        assert_eq!(
            wants(&[("pragma", "no-cache"), ("cache-control", "max-age=60")]),
            Wants::default()
        );
        assert_eq!(wants(&[("cache-control", "no-store,no-cache")]), Wants { anew, unkept });
    }

    #[test]
    fn only_whole_successes_that_nobody_forbids_are_kept() {
        let xml = [("Content-Type", "text/xml")];
        let varies_by = ["accept".to_owned()];
        let kept =
            |status, headers: &[(&str, &str)], body: &[u8]| may_be_kept(status, &list(headers), body, &varies_by);
        assert!(kept(200, &xml, b"<WMS_Capabilities/>"));
        assert!(kept(
            200,
            &[("Cache-Control", "public, max-age=60"), ("Vary", "Accept,")],
            b"x"
        ));
        for status in [201, 204, 206, 302, 400, 404, 500] {
            assert!(!kept(status, &xml, b"<WMS_Capabilities/>"), "{status}");
        }
        for header in [
            ("Set-Cookie", "a=1"),
            ("Cache-Control", "no-store"),
            ("cache-control", "max-age=60, Private"),
            ("Cache-Control", "no-cache"),
            ("Cache-Control", "max-age=0"),
            ("Vary", "*"),
            ("Vary", "Accept, Accept-Language"),
        ] {
            assert!(!kept(200, &[header], b"x"), "{header:?}");
        }
        for exception in [
            "<?xml version=\"1.0\"?>\n<ServiceExceptionReport version=\"1.3.0\">",
            " <ServiceExceptionReport>",
            "<ows:ExceptionReport xmlns:ows=\"x\">",
            "\u{FEFF}<ExceptionReport >",
            "",
        ] {
            assert!(!kept(200, &xml, exception.as_bytes()), "{exception}");
        }
    }
}
