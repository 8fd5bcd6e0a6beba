//! Every reason for which the agent itself says no, and how it says so: HTTP status, OGC code, whether another agent
//! may do better, and the exception document in the form that the client's service and version expect.
//!
//! What QGIS refuses is not here; its answers pass as they are.

use std::fmt::Write as _;
use std::time::Duration;

use http::StatusCode;

use super::request::Service;
use crate::core::locate::{LocateError, NameError};

/// A refusal with the form of document that the request calls for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// Why.
    pub reason: Refusal,
    /// How to say so.
    pub dialect: Dialect,
}

impl Refused {
    /// See [`Refusal::document`].
    #[must_use]
    pub fn document(&self, request_id: &str) -> (&'static str, String) {
        self.reason.document(self.dialect, request_id)
    }
}

/// Why the agent refuses a request, or gives up on it. The text says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No project is named.
    #[error("no project is named; add MAP=/name to the query, or ask under /ows/name")]
    MissingProject,
    /// Two different projects are named.
    #[error("the request names two projects, '{first}' and '{second}'; name one")]
    AmbiguousProject {
        /// The first, or the one in the path.
        first: String,
        /// The other.
        second: String,
    },
    /// The name breaks a rule that keeps requests within the search paths.
    #[error("{0}")]
    BadProjectName(#[from] NameError),
    /// No such project in the search path.
    #[error("there is no project '{project}'; check its name, and whether its file ends in .qgs or .qgz")]
    UnknownProject {
        /// Its name.
        project: String,
    },
    /// It was there, and has been removed.
    #[error("the project '{project}' has been removed")]
    ProjectGone {
        /// Its name.
        project: String,
    },
    /// Requests may not have a project loaded.
    #[error(
        "the project '{project}' is not loaded, and requests do not load projects here; ask the operator to pin it"
    )]
    ProjectNotLoaded {
        /// Its name.
        project: String,
    },
    /// No search path takes the name.
    #[error("the project '{project}' is outside every search path")]
    OutsideSearchPaths {
        /// Its name.
        project: String,
    },
    /// A parameter that cannot be guessed.
    #[error("the parameter {name} is missing; add {example}")]
    MissingParameter {
        /// Its name.
        name: &'static str,
        /// Something that would do.
        example: &'static str,
    },
    /// A service that QGIS Server does not have.
    #[error("the service '{service}' is unknown; SERVICE is one of WMS, WFS, WCS and WMTS, or ask under /wfs3")]
    UnknownService {
        /// What the client wrote.
        service: String,
    },
    /// A request that cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// A host header or forwarded fact that cannot stand in a URL.
    #[error("{0}")]
    BadOrigin(String),
    /// A path that is neither a service's nor an API's.
    #[error("there is nothing at '{path}'; ask at /, under /ows/name, or under /wfs3")]
    NotFound {
        /// The path.
        path: String,
    },
    /// A method that the resource does not have.
    #[error("the method {method} is not allowed here; use {allow}")]
    MethodNotAllowed {
        /// The method used.
        method: String,
        /// The methods to use, as the `Allow` header wants them.
        allow: &'static str,
    },
    /// A body over the limit.
    #[error("the request's body is larger than {limit} bytes; send less, or raise server.max_body_size")]
    BodyTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// As many requests wait as may.
    #[error("{waiting} requests are waiting already; try again in {retry_after} s")]
    QueueFull {
        /// How many wait.
        waiting: usize,
        /// When to try again, in seconds.
        retry_after: u32,
    },
    /// The agent is stopping.
    #[error("this agent is stopping; try again")]
    Draining,
    /// A chain of requests that this server's own projects caused has grown too long.
    #[error(
        "this server asks itself for '{project}', {depth} requests deep: a layer of this project, or of one that leads \
         to it, has this very server as its source; give that layer its own data source, or raise server.max_loop_depth"
    )]
    LoopDetected {
        /// The project that is asked for.
        project: String,
        /// How many requests of this server led to this one.
        depth: u32,
    },
    /// No worker can be had.
    #[error("no QGIS process is ready here; try again in a moment")]
    NoWorker,
    /// It killed workers before.
    #[error(
        "this request has ended the QGIS process that worked on it again and again, so it is not tried for another \
         {seconds} s; ask for something else, or tell the operator: its fingerprint is {fingerprint}"
    )]
    Quarantined {
        /// The request's fingerprint.
        fingerprint: String,
        /// For how long it is refused, in seconds.
        seconds: u32,
    },
    /// The deadline passed: the operator's, or a shorter one that the client named.
    #[error(
        "there was no answer within {seconds} s; ask for less, or allow more time (X-Request-Timeout, server.timeout, \
         server.timeouts)"
    )]
    Deadline {
        /// The deadline in seconds, rounded up.
        seconds: u64,
    },
    /// The worker died while it had the request.
    #[error("the QGIS process died while it worked on the request ({verdict}){}", advice(*.safe))]
    WorkerDied {
        /// Whether the request may be repeated without changing data twice.
        safe: bool,
        /// How the worker ended.
        verdict: String,
    },
    /// QGIS cannot serve the project.
    #[error("the project '{project}' cannot be served: {message}{}", bad_layers(.layers))]
    ProjectBroken {
        /// Its name.
        project: String,
        /// What QGIS or the worker said.
        message: String,
        /// The layers that are bad.
        layers: Vec<String>,
    },
    /// The storage behind a search path does not answer.
    #[error("{message}; try again")]
    StorageUnavailable {
        /// Which, and what it said, without secrets.
        message: String,
    },
    /// A fault of the agent's or worker's own.
    #[error("the server failed: {message}")]
    Internal {
        /// What failed.
        message: String,
    },
}

