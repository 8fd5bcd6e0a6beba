//! `[front]`: what Envoy does for clients of every pool.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use graticule_daemon::config::ADDRESS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::FrontTls;
use super::{Unusable, loopback};

/// `[front]`: what Envoy does for clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Front {
    /// Where Envoy takes clients' requests (HTTP).
    #[schemars(extend("x-expected" = ADDRESS))]
    pub listen: SocketAddr,
    /// How many proxies in front of Envoy are believed in what they say in `X-Forwarded-*` headers. With 0, what clients send
    /// of them is dropped.
    pub trusted_hops: u32,
    /// How long a request may take until its answer has been delivered, in seconds. What agents say of their own
    /// longest timeout goes before a shorter one, so that it is the agent that says what was late.
    #[schemars(range(min = 0.1, max = 86_400))]
    pub request_timeout: f64,
    /// What goes before `front.request_timeout` for single services and requests, in seconds: `SERVICE/Request`, `SERVICE` or
    /// the root of an API, in any letter case; of an API the request is its method. 0.1 to 86400.
    #[schemars(extend("examples" = [{"WMS/GetPrint": 120.0, "WFS": 90.0}]))]
    pub timeouts: BTreeMap<String, f64>,
    /// How long an agent may take to accept a connection until another one is tried, in seconds.
    #[schemars(range(min = 0.01, max = 60))]
    pub connect_timeout: f64,
    /// Whether a project's requests go to one agent as long as that has room for them, so that few agents load it. Without,
    /// each goes to the agent with the fewest in flight: for a few projects that every worker holds anyway.
    pub affinity: bool,
    /// Where Envoy writes one line of JSON for each request: a file's path, `stdout`, or empty for nowhere.
    pub access_log: String,
    /// Headers that every answer has unless its agent says something else in them, value by name; an empty value for none.
    #[schemars(extend("examples" = [{"x-frame-options": "SAMEORIGIN"}]))]
    pub response_headers: BTreeMap<String, String>,
    /// How large what clients send may be. What is larger is answered by Envoy, and no agent sees it.
    pub limits: Limits,
    /// How answers are compressed for clients that take them so.
    pub compression: Compression,
    /// HTTPS: docs/tls.md. Envoy is given certificates by the control plane, which reads them again when the files change.
    pub tls: FrontTls,
}

impl Default for Front {
    fn default() -> Self {
        let headers = [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "strict-origin-when-cross-origin"),
        ];
        Self {
            listen: loopback(9080),
            trusted_hops: 0,
            request_timeout: 60.0,
            timeouts: BTreeMap::new(),
            connect_timeout: 0.5,
            affinity: true,
            access_log: String::new(),
            response_headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            limits: Limits::default(),
            compression: Compression::default(),
            tls: FrontTls::default(),
        }
    }
}

/// `[front.limits]`: how large what clients send may be. What is larger is answered by Envoy, and no agent sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a request's body; not less than agents' `server.max_body_size`. Answered with 413.
    #[schemars(extend("x-expected" = "a whole number from 1 to 1073741824"))]
    pub max_body_size: u32,
    /// Bytes of a request's path and query. Answered with 414.
    #[schemars(extend("x-expected" = "a whole number from 256 to max_header_size"))]
    pub max_url_length: u32,
    /// Bytes of a request's head; whole KiB count. Answered with 431.
    #[schemars(extend("x-expected" = "a whole number from 1024 to 196608"))]
    pub max_header_size: u32,
    /// Headers of a request. Answered with 431.
    #[schemars(extend("x-expected" = "a whole number from 10 to 1000"))]
    pub max_headers: u32,
    /// Clients' connections at once; what comes over it is closed. 0 for any number.
    pub max_connections: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_size: 10_485_760,
            max_url_length: 32_768,
            max_header_size: 61_440,
            max_headers: 100,
            max_connections: 0,
        }
    }
}

/// `[front.compression]`: how answers are compressed for clients that take them so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Compression {
    /// The algorithms. Of those that a client takes equally, the first here is chosen, else the first that the client names. None
    /// leaves every answer as it is.
    pub algorithms: Vec<Algorithm>,
    /// Shorter answers are left as they are, in bytes.
    #[schemars(range(min = 30))]
    pub min_size: u32,
    /// The types of answers that are compressed, without parameters. Images are compressed already.
    pub content_types: Vec<String>,
}

