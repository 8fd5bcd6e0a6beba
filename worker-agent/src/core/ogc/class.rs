//! What a request is allowed, decided from the request alone: its lane, and how long it may take.
//!
//! [`Classes`] is made once of what the operator decided. It knows nothing of workers and queues, and nothing of what a
//! project holds: a rule sees parameters, not data.
//!
//! A request that a worker itself sends, because its project has a layer of this very server, says so by the header
//! [`DEPTH`]. It goes to a lane of its own, since a worker waits for it, and a chain of such requests ends at a depth.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderMap, Method};

use super::exception::Refusal;
use super::path::API_ROOTS;
use super::patience::patience;
use super::request::{BodyKind, Kind, OgcRequest, Service};
use crate::core::lane::Lane;
use crate::core::locate::ProjectName;

/// How many requests of this server led to this one. Workers set it; it is never passed on to QGIS.
pub const DEPTH: &str = "x-graticule-depth";

/// What an operator decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassRules {
    /// How long a request may take, waiting included.
    pub timeout: Duration,
    /// The same by `SERVICE/Request`, `SERVICE` or an API's root, in any letter case; the longest match counts.
    pub timeouts: Vec<(String, Duration)>,
    /// A request that one of them describes is heavy.
    pub heavy: Vec<HeavyRule>,
    /// The greatest depth that is served.
    pub max_loop_depth: u32,
}

/// Describes requests: all that it names must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeavyRule {
    /// A service or an API's root in any letter case; empty: any.
    pub service: String,
    /// An operation, of an API a method, in any letter case; empty: any.
    pub request: String,
    /// `WIDTH` times `HEIGHT` from which on it holds; 0: whatever the size.
    pub min_pixels: u64,
    /// Only WFS requests for all features of a layer: no limit, feature ids, extent or filter.
    pub unlimited: bool,
    /// A project as clients name it; empty: any.
    pub project: String,
}

/// A rule that cannot be meant; the text says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Of [`ClassRules::timeouts`].
    #[error("{problem}")]
    Timeout {
        /// Its name as written.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// Of [`ClassRules::heavy`].
    #[error("{problem}")]
    Heavy {
        /// Its place, from 0.
        index: usize,
        /// The field at fault.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// What a request is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Whose workers it may take.
    pub lane: Lane,
    /// How many requests of this server led to it.
    pub depth: u32,
    /// How long it may take from its acceptance, waiting included: what is allowed, or less when the client asked for less.
    pub timeout: Duration,
    /// How long the operator allows. A worker that does not stop at an earlier end, which is the client's own wish, has
    /// not failed: else any impatient client could take an agent down.
    pub allowed: Duration,
}

/// Classes of requests, ready to be told apart.
#[derive(Debug, Clone)]
pub struct Classes {
    timeout: Duration,
    /// By service and operation in small letters; an empty operation stands for all others.
    timeouts: HashMap<(Scope, String), Duration>,
    heavy: Vec<Heavy>,
    max_loop_depth: u32,
}

impl Classes {
    /// Reads the rules.
    ///
    /// # Errors
    /// The first that cannot be meant.
    pub fn new(rules: &ClassRules) -> Result<Self, RuleError> {
        let mut timeouts = HashMap::new();
        for (name, timeout) in &rules.timeouts {
            let wrong = |problem| RuleError::Timeout {
                name: name.clone(),
                problem,
            };
            let (service, request) = match name.split_once('/') {
                Some((_, "")) => return Err(wrong("expected a request after the `/`, or no `/`".to_owned())),
                Some(parts) => parts,
                None => (name.as_str(), ""),
            };
            let scope = Scope::read(service).map_err(wrong)?;
            let request = read_request(Some(scope), request).map_err(wrong)?;
            if timeouts.insert((scope, request), *timeout).is_some() {
                return Err(wrong("it is set twice, in different letter case; keep one".to_owned()));
            }
        }
        let heavy = rules.heavy.iter().enumerate();
        Ok(Self {
            timeout: rules.timeout,
            timeouts,
            heavy: heavy
                .map(|(index, rule)| {
                    Heavy::read(rule).map_err(|(field, problem)| RuleError::Heavy { index, field, problem })
                })
                .collect::<Result<_, _>>()?,
            max_loop_depth: rules.max_loop_depth,
        })
    }

    /// The class of a request that came with these headers.
    ///
    /// # Errors
    /// When it is too deep in a chain of this server's own requests, or names a time that cannot be read.
    pub fn of(&self, request: &OgcRequest, headers: &HeaderMap) -> Result<Class, Refusal> {
        let depth = depth(headers);
        if depth > self.max_loop_depth {
            let project = request.project.as_ref().map(|name| name.key().to_owned());
            let project = project.unwrap_or_default();
            return Err(Refusal::LoopDetected { project, depth });
        }
        let allowed = self.allowed(request);
        let lane = match depth {
            0 if self.heavy.iter().any(|rule| rule.describes(request)) => Lane::Heavy,
            0 => Lane::Interactive,
            _ => Lane::Inner,
        };
        Ok(Class {
            lane,
            depth,
            timeout: patience(headers)?.map_or(allowed, |asked| asked.min(allowed)),
            allowed,
        })
    }

    /// How long a request may take of which nothing is known yet: `server.timeout`.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The longest time that any request may take. Who waits for the agent must wait longer.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.timeouts.values().copied().fold(self.timeout, Duration::max)
    }

    fn allowed(&self, request: &OgcRequest) -> Duration {
        let Some(scope) = Scope::of(request) else {
            return self.timeout;
        };
        let named = |operation: String| self.timeouts.get(&(scope, operation)).copied();
        named(operation(request))
            .or_else(|| named(String::new()))
            .unwrap_or(self.timeout)
    }
}

