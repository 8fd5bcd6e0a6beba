//! What the agent knows of OGC requests: how clients name projects, services and operations, what QGIS must be handed
//! so that its links are the client's own, and how a refusal reads in each service's own exception format.
//!
//! Everything here is a pure function of the request's bytes. It knows no socket, no worker and no file system; whether
//! a project exists is for [`locate`](super::locate) and the storage behind it to say.
//!
//! ```text
//! parse(&Incoming) -> Result<OgcRequest, Refused>        what is asked, of which project, may it be repeated
//! dialect_of(path, query) -> Dialect                     the form of a refusal when the body was not read
//! Origin::from_headers(..) -> Result<Origin, OriginError> scheme, host and prefix that the client used
//! upstream(&OgcRequest, body, &Origin) -> Upstream       method, URL and body handed to QGIS
//! Forwarded::pass(&HeaderMap) -> Vec<(String, String)>   the client's headers as QGIS may see them, in its letter case
//! Refusal::{status, code, retry_elsewhere, retry_after, allow, document}   every reason to say no, and how to say it
//! Classes::of(&OgcRequest, &HeaderMap) -> Class          its lane and its deadline, or why it is refused
//! fingerprint(&OgcRequest, body) -> String               16 hex digits: the same question has the same one
//! sharing(&OgcRequest, body, &HeaderMap, &Origin, &SharingRules) -> Sharing   which requests one answer serves
//! ```

pub mod class;
pub mod exception;
pub mod fingerprint;
pub mod headers;
mod kvp;
mod origin;
pub mod parse;
mod path;
mod patience;
pub mod request;
pub mod sharing;
pub mod upstream;
mod xml;

pub use class::{Class, ClassRules, Classes, HeavyRule, RuleError};
pub use exception::{Dialect, Refusal, Refused};
pub use fingerprint::fingerprint;
pub use headers::Forwarded;
pub use kvp::Params;
pub use origin::{Origin, OriginError};
pub use parse::{Incoming, dialect_of, parse};
pub use path::API_ROOTS;
pub use request::{Kind, OgcRequest, Service, Spelling};
pub use sharing::{HOLD, Sharing, SharingRules, sharing};
pub use upstream::{Upstream, upstream};