fn advice(safe: bool) -> &'static str {
    if safe {
        "; try again"
    } else {
        "; look whether the change was made before you repeat it"
    }
}

fn bad_layers(layers: &[String]) -> String {
    match layers {
        [] => String::new(),
        layers => format!("; repair or remove the layers {}", layers.join(", ")),
    }
}

impl From<LocateError> for Refusal {
    fn from(error: LocateError) -> Self {
        Self::OutsideSearchPaths { project: error.project }
    }
}

impl Refusal {
    /// That there was no answer within `timeout`.
    #[must_use]
    pub fn deadline(timeout: Duration) -> Self {
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        Self::Deadline { seconds }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadProjectName(error) if error.leads_out() => StatusCode::FORBIDDEN,
            Self::MissingProject
            | Self::AmbiguousProject { .. }
            | Self::BadProjectName(_)
            | Self::MissingParameter { .. }
            | Self::UnknownService { .. }
            | Self::Malformed(_)
            | Self::BadOrigin(_) => StatusCode::BAD_REQUEST,
            Self::OutsideSearchPaths { .. } | Self::ProjectNotLoaded { .. } => StatusCode::FORBIDDEN,
            Self::UnknownProject { .. } | Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::ProjectGone { .. } => StatusCode::GONE,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ProjectBroken { .. } | Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::WorkerDied { safe: false, .. } => StatusCode::BAD_GATEWAY,
            Self::WorkerDied { safe: true, .. }
            | Self::QueueFull { .. }
            | Self::Draining
            | Self::NoWorker
            | Self::Quarantined { .. }
            | Self::StorageUnavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Deadline { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::LoopDetected { .. } => StatusCode::LOOP_DETECTED,
        }
    }

