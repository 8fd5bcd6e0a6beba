//! The catalog's pages for people. Names and titles come from files that anybody may have made: every text goes through
//! [`text`], and no page has a script or a style within it.

use std::fmt::Write as _;

use super::clock::rfc3339;
use super::details::{Details, Layer};
use super::links::Links;
use super::list::{Entry, Selection, Snapshot};
use super::map::{PREVIEW_HEIGHT, PREVIEW_WIDTH, view};
use super::query::ListQuery;

/// What makes the map of a project's page move.
pub const SCRIPT: &str = include_str!("map.js");

/// How the pages look.
pub const STYLE: &str = include_str!("style.css");

/// What the pages may load: their own style, script and pictures, and what this server says of a point.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; \
                                           connect-src 'self'; form-action 'self'; base-uri 'none'; \
                                           frame-ancestors 'self'";

/// A text as HTML and XML may show it, also within quotes.
fn text(raw: &str) -> String {
    let mut safe = String::with_capacity(raw.len() + 16);
    for character in raw.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(character),
            control if control.is_control() => {}
            other => safe.push(other),
        }
    }
    safe
}

fn page(title: &str, links: &Links, head: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n\
         <link rel=\"stylesheet\" href=\"{}\">\n{head}</head>\n<body>\n{body}</body>\n</html>\n",
        text(title),
        text(&links.at("/catalog/style.css"))
    )
}

fn anchor(href: &str, words: &str) -> String {
    format!("<a href=\"{}\">{}</a>", text(href), text(words))
}

/// One page of the list. `previews` says whether each project has a picture.
#[must_use]
pub fn list_html(
    snapshot: &Snapshot,
    selection: &Selection<'_>,
    query: &ListQuery,
    links: &Links,
    previews: bool,
) -> String {
    let mut body = String::from("<header><h1>Projects</h1></header>\n<main>\n");
    let _ = write!(
        body,
        "<form method=\"get\" action=\"{}\">\n\
         <input type=\"search\" name=\"q\" value=\"{}\" placeholder=\"Part of a name\" aria-label=\"Part of a name\">\n\
         <input name=\"location\" value=\"{}\" placeholder=\"/folder\" aria-label=\"Folder\">\n\
         <input type=\"hidden\" name=\"limit\" value=\"{}\">\n<input type=\"hidden\" name=\"f\" value=\"html\">\n\
         <button>Search</button>\n</form>\n",
        text(&links.at("/catalog")),
        text(&query.text),
        text(&query.location),
        query.limit
    );
    for problem in &selection.problems {
        let _ = writeln!(
            body,
            "<p class=\"problem\">The storage of <code>{}</code> does not answer, so its projects are not shown: {}</p>",
            text(&problem.location),
            text(&problem.problem)
        );
    }
    let _ = writeln!(
        body,
        "<p class=\"soft\">{}; {}</p>",
        text(&counted(selection, query)),
        anchor(&links.list(query, query.offset, "json"), "as JSON")
    );
    body.push_str("<ul class=\"projects\">\n");
    for entry in &selection.entries {
        item(&mut body, entry, links, previews);
    }
    body.push_str("</ul>\n<nav>");
    let around = [(selection.previous, "Previous page"), (selection.next, "Next page")];
    for (offset, words) in around {
        if let Some(offset) = offset {
            body.push_str(&anchor(&links.list(query, offset, "html"), words));
        }
    }
    let _ = write!(
        body,
        "</nav>\n<p class=\"soft\">As of {}.</p>\n</main>\n",
        rfc3339(snapshot.taken)
    );
    page("Projects", links, "", &body)
}

fn counted(selection: &Selection<'_>, query: &ListQuery) -> String {
    match (selection.matched, selection.entries.len()) {
        (0, _) => "No project is there".to_owned(),
        (matched, 0) => format!("{matched} projects, none on this page"),
        (1, 1) => "1 project".to_owned(),
        (matched, shown) if shown == matched => format!("{matched} projects"),
        (matched, shown) => format!("{} to {} of {matched} projects", query.offset + 1, query.offset + shown),
    }
}

fn item(body: &mut String, entry: &Entry, links: &Links, previews: bool) {
    let page = links.project(&entry.id, "html");
    body.push_str("<li>");
    if previews {
        let _ = write!(
            body,
            "<a href=\"{}\"><img loading=\"lazy\" width=\"{PREVIEW_WIDTH}\" height=\"{PREVIEW_HEIGHT}\" alt=\"\" \
             src=\"{}\"></a>",
            text(&page),
            text(&links.preview(&entry.id))
        );
    }
    let _ = write!(
        body,
        "<strong>{}</strong>\n<span class=\"soft\">{}",
        anchor(&page, &entry.title),
        text(&entry.id)
    );
    if let Some(modified) = entry.modified {
        let _ = write!(body, "<br>changed {}", rfc3339(modified));
    }
    let _ = writeln!(body, "<br>{}</span></li>", services(&entry.id, links));
}

fn services(id: &str, links: &Links) -> String {
    [
        anchor(&links.capabilities(id, "WMS"), "WMS"),
        anchor(&links.capabilities(id, "WFS"), "WFS"),
        anchor(&links.features(id), "OGC API"),
        anchor(&links.project(id, "json"), "JSON"),
    ]
    .join(" · ")
}

