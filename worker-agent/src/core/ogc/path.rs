//! The paths that the agent answers, taken apart: where a project's name ends and an API begins.
//!
//! | path | means |
//! |---|---|
//! | `/`, `/ows`, `/cgi-bin/qgis_mapserv.fcgi` | a service; the project is in `MAP` |
//! | `/ows/{project…}` | a service; the project is the rest of the path |
//! | `/wfs3…`, `/cgi-bin/qgis_mapserv.fcgi/wfs3…` | an OGC API; the project is in `MAP` |
//! | `/ows/{project…}/wfs3…` | an OGC API of that project |
//! | `/wfs3/static/…` | files of the API's web pages, which QGIS asks for without `MAP`: the project may be missing |
//!
//! In the path form the first segment `wfs3` (or `wfs3.html`, `wfs3.json`) after a project's name is the API. A project
//! with a folder of that name is asked for with `MAP`.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};

use super::exception::Refusal;

/// The roots of the OGC APIs that QGIS serves.
pub const API_ROOTS: &[&str] = &["/wfs3"];

/// Paths under which services and APIs are asked for with `MAP`.
const BASES: &[&str] = &["/cgi-bin/qgis_mapserv.fcgi", "/ows", ""];

/// What a URL may not hold as it is; everything else stays as the client wrote it.
const UNSAFE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'`')
    .add(b'\\')
    .add(b'#');

/// The longest path in bytes, as it came.
pub const MAX_PATH: usize = 8192;

/// A path taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    /// With single slashes, fit for a URL, otherwise as it came.
    pub whole: String,
    /// The decoded project of the path form.
    pub project: Option<String>,
    /// Root and rest of an API.
    pub api: Option<(&'static str, String)>,
}

impl Path {
    /// Takes a path apart that was not decoded.
    pub fn read(path: &str) -> Result<Self, Refusal> {
        if path.len() > MAX_PATH {
            return Err(Refusal::Malformed(format!(
                "the path has {} bytes, at most {MAX_PATH} are allowed",
                path.len()
            )));
        }
        let raw: Vec<String> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| escape(segment.as_bytes()))
            .collect();
        let decoded = raw
            .iter()
            .map(|segment| decode_segment(segment))
            .collect::<Result<Vec<_>, _>>()?;
        let mut whole = raw.iter().fold(String::new(), |whole, segment| whole + "/" + segment);
        if path.ends_with('/') || whole.is_empty() {
            whole.push('/');
        }
        let api_at = |from: usize| {
            (from..decoded.len()).find_map(|at| Some((at, api_root(&decoded[at], &raw[at + 1..], &whole)?)))
        };
        if raw.len() > 1 && raw[0] == "ows" {
            let api = api_at(2);
            let end = api.as_ref().map_or(decoded.len(), |(at, _)| *at);
            let project = Some(decoded[1..end].join("/"));
            return Ok(Self {
                project,
                api: api.map(|(_, api)| api),
                whole,
            });
        }
        for base in BASES {
            let skip = base.split('/').filter(|segment| !segment.is_empty()).count();
            if !base
                .split('/')
                .filter(|segment| !segment.is_empty())
                .eq(raw.iter().take(skip))
            {
                continue;
            }
            if raw.len() == skip {
                return Ok(Self {
                    project: None,
                    api: None,
                    whole,
                });
            }
            if let Some(api) = api_root(&decoded[skip], &raw[skip + 1..], &whole) {
                return Ok(Self {
                    project: None,
                    api: Some(api),
                    whole,
                });
            }
        }
        Err(Refusal::NotFound { path: whole })
    }
}

/// Root and rest, when `segment` opens an API.
fn api_root(segment: &str, after: &[String], whole: &str) -> Option<(&'static str, String)> {
    let (root, extension) = API_ROOTS.iter().find_map(|root| {
        let extension = segment.strip_prefix(&root[1..])?;
        matches!(extension, "" | ".html" | ".json").then_some((*root, extension))
    })?;
    let mut rest = extension.to_owned();
    for segment in after {
        rest.push('/');
        rest.push_str(segment);
    }
    if whole.ends_with('/') {
        rest.push('/');
    }
    Some((root, rest))
}

/// A part of a URL with what may not stand in one percent-encoded.
pub(super) fn escape(raw: &[u8]) -> String {
    percent_encode(raw, UNSAFE).to_string()
}

/// Decodes one segment, and refuses what would step elsewhere once a server or a file system reads it.
fn decode_segment(raw: &str) -> Result<String, Refusal> {
    let bad = |what: &str| Refusal::Malformed(format!("the path has {what}; write it plainly"));
    let decoded = percent_decode(raw.as_bytes())
        .decode_utf8()
        .map_err(|_| bad("bytes that are not UTF-8"))?;
    if decoded == "." || decoded == ".." {
        return Err(bad("a segment '.' or '..'"));
    }
    if decoded.contains(['/', '\\']) {
        return Err(bad("an encoded slash or a backslash"));
    }
    if decoded.chars().any(char::is_control) {
        return Err(bad("a control character"));
    }
    Ok(decoded.into_owned())
}