/// What a worker's own requests say. Only workers set the header, so a value that is no number still means that one did.
fn depth(headers: &HeaderMap) -> u32 {
    let number = |text: &str| match text.trim() {
        digits if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().unwrap_or(u32::MAX)
        }
        _ => 1,
    };
    let values = headers.get_all(DEPTH).iter();
    values
        .map(|value| value.to_str().map_or(1, number))
        .max()
        .unwrap_or_default()
}

/// A service or an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    Ows(Service),
    Api(&'static str),
}

impl Scope {
    fn read(name: &str) -> Result<Self, String> {
        let root = |root: &&&str| root[1..].eq_ignore_ascii_case(name);
        let api = || API_ROOTS.iter().find(root).map(|root| Self::Api(root));
        Service::parse(name).map(Self::Ows).or_else(api).ok_or_else(|| {
            let roots: Vec<&str> = API_ROOTS.iter().map(|root| &root[1..]).collect();
            format!(
                "`{name}` is no service; expected WMS, WFS, WCS, WMTS or {}",
                roots.join(", ")
            )
        })
    }

    fn of(request: &OgcRequest) -> Option<Self> {
        match &request.kind {
            Kind::Home => None,
            Kind::Ows { service, .. } => Some(Self::Ows(*service)),
            Kind::Api { root, .. } => Some(Self::Api(root)),
        }
    }
}

/// The operation in small letters; `get` for the `HEAD` of an API, which QGIS is asked as such.
fn operation(request: &OgcRequest) -> String {
    match (&request.kind, &request.method) {
        (Kind::Api { .. }, &Method::HEAD) => "get".to_owned(),
        _ => request.operation(),
    }
}

/// An operation in small letters. Plugins may bring operations of their own, so that only an API's can be checked.
fn read_request(scope: Option<Scope>, name: &str) -> Result<String, String> {
    const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
    let request = name.to_ascii_lowercase();
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(format!("`{name}` is no request; expected such as GetMap"));
    }
    match scope {
        Some(Scope::Api(root)) if !name.is_empty() && !METHODS.contains(&request.as_str()) => Err(format!(
            "`{name}` is no request of {}; expected GET, POST, PUT, PATCH or DELETE",
            &root[1..]
        )),
        _ => Ok(request),
    }
}

