//! Which requests are the same question, so that one answer serves them all: those that run at the same time, and, for
//! some kinds of answers, those that come later.
//!
//! Two requests that QGIS would answer differently must never have the same key. So the key is made of what QGIS is
//! handed ([`upstream`]), and is the more literal the more of the request an answer repeats:
//!
//! | answer | repeats | key |
//! |---|---|---|
//! | a picture (map, legend, print) | nothing | the parameters in order, keys in capitals |
//! | a document of a service | its URL but for REQUEST, VERSION and SERVICE | the URL without these three, and their values |
//! | a page of an API; anything that was posted | its URL | the whole URL, the `Accept` header, the body |
//!
//! What browsers append to get past caches is not in the key, since QGIS is not handed it either. Which version of the
//! project is asked for is not known here: the cache adds it.

use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName};

use super::fingerprint::VOLATILE;
use super::headers::Forwarded;
use super::kvp;
use super::origin::Origin;
use super::request::{Kind, OgcRequest, Service};
use super::upstream::upstream;

/// An answer that QGIS makes piece by piece is held back until it is whole or has so many bytes: a worker that dies
/// before has answered nothing, and the request can be tried elsewhere.
pub const HOLD: usize = 256 * 1024;

/// The same for an answer that QGIS makes as a whole before it sends any of it: holding it back costs no time.
pub const HOLD_WHOLE: usize = 8 << 20;

/// The side of a WMTS tile of QGIS's, in pixels.
const TILE: u64 = 256;

/// The largest body that a request may have to be shared, in bytes: it is part of the key.
const MOST_BODY: usize = 64 * 1024;

/// Headers that say who asks. What a request with one of them is answered with is for nobody else.
const CREDENTIALS: &[&str] = &[
    "authorization",
    "cookie",
    "remote-user",
    "x-api-key",
    "x-auth-request-user",
    "x-auth-token",
    "x-remote-user",
    "x-user",
    "x-webauth-user",
];

/// What an operator decides about sharing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SharingRules {
    /// How long capabilities, descriptions, legends and styles are kept; zero: not at all.
    pub max_age: Duration,
    /// How long maps are kept; zero: not at all.
    pub map_max_age: Duration,
    /// Only maps of at most so many pixels are kept.
    pub map_max_pixels: u64,
    /// Whether identical requests in flight share one render.
    pub join: bool,
    /// Headers that plugins answer by. Their values are part of the key.
    pub vary_headers: Vec<HeaderName>,
    /// Headers that reach plugins because they were named. A request with one that is not in `vary_headers` is answered
    /// for its client alone, as nobody knows what a plugin makes of it.
    pub forwarded: Forwarded,
}

/// How a request may be shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    /// The question in full; none when the answer is for this client alone.
    pub key: Option<String>,
    /// Whether it may join an identical request in flight.
    pub join: bool,
    /// For how long its answer may be kept, if at all.
    pub keep: Option<Duration>,
    /// For how long a client need not ask whether a kept answer still holds; none: each time.
    pub fresh: Option<Duration>,
    /// Whether the key holds credentials, so that nobody else may keep the answer.
    pub private: bool,
    /// The headers that the key holds, in small letters, for the answer's `Vary`.
    pub varies_by: Vec<String>,
    /// Up to so many bytes the answer is held back until it is whole.
    pub hold: usize,
}

impl Sharing {
    /// The same for a question of this server's own that is asked in the words of a request: `what` is wanted, and a client
    /// with these very words wants something else. No key of a client's request begins with a letter.
    #[must_use]
    pub fn of_ours(self, what: &str) -> Self {
        Self {
            key: self.key.map(|key| format!("{what} of {key}")),
            ..self
        }
    }

    /// The same for an answer that is for this client alone.
    #[must_use]
    pub fn alone(self) -> Self {
        Self {
            key: None,
            join: false,
            keep: None,
            fresh: None,
            ..self
        }
    }
}

/// How long answers of a kind may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Not at all: they show data.
    Never,
    /// As a description of the project.
    Description,
    /// As a file that is the same for all projects; clients need not ask for it again.
    File,
    /// As a map of so many pixels.
    Map(u64),
}

