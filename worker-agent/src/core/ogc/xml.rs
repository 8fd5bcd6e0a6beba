//! The outermost element of an XML request body: its name says what is requested, its attributes are parameters.
//!
//! The whole document is walked once, without keeping it: it must be well-formed, UTF-8, not too deep, and free of a
//! document type, so that nothing in it can be expanded by whoever reads it next.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};

/// The deepest nesting taken; WFS filters and GML stay far below.
pub(super) const MAX_DEPTH: usize = 100;
/// The most attributes taken on the outermost element.
const MAX_ATTRIBUTES: usize = 100;

/// The outermost element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Root {
    /// Its name without prefix, such as `GetFeature`.
    pub name: String,
    /// The namespace it is in; empty for none.
    pub namespace: String,
    /// Its attributes except namespaces and `xsi:…`, keys in capitals, as QGIS takes them.
    pub attributes: Vec<(String, String)>,
    /// Whether there are filters within, at least as many as queries.
    pub filtered: bool,
}

/// Why a body is refused; the text fits after "the XML body ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum XmlError {
    #[error("is not well-formed: {0}")]
    Malformed(String),
    #[error("has a DOCTYPE; send it without one")]
    Doctype,
    #[error("uses the entity '&{0};', which XML itself does not define; write the character")]
    Entity(String),
    #[error("is nested deeper than {MAX_DEPTH} elements")]
    Deep,
    #[error("has more than {MAX_ATTRIBUTES} attributes on its outermost element")]
    Attributes,
}

/// Whether QGIS would take this body for XML: a `<` after white space and a byte order mark.
pub(super) fn looks_like_xml(body: &[u8]) -> bool {
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<')
}