/// A [`HeavyRule`], checked.
#[derive(Debug, Clone)]
struct Heavy {
    scope: Option<Scope>,
    request: String,
    min_pixels: u64,
    unlimited: bool,
    project: Option<String>,
}

impl Heavy {
    fn read(rule: &HeavyRule) -> Result<Self, (&'static str, String)> {
        if *rule == HeavyRule::default() {
            let problem = "it names nothing and would call every request heavy; name something, or remove it";
            return Err(("service", problem.to_owned()));
        }
        let named = Some(rule.service.as_str()).filter(|name| !name.is_empty());
        let scope = named
            .map(Scope::read)
            .transpose()
            .map_err(|problem| ("service", problem))?;
        if rule.unlimited && !matches!(scope, None | Some(Scope::Ows(Service::Wfs))) {
            let problem = match scope {
                Some(Scope::Api(_)) => {
                    "an API's requests are never unlimited: QGIS gives ten features unless told".to_owned()
                }
                _ => format!("only WFS has requests that can be unlimited, not {}", rule.service),
            };
            return Err(("unlimited", problem));
        }
        let sized = matches!(scope, None | Some(Scope::Ows(Service::Wms | Service::Wcs)));
        if rule.min_pixels > 0 && !sized {
            let problem = format!(
                "only requests of WMS and WCS have WIDTH and HEIGHT, not those of {}",
                rule.service
            );
            return Err(("min_pixels", problem));
        }
        let project = Some(rule.project.as_str()).filter(|name| !name.is_empty());
        let project = project.map(ProjectName::parse).transpose();
        Ok(Self {
            scope,
            request: read_request(scope, &rule.request).map_err(|problem| ("request", problem))?,
            min_pixels: rule.min_pixels,
            unlimited: rule.unlimited,
            project: project
                .map_err(|error| ("project", error.to_string()))?
                .map(|name| name.key().to_owned()),
        })
    }

    fn describes(&self, request: &OgcRequest) -> bool {
        let project = || request.project.as_ref().map(ProjectName::key);
        (self.scope.is_none() || self.scope == Scope::of(request))
            && (self.request.is_empty() || self.request == operation(request))
            && (self.min_pixels == 0 || pixels(request).is_some_and(|pixels| pixels >= self.min_pixels))
            && (!self.unlimited || is_unlimited(request))
            && (self.project.is_none() || self.project.as_deref() == project())
    }
}

/// The size of a map or coverage, when it is named in whole numbers.
fn pixels(request: &OgcRequest) -> Option<u64> {
    let side = |key| request.params.get(key)?.trim().parse::<u64>().ok();
    Some(side("WIDTH")?.saturating_mul(side("HEIGHT")?))
}

/// Whether a request for features bounds them in no way that QGIS 3.40 heeds: `MAXFEATURES` of 0 or more, `FEATUREID`,
/// `BBOX`, `FILTER`, `EXP_FILTER`; in an XML body `maxFeatures` and filters. It was seen to answer with all features
/// whatever `COUNT`, `RESOURCEID` or `CQL_FILTER` say.
fn is_unlimited(request: &OgcRequest) -> bool {
    const BOUNDS: [&str; 4] = ["FEATUREID", "BBOX", "FILTER", "EXP_FILTER"];
    let Kind::Ows {
        service: Service::Wfs,
        request: operation,
        ..
    } = &request.kind
    else {
        return false;
    };
    let limit = request.params.get("MAXFEATURES");
    let limited = limit.is_some_and(|limit| limit.trim().parse::<u64>().is_ok());
    let bounded = match request.body {
        BodyKind::Xml => request.body_filters,
        _ => BOUNDS.iter().any(|key| request.params.filled(key).is_some()),
    };
    operation.eq_ignore_ascii_case("GetFeature") && !limited && !bounded
}

#[cfg(test)]
#[path = "class_tests.rs"]
mod tests;
