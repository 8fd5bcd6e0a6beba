//! How a request is read: what it asks for, of which project, and whether it may be repeated.
//!
//! It follows QGIS Server 3.40 wherever QGIS has a rule, so that agent and worker never read one request in two ways.
//! Where QGIS guesses, loops or answers with a redirect, this says no.

use http::Method;

use super::exception::{Dialect, Refusal, Refused};
use super::kvp::{self, MAX_PAIRS, Pair, Params};
use super::path::Path;
use super::request::{BodyKind, Kind, OgcRequest, Service, Spelling};
use super::xml;
use crate::core::locate::ProjectName;

const WFS_NAMESPACES: &[&str] = &["http://www.opengis.net/wfs", "http://www.opengis.net/wfs/2.0"];

/// A request as it came in, its body whole.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path, not decoded.
    pub path: &'a str,
    /// The query without its `?`, not decoded.
    pub query: Option<&'a str>,
    /// The `Content-Type` header.
    pub content_type: Option<&'a str>,
    /// The body, at most as long as the agent takes.
    pub body: &'a [u8],
}

/// Reads a request.
///
/// # Errors
/// A [`Refusal`] that says what to change, with the form of document that the request calls for as far as it was
/// understood.
pub fn parse(incoming: &Incoming<'_>) -> Result<OgcRequest, Refused> {
    let path = Path::read(incoming.path).map_err(|reason| Refused {
        reason,
        dialect: Dialect::Json,
    })?;
    let mut draft = Draft::default();
    let read = draft.read(incoming, &path);
    let dialect = match &path.api {
        Some(_) => Dialect::Json,
        None => Dialect::of(draft.service(), draft.params.get("VERSION").unwrap_or_default()),
    };
    read.and_then(|()| draft.finish(incoming, path))
        .map_err(|reason| Refused { reason, dialect })
}

/// The form of exception for a request whose body was not read: too large, or the agent is stopping.
#[must_use]
pub fn dialect_of(path: &str, query: Option<&str>) -> Dialect {
    let Ok(path) = Path::read(path) else {
        return Dialect::Json;
    };
    if path.api.is_some() {
        return Dialect::Json;
    }
    let mut draft = Draft::default();
    for pair in kvp::query_pairs(query.unwrap_or_default()).take(MAX_PAIRS) {
        draft.params.set(pair.key, pair.value.into_owned());
    }
    Dialect::of(draft.service(), draft.params.get("VERSION").unwrap_or_default())
}

/// A request while it is read.
#[derive(Debug, Default)]
struct Draft {
    params: Params,
    maps: Vec<(String, Spelling)>,
    /// The operation that the query names, where the body names another.
    query_request: Option<String>,
    body: Option<BodyKind>,
    body_names_service: bool,
    body_filters: bool,
    namespace: String,
}

impl Draft {
    fn read(&mut self, incoming: &Incoming<'_>, path: &Path) -> Result<(), Refusal> {
        self.take(kvp::query_pairs(incoming.query.unwrap_or_default()), Spelling::Query)?;
        self.query_request = self.params.filled("REQUEST").map(str::to_owned);
        let written = [Method::POST, Method::PUT, Method::PATCH].contains(incoming.method);
        // QGIS leaves a body alone whose type says json, in these letters.
        let json = incoming.content_type.is_some_and(|value| value.contains("json"));
        if !written || json || path.api.is_some() || incoming.body.trim_ascii().is_empty() {
            return Ok(());
        }
        if xml::looks_like_xml(incoming.body) {
            self.body = Some(BodyKind::Xml);
            return self.read_xml(incoming.body);
        }
        self.body = Some(BodyKind::Form);
        self.take(kvp::pairs(incoming.body), Spelling::Form)
    }

