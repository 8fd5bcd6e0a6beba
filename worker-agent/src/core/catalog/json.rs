//! The catalog's documents for programs, in the spirit of OGC API – Common.

use serde_json::{Value, json};

use super::clock::rfc3339;
use super::details::Details;
use super::links::Links;
use super::list::{Entry, Selection, Snapshot};
use super::query::ListQuery;

fn link(rel: &str, kind: &str, title: &str, href: &str) -> Value {
    json!({"rel": rel, "type": kind, "title": title, "href": href})
}

const JSON: &str = "application/json";
const HTML: &str = "text/html";
const XML: &str = "text/xml";

/// Where a project's services and pages are.
fn links_of(id: &str, links: &Links) -> Vec<Value> {
    let capabilities = |service: &str| {
        link(
            "service-desc",
            XML,
            &format!("{service} capabilities"),
            &links.capabilities(id, service),
        )
    };
    vec![
        capabilities("WMS"),
        capabilities("WFS"),
        link("service", JSON, "OGC API - Features", &links.features(id)),
        link("describedby", JSON, "Details", &links.project(id, "json")),
        link("describedby", HTML, "Details and map", &links.project(id, "html")),
        link("preview", "image/png", "Preview", &links.preview(id)),
    ]
}

fn project(entry: &Entry, links: &Links) -> Value {
    json!({
        "id": entry.id,
        "title": entry.title,
        "location": entry.location,
        "storage": entry.storage,
        "modified": entry.modified.map(rfc3339),
        "bytes": entry.bytes,
        "links": links_of(&entry.id, links),
    })
}

/// One page of the list.
#[must_use]
pub fn list_json(snapshot: &Snapshot, page: &Selection<'_>, query: &ListQuery, links: &Links) -> String {
    let mut around = vec![
        link("self", JSON, "This page", &links.list(query, query.offset, "json")),
        link(
            "alternate",
            HTML,
            "This page as HTML",
            &links.list(query, query.offset, "html"),
        ),
    ];
    for (rel, title, offset) in [
        ("next", "The next page", page.next),
        ("prev", "The page before", page.previous),
    ] {
        around.extend(offset.map(|offset| link(rel, JSON, title, &links.list(query, offset, "json"))));
    }
    let problems = page.problems.iter();
    let document = json!({
        "title": "Projects",
        "links": around,
        "timeStamp": rfc3339(snapshot.taken),
        "numberMatched": page.matched,
        "numberReturned": page.entries.len(),
        "projects": page.entries.iter().map(|entry| project(entry, links)).collect::<Vec<_>>(),
        "problems": problems
            .map(|problem| json!({"location": problem.location, "problem": problem.problem}))
            .collect::<Vec<_>>(),
    });
    document.to_string()
}

/// A project in detail.
#[must_use]
pub fn project_json(id: &str, details: &Details, links: &Links) -> String {
    let mut around = vec![
        link("self", JSON, "This document", &links.project(id, "json")),
        link("alternate", HTML, "This document as a page", &links.project(id, "html")),
        link("collection", JSON, "All projects", &links.at("/catalog?f=json")),
    ];
    let own = |link: &Value| link["rel"] != "describedby";
    around.extend(links_of(id, links).into_iter().filter(own));
    let mut document = serde_json::to_value(details).unwrap_or_default();
    document["id"] = id.into();
    document["links"] = around.into();
    document.to_string()
}
