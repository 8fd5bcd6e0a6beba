//! A request's fingerprint: the same for the same question, however it was spelled.
//!
//! Order and letter case of the parameters, the form in which the project was named, and what browsers append to get
//! past caches do not change it. It is stable across builds and machines, so that logs can be compared. It tells
//! questions apart by chance, not by proof: nothing may be answered from it alone.

use super::request::{Kind, OgcRequest};

/// Parameters that clients add to make a URL new.
pub(super) const VOLATILE: &[&str] = &[
    "_",
    "_DC",
    "_OLSALT",
    "_SALT",
    "_T",
    "_TS",
    "CACHEBUST",
    "CACHEBUSTER",
    "NOCACHE",
];

/// The fingerprint of a request whose body was `body`: 16 hexadecimal digits.
#[must_use]
pub fn fingerprint(request: &OgcRequest, body: &[u8]) -> String {
    let mut hash = Fnv::new();
    if let Some(project) = &request.project {
        hash.field(project.to_string().as_bytes());
    }
    hash.field(request.service_name().as_bytes());
    hash.field(request.operation().as_bytes());
    if let Kind::Api { rest, .. } = &request.kind {
        hash.field(rest.trim_end_matches('/').as_bytes());
    }
    for (key, value) in request.params.iter() {
        // Service and operation are hashed above, in one letter case.
        if !VOLATILE.contains(&key) && !matches!(key, "SERVICE" | "REQUEST") {
            hash.field(key.as_bytes());
            hash.field(value.as_bytes());
        }
    }
    if !request.body_is_parameters() {
        hash.field(body);
    }
    format!("{:016x}", hash.0)
}

/// FNV-1a, 64 bit: the standard library's hashers may change between releases.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds a field and its end, so that `ab` + `c` is not `a` + `bc`: no UTF-8 text has the byte 0xFF.
    fn field(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0xFF]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::parse::{Incoming, parse};
    use super::*;

    fn of(path: &str, query: &str) -> String {
        let incoming = Incoming {
            method: &Method::GET,
            path,
            query: Some(query),
            content_type: None,
            body: b"",
        };
        fingerprint(&parse(&incoming).unwrap(), b"")
    }

    fn post(content_type: &str, body: &str) -> String {
        let method = Method::POST;
        let body = body.as_bytes();
        let incoming = Incoming {
            method: &method,
            path: "/ows/w",
            query: None,
            content_type: Some(content_type),
            body,
        };
        fingerprint(&parse(&incoming).unwrap(), body)
    }

    const MAP: &str = "MAP=/w&SERVICE=WMS&REQUEST=GetMap&LAYERS=a,b";

    #[test]
    fn spelling_does_not_matter() {
        let one = of("/", MAP);
        assert_eq!(one, of("/", "layers=a%2Cb&request=getmap&service=wms&map=w"));
        assert_eq!(
            one,
            of("/ows/w", "LAYERS=a,b&SERVICE=WMS&REQUEST=GetMap&_ts=1732252000&_=7")
        );
        assert_eq!(one, post("application/x-www-form-urlencoded", MAP));
        assert_eq!(
            of("/ows/w/wfs3/collections", "limit=1"),
            of("/wfs3/collections/", "LIMIT=1&MAP=/w")
        );
    }

    #[test]
    fn the_question_matters() {
        let one = of("/", MAP);
        for other in [
            of("/", "MAP=/x&SERVICE=WMS&REQUEST=GetMap&LAYERS=a,b"),
            of("/", "MAP=/w&SERVICE=WMS&REQUEST=GetMap&LAYERS=b,a"),
            of("/", "MAP=/w&SERVICE=WMS&REQUEST=GetFeatureInfo&LAYERS=a,b"),
            of("/", "MAP=/w&SERVICE=WMS&REQUEST=GetMap&LAYERS=a,b&STYLES="),
        ] {
            assert_ne!(one, other);
        }
        let query = |name: &str| {
            post(
                "text/xml",
                &format!("<GetFeature service=\"WFS\"><Query typeName=\"{name}\"/></GetFeature>"),
            )
        };
        assert_ne!(query("a"), query("b"));
    }

    #[test]
    fn it_is_the_same_on_every_machine() {
        // Worked out apart from this code: FNV-1a over /w, WMS, getmap, LAYERS and "a,b", each ended by 0xFF.
        assert_eq!(of("/", MAP), "6c2d7fcf7757f202");
    }
}
