//! The page that a person sees who opens the server's address in a browser.

use http::StatusCode;

use super::told::{Told, ToldBody};

/// A few words on what this is and how to ask it for a map; with a link to the `catalog` where there is one.
#[must_use]
pub fn page(agent: &str, catalog: bool) -> Told {
    // Without a slash before it, it is right behind every proxy.
    let projects = if catalog {
        "<p><a href=\"catalog?f=html\">The projects that are here</a></p>\n"
    } else {
        ""
    };
    let text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Graticule</title></head>\n\
         <body style=\"font-family: sans-serif; max-width: 40em; margin: 3em auto; line-height: 1.5\">\n\
         <h1>Graticule</h1>\n\
         <p>This is a QGIS Server. It answers OGC requests for a project, named by <code>MAP</code> or by the path:</p>\n\
         <ul>\n\
         <li><code>/?MAP=/project&amp;SERVICE=WMS&amp;REQUEST=GetCapabilities</code> (also WFS, WCS, WMTS)</li>\n\
         <li><code>/ows/project?SERVICE=WMS&amp;REQUEST=GetCapabilities</code></li>\n\
         <li><code>/ows/project/wfs3/</code> for OGC API Features</li>\n\
         </ul>\n{projects}<p>Agent {agent}.</p>\n</body></html>\n"
    );
    Told {
        status: StatusCode::OK,
        headers: vec![
            ("content-type".into(), "text/html; charset=utf-8".into()),
            ("content-length".into(), text.len().to_string()),
        ],
        body: ToldBody::Whole(vec![text.into()]),
    }
}
