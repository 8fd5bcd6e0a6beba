//! Key-value pairs as QGIS Server reads them, from a query string or a form body.
//!
//! Keys are compared without regard to letter case. When a key comes more than once the last one counts, and a form
//! body comes after the query: that is what QGIS 3.40 does with everything but `MAP` (its links take the first `MAP`,
//! its project the last; [`parse`](super::parse) refuses two different ones instead). `+` is a space, a stray `%` is
//! itself, bytes that are not UTF-8 become U+FFFD, and `;` does not separate. A key without a value has an empty one.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// The most pairs one request may have; QGIS knows about a hundred parameters.
pub(super) const MAX_PAIRS: usize = 2000;

/// The parameters of a request: keys in capitals, in order; one value each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    /// The value of a parameter; `key` is written in capitals.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The value of a parameter, when it has one that is not empty.
    #[must_use]
    pub fn filled(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// All pairs in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(super) fn set(&mut self, key: String, value: String) {
        self.0.insert(key, value);
    }
}

/// One pair, and the text it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair<'a> {
    /// The key in capitals.
    pub key: String,
    /// The decoded value.
    pub value: Cow<'a, str>,
    /// The undecoded `key=value`.
    pub raw: &'a [u8],
}

/// The pairs of a form body in the order in which they stand; those without a key are left out.
pub(super) fn pairs(text: &[u8]) -> impl Iterator<Item = Pair<'_>> {
    text.split(|byte| *byte == b'&').filter_map(pair)
}

/// The pairs of a query.
///
/// QGIS writes the link from an API's collection to its schema as `?MAP=/world?request=…`: a bare
/// `?` after `MAP=` separates, while `%3F` is part of the name.
pub(super) fn query_pairs(text: &str) -> impl Iterator<Item = Pair<'_>> {
    let pieces = text.as_bytes().split(|byte| *byte == b'&').flat_map(|raw| {
        let is_map = pair(raw).is_some_and(|pair| pair.key == "MAP");
        raw.split(move |byte| is_map && *byte == b'?')
    });
    pieces.filter_map(pair)
}

fn pair(raw: &[u8]) -> Option<Pair<'_>> {
    let (key, value) = form_urlencoded::parse(raw).next()?;
    (!key.is_empty()).then(|| Pair {
        key: key.to_uppercase(),
        value,
        raw,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        pairs(text.as_bytes())
            .map(|pair| (pair.key, pair.value.into_owned()))
            .collect()
    }

    fn one(key: &str, value: &str) -> Vec<(String, String)> {
        vec![(key.to_owned(), value.to_owned())]
    }

    // What QGIS 3.40.6 made of each, seen through QgsBufferServerRequest.parameters().
    #[test]
    fn decodes_as_qgis_does() {
        assert_eq!(read("LAYERS=a%26b"), one("LAYERS", "a&b"));
        assert_eq!(read("LAYERS=a%2Bb"), one("LAYERS", "a+b"));
        assert_eq!(read("layers=a+b"), one("LAYERS", "a b"));
        assert_eq!(read("Layers=a%2526b"), one("LAYERS", "a%26b"));
        assert_eq!(read("LAYERS=%zz"), one("LAYERS", "%zz"));
        assert_eq!(read("layers=x;LAYERS=y"), one("LAYERS", "x;LAYERS=y"));
        assert_eq!(read("LAYERS=caf%C3%A9"), one("LAYERS", "café"));
        assert_eq!(read("LAYERS=%FF"), one("LAYERS", "\u{FFFD}"));
        assert_eq!(read("LAYERS"), one("LAYERS", ""));
        assert_eq!(read("&&L%41YERS=a=b&=x"), one("LAYERS", "a=b"));
    }

    #[test]
    fn keeps_the_text_of_each_pair() {
        let raw: Vec<&[u8]> = pairs(b"map=%2Fworld&&SERVICE=WMS").map(|pair| pair.raw).collect();
        assert_eq!(raw, [&b"map=%2Fworld"[..], &b"SERVICE=WMS"[..]]);
    }

    #[test]
    fn a_bare_question_mark_ends_map_in_a_query() {
        let seen = |text| {
            query_pairs(text)
                .map(|pair| format!("{}={}", pair.key, pair.value))
                .collect::<Vec<_>>()
        };
        assert_eq!(seen("map=/w?request=A&x=a?b"), ["MAP=/w", "REQUEST=A", "X=a?b"]);
        assert_eq!(seen("MAP=/w%3Fx=1"), ["MAP=/w?x=1"]);
        assert_eq!(seen("MAP=/a?MAP=/b"), ["MAP=/a", "MAP=/b"]);
        assert_eq!(read("MAP=/w?x"), one("MAP", "/w?x"));
    }
}
