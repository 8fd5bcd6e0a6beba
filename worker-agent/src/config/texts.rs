//! Keys that take one text or a list of them. Where a variable sets one, its text may hold the list. What it does not know:
//! what the texts mean.

use std::fmt;

use schemars::{Schema, json_schema};
use serde::de::{self, Deserializer, SeqAccess, Visitor};

/// A list, or a text that holds one as JSON, or a text that is split into one.
pub(super) fn texts<'de, D: Deserializer<'de>>(
    from: D,
    expecting: &'static str,
    separator: char,
) -> Result<Vec<String>, D::Error> {
    struct Texts(&'static str, char);
    impl<'de> Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            let text = text.trim();
            let invalid = || E::invalid_value(de::Unexpected::Str(text), &self);
            let text = match text.chars().next() {
                Some('[') => return serde_json::from_str(text).map_err(|_| invalid()),
                Some('"') => serde_json::from_str(text).map_err(|_| invalid())?,
                _ => text.to_owned(),
            };
            let parts = text.split(self.1).map(str::trim).filter(|part| !part.is_empty());
            Ok(parts.map(str::to_owned).collect())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = list.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }
    from.deserialize_any(Texts(expecting, separator))
}

/// What a text or a list of texts may stand for.
pub(super) fn text_or_list(expected: &str) -> Schema {
    json_schema!({ "type": ["string", "array"], "items": { "type": "string" }, "x-expected": expected })
}
