//! Which of a client's headers reach QGIS and its plugins: those that QGIS itself reads, and those that an operator names.
//!
//! What is not passed cannot change an answer. So whatever else a client sends, requests can share an answer; and a
//! header that says who asks reaches the code of plugins only when somebody has said that it should.

use http::{HeaderMap, HeaderName};

/// Headers that QGIS reads, besides `X-Qgis-*`.
const READ: &[&str] = &["accept", "content-type"];

/// How the names of QGIS's own headers begin.
const OWN: &str = "x-qgis-";

/// Headers that end here, whatever is configured: those of the connection, and those that would tell QGIS another URL
/// than the one it is given.
const ENDS_HERE: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers between proxies, Envoy and the agent. Who a request comes from is the one that may be of use to a plugin.
const BETWEEN_US: &[&str] = &["x-forwarded-", "x-envoy-", "x-graticule-"];
const CLIENT_ADDRESS: &str = "x-forwarded-for";

/// The headers that an operator has named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forwarded {
    /// Whole names, in small letters.
    names: Vec<HeaderName>,
    /// Beginnings of names, in small letters.
    beginnings: Vec<String>,
}

impl Forwarded {
    /// The headers that `patterns` name: whole names, or beginnings with a `*` behind them, in any letter case.
    ///
    /// # Errors
    /// The first pattern that names no header, or only one that never reaches QGIS, with what is wrong with it.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut forwarded = Self::default();
        for pattern in patterns {
            let no_name =
                || format!("`{pattern}` is no header's name; write such as \"authorization\" or \"x-lizmap-*\"");
            let stem = pattern.strip_suffix('*').unwrap_or(pattern);
            // HTTP allows a star in a name, but nobody means that.
            if stem.contains('*') {
                return Err(no_name());
            }
            if let Some(beginning) = pattern.strip_suffix('*') {
                if !beginning.is_empty() && HeaderName::try_from(beginning).is_err() {
                    return Err(no_name());
                }
                forwarded.beginnings.push(beginning.to_ascii_lowercase());
                continue;
            }
            let name = HeaderName::try_from(pattern).map_err(|_| no_name())?;
            if ends_here(name.as_str()) {
                return Err(format!(
                    "`{pattern}` never reaches QGIS: it belongs to the connection, or QGIS would make wrong links of it"
                ));
            }
            forwarded.names.push(name);
        }
        Ok(forwarded)
    }

    /// Whether a header reaches QGIS because it was named, and not anyway.
    #[must_use]
    pub fn names(&self, name: &HeaderName) -> bool {
        let text = name.as_str();
        let named = || self.names.contains(name) || self.beginnings.iter().any(|start| text.starts_with(start));
        !read_anyway(text) && !ends_here(text) && named()
    }

    /// Whether a header reaches QGIS.
    #[must_use]
    pub fn passes(&self, name: &HeaderName) -> bool {
        read_anyway(name.as_str()) || self.names(name)
    }

    /// The client's headers as QGIS and its plugins may see them. QGIS compares names with regard to letter case, so each
    /// word gets a capital: `content-type` becomes `Content-Type`. Several values of one header are joined with a comma.
    #[must_use]
    pub fn pass(&self, headers: &HeaderMap) -> Vec<(String, String)> {
        let mut passed: Vec<(String, String)> = Vec::new();
        for name in headers.keys().filter(|name| self.passes(name)) {
            let values: Vec<&str> = headers
                .get_all(name)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .collect();
            let separator = if name == http::header::COOKIE { "; " } else { ", " };
            if !values.is_empty() {
                passed.push((capitals(name.as_str()), values.join(separator)));
            }
        }
        passed
    }
}

/// Whether QGIS itself reads it, and may.
fn read_anyway(name: &str) -> bool {
    READ.contains(&name) || (name.starts_with(OWN) && !ends_here(name))
}

fn ends_here(name: &str) -> bool {
    let overrides = name.starts_with(OWN) && name.ends_with("service-url");
    let between_us = name != CLIENT_ADDRESS && BETWEEN_US.iter().any(|start| name.starts_with(start));
    overrides || between_us || ENDS_HERE.contains(&name)
}

fn capitals(name: &str) -> String {
    let word = |word: &str| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