    /// The code of the exception: OWS Common's where it has one.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingProject => "MissingProject",
            Self::MissingParameter { .. } => "MissingParameterValue",
            Self::BadProjectName(error) if error.leads_out() => "ForbiddenProject",
            Self::AmbiguousProject { .. } | Self::BadProjectName(_) => "InvalidProject",
            Self::UnknownProject { .. } => "UnknownProject",
            Self::ProjectGone { .. } => "ProjectGone",
            Self::ProjectNotLoaded { .. } => "ProjectNotLoaded",
            Self::OutsideSearchPaths { .. } => "ForbiddenProject",
            Self::UnknownService { .. } => "InvalidServices",
            Self::Malformed(_) | Self::BadOrigin(_) => "InvalidRequest",
            Self::NotFound { .. } => "NotFound",
            Self::MethodNotAllowed { .. } => "MethodNotAllowed",
            Self::BodyTooLarge { .. } => "BodyTooLarge",
            Self::QueueFull { .. } | Self::Draining | Self::NoWorker => "ServerBusy",
            Self::Quarantined { .. } => "RequestQuarantined",
            Self::Deadline { .. } => "DeadlineExceeded",
            Self::LoopDetected { .. } => "LoopDetected",
            Self::WorkerDied { .. } => "WorkerDied",
            Self::StorageUnavailable { .. } => "StorageUnavailable",
            Self::ProjectBroken { .. } => "ProjectBroken",
            Self::Internal { .. } => "NoApplicableCode",
        }
    }

    /// The parameter that is at fault, for the `locator` attribute.
    #[must_use]
    pub fn locator(&self) -> Option<&'static str> {
        match self {
            Self::MissingProject
            | Self::AmbiguousProject { .. }
            | Self::BadProjectName(_)
            | Self::UnknownProject { .. }
            | Self::ProjectGone { .. }
            | Self::ProjectNotLoaded { .. }
            | Self::OutsideSearchPaths { .. } => Some("MAP"),
            Self::MissingParameter { name, .. } => Some(name),
            Self::UnknownService { .. } => Some("SERVICE"),
            _ => None,
        }
    }

    /// Whether Envoy should try another agent (header `x-agent-retry: 1`): nothing has been done here, or what was done
    /// may be done again.
    #[must_use]
    pub fn retry_elsewhere(&self) -> bool {
        matches!(
            self,
            Self::QueueFull { .. } | Self::Draining | Self::NoWorker | Self::WorkerDied { safe: true, .. }
        )
    }

    /// The `Retry-After` header in seconds.
    #[must_use]
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::QueueFull { retry_after, .. } => Some(*retry_after),
            // A client that keeps to it should come back on the same day.
            Self::Quarantined { seconds, .. } => Some((*seconds).clamp(1, 3600)),
            Self::Draining | Self::NoWorker | Self::WorkerDied { safe: true, .. } | Self::StorageUnavailable { .. } => {
                Some(1)
            }
            _ => None,
        }
    }

    /// The `Allow` header.
    #[must_use]
    pub fn allow(&self) -> Option<&'static str> {
        match self {
            Self::MethodNotAllowed { allow, .. } => Some(allow),
            _ => None,
        }
    }

    /// The exception document: its content type and text, with the request's id at the end of the message.
    #[must_use]
    pub fn document(&self, dialect: Dialect, request_id: &str) -> (&'static str, String) {
        dialect.document(self.code(), self.locator(), &format!("{self} (request {request_id})"))
    }
}

/// The forms that exception documents have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// WMS 1.1: `ServiceExceptionReport` without a namespace.
    Wms11,
    /// WMS 1.3.0, and what names no known service.
    Wms13,
    /// WFS 1.0.0 and WCS 1.0.0: `ServiceExceptionReport` 1.2.0.
    Report12,
    /// WFS 1.1.0: OWS 1.0 `ExceptionReport`.
    Ows10,
    /// WFS 2.0.0: OWS 1.1 `ExceptionReport` in its own version.
    Wfs20,
    /// WCS 1.1 and WMTS 1.0.0: OWS 1.1 `ExceptionReport`.
    Ows11,
    /// OGC APIs, and whatever is no OGC service: a JSON object.
    Json,
}

