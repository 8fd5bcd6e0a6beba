//! `[pools.NAME.cors]`: which pages of other origins may read a pool's answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pools::{MOST_PATTERN_BYTES, header_problem};

/// `[pools.NAME.cors]`: which pages of other origins may read a pool's answers. Envoy answers every preflight itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// The origins whose pages may read answers: all, none but the host's own, or some, such as `https://example.org`,
    /// `https://*.example.org` or `http://localhost:*`.
    #[schemars(extend("x-expected" = "all, same-origin, or a list of origins"))]
    pub origins: Origins,
    /// Whether pages may send cookies and other credentials along; not with `"all"`.
    pub credentials: bool,
    /// Request headers that pages may set besides those that they always may.
    pub headers: Vec<String>,
    /// How long a browser may remember the answer to a preflight, in seconds.
    #[schemars(extend("x-expected" = "a whole number from 0 to 86400"))]
    pub max_age: u32,
}

impl Default for Cors {
    fn default() -> Self {
        let headers = [
            "accept",
            "authorization",
            "content-type",
            "if-none-match",
            "range",
            "x-requested-with",
        ];
        Self {
            origins: Origins::default(),
            credentials: false,
            headers: headers.map(str::to_owned).into(),
            max_age: 3600,
        }
    }
}

/// Origins of pages: a word, or a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Origins {
    /// `all` or `same-origin`.
    Word(String),
    /// Origins, `*` in a host or as a port.
    List(Vec<String>),
}

impl Default for Origins {
    fn default() -> Self {
        Self::Word(SAME_ORIGIN.to_owned())
    }
}

/// Pages of the same origin only.
const SAME_ORIGIN: &str = "same-origin";

/// Pages of any origin.
const ALL_ORIGINS: &str = "all";

impl Origins {
    /// Whether pages of any origin may read answers.
    #[must_use]
    pub fn all(&self) -> bool {
        matches!(self, Self::Word(word) if word == ALL_ORIGINS)
    }

    /// The origins of a list.
    #[must_use]
    pub fn list(&self) -> &[String] {
        match self {
            Self::Word(_) => &[],
            Self::List(list) => list,
        }
    }
}

/// The first key that cannot be used, its value, and what to change.
pub(super) fn problem(cors: &Cors) -> Option<(&'static str, String, &'static str)> {
    let of_origins = |value: &str, problem| Some(("cors.origins", value.to_owned(), problem));
    match &cors.origins {
        Origins::Word(word) if word != ALL_ORIGINS && word != SAME_ORIGIN => {
            return of_origins(word, "write `all`, `same-origin`, or a list of origins");
        }
        Origins::Word(_) => {}
        Origins::List(list) => {
            if list.is_empty() {
                return of_origins("[]", "the list is empty, write `same-origin` for no other origin");
            }
            if let Some(wrong) = list.iter().find(|origin| !is_origin(origin)) {
                return of_origins(
                    wrong,
                    "an origin is scheme, host and perhaps port, as in `https://maps.example.org`; `*` stands for a part of the host or for the port, in up to 64 bytes",
                );
            }
        }
    }
    if cors.origins.all() && cors.credentials {
        return Some((
            "cors.credentials",
            "true".to_owned(),
            "any page could act for your users, list the origins",
        ));
    }
    if let Some(header) = cors.headers.iter().find(|name| header_problem(name, "*").is_some()) {
        return Some((
            "cors.headers",
            header.clone(),
            "it is no name of a header that a page may set",
        ));
    }
    if cors.max_age > 86_400 {
        return Some((
            "cors.max_age",
            cors.max_age.to_string(),
            "set it to a number of seconds from 0 to 86400",
        ));
    }
    None
}

fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else {
        return false;
    };
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "*"));
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._*".contains(&b);
    // Each wildcard takes some steps.
    let wild = text.matches('*').count();
    let fits = wild == 0 || (wild <= 2 && text.len() <= MOST_PATTERN_BYTES);
    fits && !scheme.is_empty()
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b"+-.".contains(&b))
        && !host.is_empty()
        && host.bytes().all(plain)
        && (port == "*" || (!port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())))
}