/// What is known of an operation's answers.
#[derive(Debug, Clone, Copy)]
struct Traits {
    /// It repeats nothing of the request.
    picture: bool,
    keep: Keep,
    /// QGIS makes it whole before it sends any of it.
    whole: bool,
}

const DOCUMENT: Traits = Traits {
    picture: false,
    keep: Keep::Description,
    whole: true,
};
const LEGEND: Traits = Traits {
    picture: true,
    ..DOCUMENT
};
/// Made whole, and shows data.
const INFO: Traits = Traits {
    keep: Keep::Never,
    ..DOCUMENT
};
const STREAM: Traits = Traits { whole: false, ..INFO };

/// Decides how `request`, whose body the client sent as `body`, may be shared.
#[must_use]
pub fn sharing(
    request: &OgcRequest,
    body: &[u8],
    headers: &HeaderMap,
    origin: &Origin,
    rules: &SharingRules,
) -> Sharing {
    let traits = traits(request);
    let mut varies_by: Vec<&HeaderName> = rules.vary_headers.iter().collect();
    if matches!(request.kind, Kind::Api { .. }) {
        varies_by.push(&ACCEPT);
    }
    varies_by.sort_by_key(|name| name.as_str());
    varies_by.dedup();
    let mut sharing = Sharing {
        key: None,
        join: false,
        keep: None,
        fresh: None,
        private: false,
        varies_by: varies_by.iter().map(|name| name.as_str().to_owned()).collect(),
        hold: if traits.is_some_and(|traits| traits.whole) {
            HOLD_WHOLE
        } else {
            HOLD
        },
    };
    let Some(traits) = traits else { return sharing };
    let is_named = |name: &str| varies_by.iter().any(|named| *named == name);
    let tells_who = |name: &&HeaderName| CREDENTIALS.contains(&name.as_str()) || rules.forwarded.names(name);
    let credentials: Vec<&HeaderName> = headers.keys().filter(tells_who).collect();
    if credentials.iter().any(|name| !is_named(name.as_str())) {
        return sharing;
    }
    let keep = match traits.keep {
        Keep::Never => None,
        Keep::Description | Keep::File => Some(rules.max_age),
        Keep::Map(pixels) if pixels <= rules.map_max_pixels => Some(rules.map_max_age),
        Keep::Map(_) => None,
    };
    let keep = keep.filter(|age| !age.is_zero());
    if keep.is_none() && !rules.join {
        return sharing;
    }
    let Some(mut key) = key(request, body, headers, origin, traits.picture) else {
        return sharing;
    };
    for name in varies_by {
        key.header(headers, name, origin);
    }
    sharing.key = Some(key.0);
    sharing.join = rules.join;
    sharing.keep = keep;
    sharing.fresh = keep.filter(|_| traits.keep != Keep::Description);
    sharing.private = !credentials.is_empty();
    sharing
}

/// What is known of the answers to a safe request; nothing for an operation that QGIS does not have.
fn traits(request: &OgcRequest) -> Option<Traits> {
    if !request.safe {
        return None;
    }
    let Some(service) = request.service() else {
        return match &request.kind {
            Kind::Api { rest, .. } => Some(api_traits(rest)),
            Kind::Home | Kind::Ows { .. } => None,
        };
    };
    Some(match (service, request.operation().as_str()) {
        (Service::Wms, "getmap") => Traits {
            keep: request.size().map_or(Keep::Never, |(width, height)| {
                Keep::Map(u64::from(width) * u64::from(height))
            }),
            ..LEGEND
        },
        (Service::Wmts, "gettile") => Traits {
            keep: Keep::Map(TILE * TILE),
            ..LEGEND
        },
        (Service::Wms, "getlegendgraphic" | "getlegendgraphics") => LEGEND,
        (Service::Wms, "getprint") => Traits {
            keep: Keep::Never,
            ..LEGEND
        },
        (
            Service::Wms,
            "getcapabilities" | "getprojectsettings" | "getcontext" | "getschemaextension" | "describelayer"
            | "getstyle" | "getstyles",
        )
        | (Service::Wfs, "getcapabilities" | "describefeaturetype")
        | (Service::Wcs, "getcapabilities" | "describecoverage")
        | (Service::Wmts, "getcapabilities") => DOCUMENT,
        (Service::Wms | Service::Wmts, "getfeatureinfo") => INFO,
        (Service::Wfs, "getfeature") | (Service::Wcs, "getcoverage") => STREAM,
        _ => return None,
    })
}