impl Dialect {
    /// The form for a service and the version that the client asked for, which may be empty.
    #[must_use]
    pub fn of(service: Option<Service>, version: &str) -> Self {
        match service {
            None => Self::Wms13,
            Some(Service::Wms) if version.starts_with("1.1.") || version.starts_with("1.0.") => Self::Wms11,
            Some(Service::Wms) => Self::Wms13,
            Some(Service::Wfs | Service::Wcs) if version == "1.0.0" => Self::Report12,
            Some(Service::Wfs) if version.starts_with("2.") => Self::Wfs20,
            Some(Service::Wfs) => Self::Ows10,
            Some(Service::Wcs | Service::Wmts) => Self::Ows11,
        }
    }

    /// A document in this form: its content type and text.
    #[must_use]
    pub fn document(self, code: &str, locator: Option<&str>, message: &str) -> (&'static str, String) {
        const XML: &str = "text/xml; charset=utf-8";
        match self {
            Self::Wms11 => (
                "application/vnd.ogc.se_xml; charset=utf-8",
                service_report("version=\"1.1.1\"", code, None, message),
            ),
            Self::Wms13 => (
                XML,
                service_report(
                    "version=\"1.3.0\" xmlns=\"http://www.opengis.net/ogc\"",
                    code,
                    locator,
                    message,
                ),
            ),
            Self::Report12 => (
                XML,
                service_report(
                    "version=\"1.2.0\" xmlns=\"http://www.opengis.net/ogc\"",
                    code,
                    locator,
                    message,
                ),
            ),
            Self::Ows10 => (
                XML,
                ows_report("http://www.opengis.net/ows", "1.1.0", code, locator, message),
            ),
            Self::Wfs20 => (
                XML,
                ows_report("http://www.opengis.net/ows/1.1", "2.0.0", code, locator, message),
            ),
            Self::Ows11 => (
                XML,
                ows_report("http://www.opengis.net/ows/1.1", "1.1.0", code, locator, message),
            ),
            Self::Json => {
                let text = serde_json::json!({"code": code, "description": plain(message)}).to_string();
                ("application/json", text)
            }
        }
    }
}

const PROLOG: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

fn service_report(attributes: &str, code: &str, locator: Option<&str>, message: &str) -> String {
    let mut text = format!("{PROLOG}<ServiceExceptionReport {attributes}>\n <ServiceException");
    attribute(&mut text, "code", Some(code));
    attribute(&mut text, "locator", locator);
    text.push('>');
    escape(&mut text, message);
    text.push_str("</ServiceException>\n</ServiceExceptionReport>\n");
    text
}

fn ows_report(namespace: &str, version: &str, code: &str, locator: Option<&str>, message: &str) -> String {
    let mut text =
        format!("{PROLOG}<ows:ExceptionReport xmlns:ows=\"{namespace}\" version=\"{version}\">\n <ows:Exception");
    attribute(&mut text, "exceptionCode", Some(code));
    attribute(&mut text, "locator", locator);
    text.push_str(">\n  <ows:ExceptionText>");
    escape(&mut text, message);
    text.push_str("</ows:ExceptionText>\n </ows:Exception>\n</ows:ExceptionReport>\n");
    text
}

fn attribute(text: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        let _ = write!(text, " {name}=\"");
        escape(text, value);
        text.push('"');
    }
}

/// Appends `value` as XML text, which is also safe within double quotes.
fn escape(text: &mut String, value: &str) {
    for character in plain(value).chars() {
        match character {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&apos;"),
            other => text.push(other),
        }
    }
}

/// Without control characters and without the two code points that XML 1.0 forbids.
fn plain(value: &str) -> String {
    value
        .chars()
        .filter(|c| !c.is_control() && !matches!(c, '\u{FFFE}' | '\u{FFFF}'))
        .collect()
}

#[cfg(test)]
#[path = "exception_tests.rs"]
mod tests;