/// Reads the outermost element and checks the rest.
pub(super) fn root(body: &[u8]) -> Result<Root, XmlError> {
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    let text = std::str::from_utf8(body).map_err(|_| XmlError::Malformed("it is not UTF-8".to_owned()))?;
    let mut reader = Reader::from_str(text.trim_start());
    let mut found: Option<Root> = None;
    let mut depth = 0_usize;
    let (mut queries, mut filters) = (0_usize, 0_usize);
    loop {
        let event = reader
            .read_event()
            .map_err(|error| XmlError::Malformed(error.to_string()))?;
        match event {
            Event::DocType(_) => return Err(XmlError::Doctype),
            Event::Start(ref start) | Event::Empty(ref start) => {
                if depth == 0 {
                    if found.is_some() {
                        return Err(XmlError::Malformed("it has two outermost elements".to_owned()));
                    }
                    found = Some(read_root(start)?);
                }
                queries += usize::from(start.local_name().as_ref() == "Query");
                if matches!(event, Event::Start(_)) {
                    depth += 1;
                    // QGIS takes an empty element for no filter.
                    filters += usize::from(start.local_name().as_ref() == "Filter");
                }
                if depth > MAX_DEPTH {
                    return Err(XmlError::Deep);
                }
            }
            Event::End(_) => depth = depth.saturating_sub(1),
            Event::GeneralRef(ref reference) => {
                let name = reference.to_string();
                if !reference.is_char_ref() && resolve_predefined_entity(&name).is_none() {
                    return Err(XmlError::Entity(name));
                }
                if depth == 0 {
                    return Err(XmlError::Malformed(
                        "it has text outside its outermost element".to_owned(),
                    ));
                }
            }
            Event::Text(ref outside) if depth == 0 && !outside.trim_ascii().is_empty() => {
                return Err(XmlError::Malformed(
                    "it has text outside its outermost element".to_owned(),
                ));
            }
            Event::CData(_) if depth == 0 => {
                return Err(XmlError::Malformed(
                    "it has text outside its outermost element".to_owned(),
                ));
            }
            Event::Eof => break,
            Event::Text(_) | Event::CData(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
    if depth > 0 {
        return Err(XmlError::Malformed(
            "it ends before its outermost element does".to_owned(),
        ));
    }
    let mut root = found.ok_or_else(|| XmlError::Malformed("it has no element".to_owned()))?;
    root.filtered = filters > 0 && filters >= queries;
    Ok(root)
}

fn read_root(start: &BytesStart<'_>) -> Result<Root, XmlError> {
    let prefix = start
        .name()
        .prefix()
        .map(|prefix| prefix.as_ref().to_owned())
        .unwrap_or_default();
    let mut root = Root {
        name: start.local_name().as_ref().to_owned(),
        namespace: String::new(),
        attributes: Vec::new(),
        filtered: false,
    };
    let declares = if prefix.is_empty() {
        "xmlns".to_owned()
    } else {
        format!("xmlns:{prefix}")
    };
    for (count, attribute) in start.attributes().enumerate() {
        if count >= MAX_ATTRIBUTES {
            return Err(XmlError::Attributes);
        }
        let attribute = attribute.map_err(|error| XmlError::Malformed(error.to_string()))?;
        let key: &str = attribute.key.as_ref();
        let value = unescape(&attribute.value)?;
        if key == declares {
            root.namespace = value;
        } else if !key.starts_with("xmlns") && !key.starts_with("xsi:") {
            let key = key.to_uppercase();
            // QGIS would take either, as its hash table has it.
            if root.attributes.iter().any(|(other, _)| *other == key) {
                return Err(XmlError::Malformed(format!(
                    "it has the attribute {key} twice, in different letter case"
                )));
            }
            root.attributes.push((key, value));
        }
    }
    Ok(root)
}

fn unescape(value: &str) -> Result<String, XmlError> {
    quick_xml::escape::unescape(value)
        .map(std::borrow::Cow::into_owned)
        .map_err(|error| match error {
            quick_xml::escape::EscapeError::UnrecognizedEntity(_, name) => XmlError::Entity(name),
            other => XmlError::Malformed(other.to_string()),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WFS: &str = "http://www.opengis.net/wfs";

    #[test]
    fn reads_name_namespace_and_attributes() {
        let body = format!(
            r#"<?xml version="1.0"?><!-- c --><wfs:GetFeature service="WFS" version='1.1.0' maxFeatures="2"
               xmlns:wfs="{WFS}" xmlns:xsi="x" xsi:schemaLocation="a b">
               <wfs:Query typeName="a&amp;b"/></wfs:GetFeature>"#
        );
        let root = root(body.as_bytes()).unwrap();
        assert_eq!((root.name.as_str(), root.namespace.as_str()), ("GetFeature", WFS));
        let attributes: Vec<_> = root.attributes.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            attributes,
            [("SERVICE", "WFS"), ("VERSION", "1.1.0"), ("MAXFEATURES", "2")]
        );
    }

    #[test]
    fn sees_whether_every_query_has_a_filter() {
        let filtered = |inner: &str| {
            root(format!("<GetFeature>{inner}</GetFeature>").as_bytes())
                .unwrap()
                .filtered
        };
        let filter = "<ogc:Filter><ogc:FeatureId fid='a.1'/></ogc:Filter>";
        assert!(filtered(&format!("<wfs:Query>{filter}</wfs:Query>")));
        assert!(filtered(&format!("<Query>{filter}</Query><Query>{filter}</Query>")));
        assert!(!filtered(&format!("<Query>{filter}</Query><Query/>")));
        assert!(!filtered("<Query><Filter/></Query>"));
        assert!(!filtered("<Query/>"));
        assert!(!filtered(""));
    }

    #[test]
    fn takes_a_default_namespace_a_byte_order_mark_and_white_space() {
        let body = format!("\u{FEFF}\n <GetCapabilities xmlns=\"{WFS}\"/>\n");
        assert!(looks_like_xml(body.as_bytes()));
        let root = root(body.as_bytes()).unwrap();
        assert_eq!((root.name.as_str(), root.namespace.as_str()), ("GetCapabilities", WFS));
    }

    #[test]
    fn refuses_what_could_be_expanded() {
        let bomb = b"<!DOCTYPE a [<!ENTITY e 'WFS'>]><GetCapabilities service='&e;'/>";
        assert_eq!(root(bomb), Err(XmlError::Doctype));
        assert_eq!(root(b"<a service='&e;'/>"), Err(XmlError::Entity("e".to_owned())));
        assert_eq!(root(b"<a>&e;</a>"), Err(XmlError::Entity("e".to_owned())));
        assert!(root(b"<a>&lt;&#65;</a>").is_ok());
    }

    #[test]
    fn refuses_what_is_not_one_whole_document() {
        for body in [
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>text",
            "text<a/>",
            "",
            "<",
            "<a",
            "<a x=1/>",
            "<a x='1' x='2'/>",
            "<a x='1' X='2'/>",
            "<!-- only -->",
            "<a/>&lt;",
            "<![CDATA[x]]>",
            "</a>",
        ] {
            assert!(matches!(root(body.as_bytes()), Err(XmlError::Malformed(_))), "{body}");
        }
        assert!(matches!(root(b"<a>\xFF</a>"), Err(XmlError::Malformed(_))));
    }

    #[test]
    fn bounds_depth_and_attributes() {
        let nested = |depth: usize| "<a>".repeat(depth) + &"</a>".repeat(depth);
        assert!(root(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(root(nested(MAX_DEPTH + 1).as_bytes()), Err(XmlError::Deep));
        let wide: String = (0..=MAX_ATTRIBUTES).map(|n| format!(" a{n}='1'")).collect();
        assert_eq!(root(format!("<a{wide}/>").as_bytes()), Err(XmlError::Attributes));
    }
}