fn api_traits(rest: &str) -> Traits {
    let segments: Vec<&str> = rest.trim_matches('/').split('/').collect();
    let stem = |segment: &str| segment.split('.').next().unwrap_or_default().to_owned();
    match segments.as_slice() {
        ["static", _, ..] => Traits {
            keep: Keep::File,
            ..DOCUMENT
        },
        ["" | ".html" | ".json"] | ["collections", _] => DOCUMENT,
        [page] if matches!(stem(page).as_str(), "conformance" | "api" | "collections") => DOCUMENT,
        _ => STREAM,
    }
}

/// A list of texts as one: each with its length before it, so that no two lists look the same. It begins with a digit.
struct Text(String);

impl Text {
    fn field(&mut self, text: &str) {
        use std::fmt::Write as _;
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{}:{text},", text.len());
    }

    /// A header as QGIS sees it, or that it is not there.
    fn header(&mut self, headers: &HeaderMap, name: &HeaderName, origin: &Origin) {
        let values = || headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        self.field(name.as_str());
        if name == HOST {
            // HTTP/2 has it elsewhere, and a proxy may have replaced it.
            self.field(&format!("+{}", origin.authority));
        } else if values().next().is_none() {
            self.field("-");
        } else {
            self.field(&format!("+{}", values().collect::<Vec<_>>().join(", ")));
        }
    }
}

/// The question but for the headers that vary it; none for one that is too long or no text.
fn key(request: &OgcRequest, body: &[u8], headers: &HeaderMap, origin: &Origin, picture: bool) -> Option<Text> {
    let handed = upstream(request, body, origin);
    let mut key = Text(String::new());
    key.field(handed.method.as_str());
    match &request.kind {
        Kind::Ows {
            service,
            request: operation,
            version,
        } if body.is_empty() => {
            let operation = operation.to_ascii_lowercase();
            if picture {
                key.field("picture");
                key.field(request.project.as_ref().map_or("", |project| project.key()));
                key.field(service.as_str());
                key.field(&operation);
                for (name, value) in request.params.iter() {
                    if !VOLATILE.contains(&name) && !matches!(name, "SERVICE" | "REQUEST") {
                        key.field(name);
                        key.field(value);
                    }
                }
            } else {
                let (path, query) = handed.url.split_once('?').unwrap_or((&handed.url, ""));
                key.field("document");
                key.field(path);
                key.field(service.as_str());
                key.field(&operation);
                key.field(version);
                for pair in kvp::query_pairs(query) {
                    if !matches!(pair.key.as_str(), "SERVICE" | "REQUEST" | "VERSION") {
                        key.field(std::str::from_utf8(pair.raw).ok()?);
                    }
                }
            }
        }
        _ => {
            let body = handed.body.as_deref().unwrap_or(body);
            if body.len() > MOST_BODY {
                return None;
            }
            key.field("literal");
            key.field(&handed.url);
            key.field(std::str::from_utf8(body).ok()?);
            key.header(headers, &CONTENT_TYPE, origin);
        }
    }
    key.field("headers");
    let own = |name: &&HeaderName| name.as_str().starts_with("x-qgis-") && !name.as_str().ends_with("service-url");
    let mut own: Vec<&HeaderName> = headers.keys().filter(own).collect();
    own.sort_by_key(|name| name.as_str());
    for name in own {
        key.header(headers, name, origin);
    }
    key.field("varies by");
    Some(key)
}

#[cfg(test)]
#[path = "sharing_tests.rs"]
mod tests;
