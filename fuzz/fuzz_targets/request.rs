//! Any bytes, taken for an HTTP request in plain text: a line `METHOD TARGET`, header lines, an empty line, a body.
//!
//! Reading it must not panic. What is understood must mean the same after it was rewritten for QGIS, must name a
//! project that stays below its root, and must have one fingerprint; what is refused must be refused in a well-formed
//! document.

#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use worker_agent::core::locate::{At, ProjectName, SearchPaths};
use worker_agent::core::ogc::{Dialect, Incoming, Kind, OgcRequest, Origin, Refused};
use worker_agent::core::ogc::{Forwarded, fingerprint, parse, upstream};

struct Request {
    method: Method,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Request {
    /// The bytes as a request; none when a server would not have let them through.
    fn read(data: &[u8]) -> Option<Self> {
        let end = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
        let body = data.get(end + 2..).unwrap_or_default().to_vec();
        let head = std::str::from_utf8(&data[..end]).ok()?;
        let mut lines = head.lines();
        let (method, target) = lines.next()?.split_once(' ')?;
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(path, query)| (path, Some(query)));
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':')?;
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(value.trim().as_bytes()).ok()?);
        }
        Some(Self {
            method: Method::from_bytes(method.as_bytes()).ok()?,
            path: path.to_owned(),
            query: query.map(str::to_owned),
            headers,
            body,
        })
    }

    fn parse(&self) -> Result<OgcRequest, Refused> {
        parse(&Incoming {
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            content_type: self.headers.get("content-type").and_then(|value| value.to_str().ok()),
            body: &self.body,
        })
    }
}

fn check_document(refused: &Refused) {
    assert!(refused.reason.status().is_client_error());
    let (_, document) = refused.document("r-1");
    if refused.dialect == Dialect::Json {
        serde_json::from_str::<serde_json::Value>(&document).expect("JSON");
        return;
    }
    let mut reader = quick_xml::Reader::from_str(&document);
    while !matches!(reader.read_event().expect("well-formed"), quick_xml::events::Event::Eof) {}
}

fn check_project(name: &ProjectName) {
    assert_eq!(ProjectName::parse(&name.spelled()).as_ref(), Ok(name));
    let paths = SearchPaths::new([("/", "/srv/all"), ("/maps/{user}", "/srv/{user}")]).expect("search paths");
    let found = paths.locate(name).expect("the root takes every name");
    let At::Directory(found) = found.at else {
        panic!("a directory stays one")
    };
    for file in found.files {
        assert!(file.starts_with(&found.fence));
        assert!(
            file.components()
                .skip(1)
                .all(|part| matches!(part, std::path::Component::Normal(_)))
        );
    }
}

fuzz_target!(|data: &[u8]| {
    let Some(request) = Request::read(data) else { return };
    let understood = match request.parse() {
        Ok(understood) => understood,
        Err(refused) => return check_document(&refused),
    };
    match &understood.project {
        Some(name) => check_project(name),
        None => assert!(understood.kind == Kind::Home || understood.is_static()),
    }
    let all = Forwarded::new(["*"]).expect("it names every header");
    for (name, _) in all.pass(&request.headers) {
        let lower = name.to_ascii_lowercase();
        let overrides = lower.starts_with("x-qgis-") && lower.ends_with("service-url");
        assert!(!overrides && name != "Host");
    }
    let Ok(mut origin) = Origin::from_headers(&request.headers, None, "http") else {
        return;
    };
    let base = origin.base();
    base.parse::<http::Uri>()
        .expect("an origin that passes stands in a URL");
    origin.prefix = String::new();

    let handed = upstream(&understood, &request.body, &origin);
    let target = handed
        .url
        .strip_prefix(&origin.base())
        .expect("the origin opens the URL");
    assert!(target.bytes().all(|byte| byte.is_ascii_graphic()));
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    let again = Request {
        method: handed.method,
        path: path.to_owned(),
        query: query.map(str::to_owned),
        headers: request.headers,
        body: handed.body.unwrap_or_else(|| request.body.clone()),
    };
    let meant = again.parse().expect("what was understood is understood again");
    assert_eq!(
        (&meant.kind, &meant.project, meant.safe),
        (&understood.kind, &understood.project, understood.safe)
    );
    assert_eq!(upstream(&meant, &again.body, &origin).url, handed.url);
    if understood.method == meant.method {
        assert_eq!(
            fingerprint(&meant, &again.body),
            fingerprint(&understood, &request.body)
        );
    }
});