/// The page of one project: a map of its own WMS, its layers, and where its services are.
#[must_use]
pub fn project_html(id: &str, details: &Details, links: &Links) -> String {
    let title = if details.title.is_empty() { id } else { &details.title };
    let mut body = format!(
        "<header><p class=\"soft\">{}</p><h1>{}</h1></header>\n<main>\n",
        anchor(&links.at("/catalog?f=html"), "All projects"),
        text(title)
    );
    if !details.summary.is_empty() {
        let _ = writeln!(body, "<p>{}</p>", text(&details.summary));
    }
    if !details.bad_layers.is_empty() {
        let _ = writeln!(
            body,
            "<p class=\"problem\">Layers that could not be opened and are left out: {}</p>",
            text(&details.bad_layers.join(", "))
        );
    }
    body.push_str("<div class=\"view\">\n");
    map(&mut body, id, details, links);
    body.push_str("<div><h2>Layers</h2>\n<ul class=\"layers\">\n");
    tree(&mut body, &details.layers);
    body.push_str(
        "</ul>\n<details><summary>Legend</summary><div id=\"legend\"></div></details>\n</div>\n</div>\n\
         <pre id=\"info\" hidden></pre>\n",
    );
    facts(&mut body, id, details, links);
    body.push_str("</main>\n");
    let script = links.at("/catalog/map.js");
    let head = format!("<script src=\"{}\" defer></script>\n", text(&script));
    page(title, links, &head, &body)
}

fn map(body: &mut String, id: &str, details: &Details, links: &Links) {
    let Some((crs, extent)) = view(details).filter(|_| !details.draw_order.is_empty()) else {
        body.push_str("<p>This project has no layer that can be drawn.</p>\n");
        return;
    };
    let order = serde_json::to_string(&details.draw_order).unwrap_or_default();
    let extent = serde_json::to_string(&extent).unwrap_or_default();
    let _ = write!(
        body,
        "<div id=\"map\" tabindex=\"0\" role=\"application\" aria-label=\"Map\" data-wms=\"{}\" data-crs=\"{}\" \
         data-extent=\"{}\" data-order=\"{}\" data-max-width=\"{}\" data-max-height=\"{}\">\n\
         <noscript><img alt=\"Map\" src=\"{}\"></noscript>\n\
         <div class=\"buttons\"><button type=\"button\" data-do=\"in\" title=\"Closer (+)\">+</button>\
         <button type=\"button\" data-do=\"out\" title=\"Farther (-)\">−</button>\
         <button type=\"button\" data-do=\"whole\" title=\"All of it (0)\">▣</button></div>\n\
         <span class=\"busy\" hidden></span>\n</div>\n",
        text(&links.services(id)),
        text(crs),
        text(&extent),
        text(&order),
        details.max_width,
        details.max_height,
        text(&links.preview(id))
    );
}

fn tree(body: &mut String, layers: &[Layer]) {
    for layer in layers {
        let title = text(if layer.title.is_empty() {
            &layer.name
        } else {
            &layer.title
        });
        if layer.kind == "group" {
            let _ = writeln!(body, "<li><button type=\"button\" data-group>{title}</button>\n<ul>");
            tree(body, &layer.layers);
            body.push_str("</ul></li>\n");
        } else {
            let _ = writeln!(
                body,
                "<li><label><input type=\"checkbox\" value=\"{}\" data-queryable=\"{}\"{}>{title}</label></li>",
                text(&layer.name),
                layer.queryable,
                if layer.visible { " checked" } else { "" }
            );
        }
    }
}

fn facts(body: &mut String, id: &str, details: &Details, links: &Links) {
    body.push_str("<h2>About</h2>\n<table>\n");
    let mut row = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(body, "<tr><th>{name}</th><td>{value}</td></tr>");
        }
    };
    row("Name", &text(id));
    row("Services", &services(id, links));
    row("Coordinate system", &text(&details.crs));
    let extent = details
        .extent_epsg4326
        .map(|numbers| numbers.map(|number| format!("{number:.5}")).join(", "));
    row("West, south, east, north", &extent.unwrap_or_default());
    row("Print layouts", &text(&details.layouts.join(", ")));
    row("Saved with QGIS", &text(&details.qgis_version));
    row("Version", &text(&details.version));
    row("Loaded in", &format!("{:.0} ms", details.load_ms));
    body.push_str("</table>\n");
}

/// A picture in the place of a preview that there is none of; `why` is shown to who points at it.
#[must_use]
pub fn placeholder(words: &str, why: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{PREVIEW_WIDTH}\" height=\"{PREVIEW_HEIGHT}\" \
         viewBox=\"0 0 {PREVIEW_WIDTH} {PREVIEW_HEIGHT}\"><title>{}</title>\
         <rect width=\"100%\" height=\"100%\" fill=\"#eef1f4\"/>\
         <text x=\"50%\" y=\"50%\" text-anchor=\"middle\" dominant-baseline=\"middle\" fill=\"#5c6a78\" \
         font-family=\"sans-serif\" font-size=\"14\">{}</text></svg>\n",
        text(why),
        text(words)
    )
}
