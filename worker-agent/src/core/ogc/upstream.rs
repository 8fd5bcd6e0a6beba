//! What QGIS is handed, so that every link in its answer is one that the client can follow.
//!
//! QGIS 3.40 builds its links from the URL of the request, and keeps `MAP` in them when it stands in the URL's query.
//! So the URL is the client's own: scheme, host, port, prefix, path and query. What was seen to need more:
//!
//! - `Host`, `Forwarded`, `X-Forwarded-*` and `X-Qgis-*Service-Url` headers override the URL in the links of services,
//!   not in those of APIs. None of them is passed on.
//! - `MAP` in a form body is not in the links: it is written into the query as well. The rest of a body stays there.
//! - The value of `SERVICE` must be in capitals, and a request without it is answered with a redirect: it is added.
//! - An API answers `HEAD` with 500: it is asked with `GET`, and the body dropped by whoever answers the client.
//! - Links are written decoded, so that a space would cut them. In `MAP` it is written as `+`, which survives. In a
//!   path nothing survives: a project with a space in its name is handed over in the `MAP` form, and its links have
//!   that form.
//! - An API takes the first `/wfs3` of a path for its own root: so is a project such as `/ows/wfs3demo`, for APIs.
//! - What browsers append to get past caches would be repeated in the links of services: it is left out.
//! - The link from an API's collection to its schema is `?MAP=/world?request=…`; when a client follows it, it is
//!   repaired.

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::fingerprint::VOLATILE;
use super::kvp;
use super::origin::Origin;
use super::path::{API_ROOTS, escape};
use super::request::{BodyKind, Kind, OgcRequest, Spelling};
use crate::core::locate::ProjectName;

/// A request as QGIS gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The method; `GET` for the client's `HEAD`.
    pub method: Method,
    /// The whole URL.
    pub url: String,
    /// A body to send instead of the client's.
    pub body: Option<Vec<u8>>,
}

/// What is escaped in the value of `MAP`: all but what is unreserved, and the slash for the reader's sake.
const MAP_VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What is left of the format in QGIS's link to a GML 3 schema, and what it was.
const CUT_FORMAT: &str = "text/xml;";
const MENDED_FORMAT: &str = "text/xml;%20subtype=gml/3.1.1";

/// Builds what QGIS is handed for `request`, whose body the client sent as `body`.
#[must_use]
pub fn upstream(request: &OgcRequest, body: &[u8], origin: &Origin) -> Upstream {
    let mut path = request.path.clone();
    let mut query = Vec::new();
    let mut new_body = None;

    keep_query(request, &mut query);
    if let Some(project) = &request.project {
        let map = || format!("MAP={}", map_value(&project.to_string()));
        match (&request.kind, request.spelling) {
            (_, Spelling::Form) => query.push(map()),
            (Kind::Api { root, rest }, Spelling::Path) if has_space(project) || hides_root(project) => {
                path = format!("{root}{rest}");
                query.push(map());
            }
            (Kind::Ows { .. }, Spelling::Path) if has_space(project) => {
                "/".clone_into(&mut path);
                query.push(map());
            }
            _ => {}
        }
    }
    if let Kind::Ows { service, .. } = &request.kind
        && request.params.get("SERVICE") != Some(service.as_str())
    {
        let pair = format!("SERVICE={}", service.as_str());
        if request.body == BodyKind::Form && request.body_names_service {
            new_body = Some([body, b"&", pair.as_bytes()].concat());
        } else {
            query.push(pair);
        }
    }

    let mark = if query.is_empty() { "" } else { "?" };
    Upstream {
        method: if request.method == Method::HEAD {
            Method::GET
        } else {
            request.method.clone()
        },
        url: format!("{}{path}{mark}{}", origin.base(), query.join("&")),
        body: new_body,
    }
}

/// The client's query, with one `MAP` at its place when the project was named there, and none otherwise.
fn keep_query(request: &OgcRequest, query: &mut Vec<String>) {
    let mut named = request.spelling != Spelling::Query;
    let tidy = request.safe && request.service().is_some();
    for pair in kvp::query_pairs(&request.query) {
        if tidy && VOLATILE.contains(&pair.key.as_str()) {
            continue;
        }
        if pair.key == "OUTPUTFORMAT" && pair.value.trim_end() == CUT_FORMAT {
            query.push(format!("OUTPUTFORMAT={MENDED_FORMAT}"));
        } else if pair.key != "MAP" {
            query.push(escape(pair.raw));
        } else if !named && !pair.value.is_empty() {
            named = true;
            let as_written = pair.raw.starts_with(b"MAP=") && !pair.value.contains(' ');
            query.push(if as_written {
                escape(pair.raw)
            } else {
                format!("MAP={}", map_value(&pair.value))
            });
        }
    }
}

fn map_value(value: &str) -> String {
    utf8_percent_encode(value, MAP_VALUE).to_string().replace("%20", "+")
}

/// Whether QGIS would write a link that ends in the middle of the project's name.
fn has_space(project: &ProjectName) -> bool {
    project.key().contains(char::is_whitespace)
}

/// Whether QGIS would find an API's root within the project's own name.
fn hides_root(project: &ProjectName) -> bool {
    API_ROOTS.iter().any(|root| project.key().contains(root))
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
