//! Every link in a document that a client may follow: in XML, JSON and HTML.

use serde_json::Value;

use crate::client::Answer;
use crate::xml::Element;

/// Hosts that are no part of the service: names of concepts, and what QGIS's own web pages load.
const FOREIGN: &[&str] = &[
    "www.opengis.net",
    "schemas.opengis.net",
    "www.w3.org",
    "www.qgis.org",
    "qgis.org",
    "unpkg.com",
    "code.jquery.com",
    "cdnjs.cloudflare.com",
    "stackpath.bootstrapcdn.com",
    "www.openstreetmap.org",
    "inspire.ec.europa.eu",
];

/// The links of an answer, in the order of its text. Relative ones begin with `/`.
///
/// # Panics
/// When the answer is no document that has links.
#[must_use]
pub fn links(answer: &Answer) -> Vec<String> {
    let media_type = answer.media_type();
    let mut found = Vec::new();
    if media_type.ends_with("html") {
        html(&answer.text(), &mut found);
    } else if media_type.ends_with("json")
        || media_type.contains("json;")
        || media_type.starts_with("application/vnd.oai")
    {
        json(&answer.json(), &mut found);
    } else {
        assert!(media_type.contains("xml"), "{media_type} has no links");
        xml(&answer.xml(), &mut found);
    }
    found.retain(|link| !is_foreign(link));
    found
}

fn is_foreign(link: &str) -> bool {
    let host = link
        .split_once("://")
        .map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    host.is_some_and(|host| FOREIGN.contains(&host))
}

fn is_absolute(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

fn xml(document: &Element, found: &mut Vec<String>) {
    for element in document.all() {
        for (name, value) in &element.attributes {
            if !name.starts_with("xmlns") {
                found.extend(
                    value
                        .split_whitespace()
                        .filter(|word| is_absolute(word))
                        .map(str::to_owned),
                );
            }
        }
        let text = element.text.trim();
        if is_absolute(text) {
            found.push(text.to_owned());
        }
    }
}

fn json(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if is_absolute(text) => found.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| json(value, found)),
        // Examples of an OpenAPI document are of other services.
        Value::Object(members) => {
            for (name, member) in members {
                if name != "example" && name != "examples" {
                    json(member, found);
                }
            }
        }
        _ => {}
    }
}

fn html(text: &str, found: &mut Vec<String>) {
    for attribute in ["href=\"", "src=\""] {
        for rest in text.split(attribute).skip(1) {
            // Browsers take white space off around a link; QGIS's pages rely on it.
            let link = rest.split('"').next().unwrap_or_default().trim().replace("&amp;", "&");
            if !link.is_empty() && !link.starts_with('#') {
                found.push(link);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_wherever_they_stand() {
        let document = "<r xmlns:a='http://a.org' a:schemaLocation='http://www.w3.org/x http://s.org/?a=1&amp;b'>\
                        <l href='http://s.org/1'/><t> http://s.org/2 </t></r>";
        let mut found = Vec::new();
        xml(&Element::parse(document).unwrap(), &mut found);
        found.retain(|link| !is_foreign(link));
        assert_eq!(found, ["http://s.org/?a=1&b", "http://s.org/1", "http://s.org/2"]);
        let mut found = Vec::new();
        json(
            &serde_json::json!({"links": [{"href": "https://s.org/3"}], "example": "http://x.org"}),
            &mut found,
        );
        assert_eq!(found, ["https://s.org/3"]);
        let mut found = Vec::new();
        html(
            "<a href=\"/x?a&amp;b\">x</a><script src=\"http://s.org/4\"></script><a href=\"#top\">",
            &mut found,
        );
        assert_eq!(found, ["/x?a&b", "http://s.org/4"]);
    }
}
