//! Where the catalog's own pages and a project's services are, as the client sees the server.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::query::ListQuery;

/// What is escaped in a value or a path: all but what is unreserved, and the slash for the reader's sake.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Segments after which a path is an API's, so that a project with such a folder has to be named by `MAP`.
const API_SEGMENTS: [&str; 3] = ["wfs3", "wfs3.html", "wfs3.json"];

/// A text as it may stand in a query or a path.
pub(super) fn escaped(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// Makes links that begin with `base`: a whole origin for documents that travel, or a path prefix for pages of this very
/// server, whose browser knows the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    base: String,
}

impl Links {
    /// Links that begin with `base`, which has no slash at its end.
    #[must_use]
    pub fn new(base: impl Into<String>) -> Self {
        Self { base: base.into() }
    }

    /// A path of the server, which begins with a slash.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The list as `query` has it, from `offset` on, in the form `f`.
    #[must_use]
    pub fn list(&self, query: &ListQuery, offset: usize, f: &str) -> String {
        let mut link = self.at("/catalog?");
        for (name, value) in [("location", &query.location), ("q", &query.text)] {
            if !value.is_empty() {
                link.push_str(&format!("{name}={}&", escaped(value)));
            }
        }
        link.push_str(&format!("limit={}&offset={offset}&f={f}", query.limit));
        link
    }

    /// The details of a project in the form `f`.
    #[must_use]
    pub fn project(&self, id: &str, f: &str) -> String {
        self.at(&format!("/catalog/project?MAP={}&f={f}", escaped(id)))
    }

    /// A small map of a project.
    #[must_use]
    pub fn preview(&self, id: &str) -> String {
        self.at(&format!("/catalog/preview?MAP={}", escaped(id)))
    }

    /// Where a project's services are asked, up to the parameter `MAP`; others follow after `&`.
    #[must_use]
    pub fn services(&self, id: &str) -> String {
        self.at(&format!("/?MAP={}", escaped(id)))
    }

    /// The capabilities of a project's service.
    #[must_use]
    pub fn capabilities(&self, id: &str, service: &str) -> String {
        format!("{}&SERVICE={service}&REQUEST=GetCapabilities", self.services(id))
    }

    /// The landing page of a project's OGC API Features.
    #[must_use]
    pub fn features(&self, id: &str) -> String {
        let is_api = |segment: &str| API_SEGMENTS.contains(&segment);
        if id.split('/').skip(2).any(is_api) {
            return self.at(&format!("/wfs3/?MAP={}", escaped(id)));
        }
        self.at(&format!("/ows{}/wfs3/", escaped(id)))
    }
}