    fn take<'a>(&mut self, pairs: impl Iterator<Item = Pair<'a>>, spelling: Spelling) -> Result<(), Refusal> {
        for (count, pair) in pairs.enumerate() {
            if count >= MAX_PAIRS {
                return Err(Refusal::Malformed(format!(
                    "there are more than {MAX_PAIRS} parameters; send fewer"
                )));
            }
            if pair.key == "MAP" {
                self.maps.push((pair.value.into_owned(), spelling));
                continue;
            }
            self.body_names_service |= spelling == Spelling::Form && pair.key == "SERVICE";
            self.params.set(pair.key, pair.value.into_owned());
        }
        Ok(())
    }

    fn read_xml(&mut self, body: &[u8]) -> Result<(), Refusal> {
        let root = xml::root(body).map_err(|error| Refusal::Malformed(format!("the XML body {error}")))?;
        self.namespace = root.namespace;
        self.body_filters = root.filtered;
        // In this order: QGIS lets an attribute `request` override the element's name.
        self.params.set("REQUEST".to_owned(), root.name);
        for (key, value) in root.attributes {
            self.body_names_service |= key == "SERVICE";
            self.params.set(key, value);
        }
        Ok(())
    }

    /// The service: named, or where QGIS or the schema of WFS have it by default.
    fn service(&self) -> Option<Service> {
        if let Some(name) = self.params.filled("SERVICE") {
            return Service::parse(name);
        }
        if self.body == Some(BodyKind::Xml) {
            return WFS_NAMESPACES
                .contains(&self.namespace.as_str())
                .then_some(Service::Wfs);
        }
        let request = self.params.get("REQUEST")?;
        ["GetMap", "GetFeatureInfo"]
            .iter()
            .any(|name| name.eq_ignore_ascii_case(request))
            .then_some(Service::Wms)
    }

    /// The project, and where it was named first: path, then query, then form.
    fn project(&self, path: &Path) -> Result<Option<(ProjectName, Spelling)>, Refusal> {
        let mut found: Option<(ProjectName, Spelling)> = None;
        let in_path = path.project.iter().map(|name| (name, Spelling::Path));
        let in_maps = self
            .maps
            .iter()
            .filter(|(map, _)| !map.is_empty())
            .map(|(map, spelling)| (map, *spelling));
        for (name, spelling) in in_path.chain(in_maps) {
            let name = ProjectName::parse(name)?;
            match &found {
                Some((first, _)) if *first != name => {
                    return Err(Refusal::AmbiguousProject {
                        first: first.to_string(),
                        second: name.to_string(),
                    });
                }
                Some(_) => {}
                None => found = Some((name, spelling)),
            }
        }
        Ok(found)
    }

    fn finish(self, incoming: &Incoming<'_>, path: Path) -> Result<OgcRequest, Refusal> {
        let reads = [Method::GET, Method::HEAD].contains(incoming.method);
        let project = self.project(&path)?;
        let (kind, safe) = match &path.api {
            Some((root, rest)) => (self.api(incoming.method, root, rest, project.is_some())?, reads),
            None if self.is_home(reads, &path, project.is_some()) => (Kind::Home, true),
            None => {
                let kind = self.ows(incoming.method, project.is_some())?;
                let safe = reads || self.only_reads();
                (kind, safe)
            }
        };
        let (project, spelling) = project.map_or((None, Spelling::Query), |(name, spelling)| (Some(name), spelling));
        Ok(OgcRequest {
            method: incoming.method.clone(),
            kind,
            project,
            spelling,
            safe,
            path: path.whole,
            query: incoming.query.unwrap_or_default().to_owned(),
            body: self.body.unwrap_or(BodyKind::Opaque),
            body_names_service: self.body_names_service,
            body_filters: self.body_filters,
            params: self.params,
        })
    }

    fn is_home(&self, reads: bool, path: &Path, has_project: bool) -> bool {
        reads
            && !has_project
            && path.whole == "/"
            && self.maps.is_empty()
            && self.params.get("SERVICE").is_none()
            && self.params.get("REQUEST").is_none()
    }

    fn api(&self, method: &Method, root: &'static str, rest: &str, has_project: bool) -> Result<Kind, Refusal> {
        const METHODS: [Method; 6] = [
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ];
        if !METHODS.contains(method) {
            let allow = "GET, HEAD, POST, PUT, PATCH, DELETE";
            return Err(Refusal::MethodNotAllowed {
                method: method.to_string(),
                allow,
            });
        }
        // QGIS takes a request with SERVICE for that service whatever its path.
        if self.params.filled("SERVICE").is_some() {
            return Err(Refusal::Malformed(format!(
                "the parameter SERVICE does not belong under {root}; leave it out, or ask at / or under /ows/name"
            )));
        }
        let kind = Kind::Api {
            root,
            rest: rest.to_owned(),
        };
        if !has_project && !rest.starts_with("/static/") {
            return Err(Refusal::MissingProject);
        }
        Ok(kind)
    }

    fn ows(&self, method: &Method, has_project: bool) -> Result<Kind, Refusal> {
        if ![Method::GET, Method::HEAD, Method::POST].contains(method) {
            return Err(Refusal::MethodNotAllowed {
                method: method.to_string(),
                allow: "GET, HEAD, POST",
            });
        }
        let named = self.params.filled("SERVICE");
        let unknown = |name: &str| Refusal::UnknownService {
            service: name.to_owned(),
        };
        let service = match (self.service(), named) {
            // An XML body goes to QGIS as it is, and QGIS wants capitals.
            (Some(service), Some(name))
                if self.body == Some(BodyKind::Xml) && self.body_names_service && service.as_str() != name =>
            {
                return Err(unknown(name));
            }
            (Some(service), _) => Some(service),
            (None, Some(name)) => return Err(unknown(name)),
            (None, None) => None,
        };
        if !has_project {
            return Err(Refusal::MissingProject);
        }
        let missing = |name, example| Refusal::MissingParameter { name, example };
        let service = service.ok_or_else(|| missing("SERVICE", "SERVICE=WMS, WFS, WCS or WMTS"))?;
        let request = self
            .params
            .filled("REQUEST")
            .ok_or_else(|| missing("REQUEST", "REQUEST=GetCapabilities, for instance"))?;
        if method != Method::POST && changes(request) {
            return Err(Refusal::MethodNotAllowed {
                method: method.to_string(),
                allow: "POST",
            });
        }
        // QGIS 3.40 reads such a request for ever, and takes more memory all the while, whether the layer exists or
        // not.
        if self.requests().any(changes) && self.params.filled("FEATUREID").is_some() {
            return Err(Refusal::Malformed(
                "FEATUREID does not go with a Transaction; send the Transaction as XML with a filter".to_owned(),
            ));
        }
        let version = self.params.get("VERSION").unwrap_or_default().to_owned();
        Ok(Kind::Ows {
            service,
            request: request.to_owned(),
            version,
        })
    }

    /// The operation, and the query's where the body names another: QGIS falls back to the query when it cannot read a
    /// body.
    fn requests(&self) -> impl Iterator<Item = &str> {
        [self.params.filled("REQUEST"), self.query_request.as_deref()]
            .into_iter()
            .flatten()
    }

    /// Whether a POST only reads.
    fn only_reads(&self) -> bool {
        self.requests().all(|request| {
            let request = request.to_ascii_lowercase();
            !changes(&request) && (request.starts_with("get") || request.starts_with("describe"))
        })
    }
}

/// Operations of WFS that change data or locks.
fn changes(request: &str) -> bool {
    ["Transaction", "LockFeature", "GetFeatureWithLock"]
        .iter()
        .any(|name| name.eq_ignore_ascii_case(request))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