/// A way to compress, by its name in `Accept-Encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Brotli (RFC 7932).
    Br,
    /// Zstandard (RFC 8878).
    Zstd,
    /// Gzip (RFC 1952).
    Gzip,
}

impl Default for Compression {
    fn default() -> Self {
        let types = [
            "text/html",
            "text/plain",
            "text/css",
            "text/csv",
            "text/xml",
            "text/javascript",
            "application/javascript",
            "application/json",
            "application/geo+json",
            "application/problem+json",
            "application/vnd.oai.openapi+json",
            "application/openapi+json",
            "application/xml",
            "application/gml+xml",
            "application/vnd.ogc.wms_xml",
            "application/vnd.ogc.se_xml",
            "application/vnd.ogc.gml",
            "application/vnd.google-earth.kml+xml",
        ];
        Self {
            algorithms: vec![Algorithm::Br, Algorithm::Zstd, Algorithm::Gzip],
            min_size: 1024,
            content_types: types.map(str::to_owned).into(),
        }
    }
}

impl Compression {
    fn check(&self) -> Result<(), Unusable> {
        let wrong = |key: &str, value: &str, problem: &str| {
            Err(Unusable::Value {
                key: format!("front.compression.{key}"),
                value: value.to_owned(),
                problem: problem.to_owned(),
            })
        };
        for (index, algorithm) in self.algorithms.iter().enumerate() {
            if self.algorithms[..index].contains(algorithm) {
                let problem = "it is there twice, remove one of them";
                return wrong("algorithms", &format!("{algorithm:?}").to_lowercase(), problem);
            }
        }
        for kind in &self.content_types {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
            let known = kind.split_once('/').is_some_and(|(main, sub)| {
                [main, sub]
                    .iter()
                    .all(|part| !part.is_empty() && part.bytes().all(plain))
            });
            if !known {
                return wrong(
                    "content_types",
                    kind,
                    "write a type without parameters, such as `text/xml`",
                );
            }
            if kind.starts_with("image/") {
                return wrong("content_types", kind, "images are compressed already, remove it");
            }
        }
        Ok(())
    }
}

impl Front {
    /// Whether requests without TLS are led to HTTPS.
    #[must_use]
    pub fn leads_to_https(&self) -> bool {
        self.tls.is_on() && self.tls.redirect_http
    }

    /// Checks what types alone cannot.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub(super) fn check(&self) -> Result<(), Unusable> {
        let limits = &self.limits;
        for (key, value, least, most) in [
            ("max_body_size", limits.max_body_size, 1, 1 << 30),
            ("max_header_size", limits.max_header_size, 1024, 192 * 1024),
            ("max_url_length", limits.max_url_length, 256, limits.max_header_size),
            ("max_headers", limits.max_headers, 10, 1000),
        ] {
            if !(least..=most).contains(&value) {
                return Err(Unusable::Value {
                    key: format!("front.limits.{key}"),
                    value: value.to_string(),
                    problem: format!("set it to a number from {least} to {most}"),
                });
            }
        }
        self.compression.check()?;
        check_timeouts("front.timeouts", &self.timeouts)?;
        for (name, value) in &self.response_headers {
            let token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
            if !token || !value.bytes().all(|b| (b' '..0x7f).contains(&b)) {
                return Err(Unusable::Value {
                    key: "front.response_headers".to_owned(),
                    value: format!("{name}: {value}"),
                    problem: "a header's name has letters, digits, `-` and `_`, its value is plain text on one line"
                        .to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Checks a table of timeouts by service and request.
///
/// # Errors
/// The first that cannot be used.
pub(super) fn check_timeouts(key: &str, timeouts: &BTreeMap<String, f64>) -> Result<(), Unusable> {
    let mut seen: Vec<String> = Vec::new();
    for (kind, value) in timeouts {
        let wrong = |problem: &str| Unusable::Value {
            key: key.to_owned(),
            value: format!("{kind} = {value}"),
            problem: problem.to_owned(),
        };
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let (service, request) = kind.split_once('/').unwrap_or((kind, "all"));
        if !plain(service) || !plain(request) {
            return Err(wrong("write it as in `WMS/GetPrint`, `WFS` or `wfs3/POST`"));
        }
        if !(0.1..=86_400.0).contains(value) {
            return Err(wrong("set it to a number of seconds from 0.1 to 86400"));
        }
        if seen.contains(&kind.to_lowercase()) {
            return Err(wrong("it is there twice in other letters, remove one of them"));
        }
        seen.push(kind.to_lowercase());
    }
    Ok(())
}
