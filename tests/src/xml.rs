//! XML documents as trees, read whole; names without their prefixes.

use anyhow::{Context as _, bail};
use quick_xml::Reader;
use quick_xml::escape::{resolve_predefined_entity, unescape};
use quick_xml::events::{BytesStart, Event};

/// An element with all that is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name without prefix.
    pub name: String,
    /// Its attributes, names with their prefixes.
    pub attributes: Vec<(String, String)>,
    /// The elements in it.
    pub children: Vec<Element>,
    /// The text directly in it.
    pub text: String,
}

impl Element {
    /// Reads a document.
    ///
    /// # Errors
    /// When it is not well-formed.
    pub fn parse(document: &str) -> anyhow::Result<Self> {
        let mut reader = Reader::from_str(document);
        // The first stands for the document itself.
        let mut open = vec![Self::default()];
        loop {
            let event = reader.read_event()?;
            let current = open.last_mut().context("an end without its start")?;
            match event {
                Event::Start(start) => open.push(Self::begin(&start)?),
                Event::Empty(start) => current.children.push(Self::begin(&start)?),
                Event::End(_) => {
                    let done = open.pop().context("an end without its start")?;
                    open.last_mut().context("an end without its start")?.children.push(done);
                }
                Event::Text(text) => current.text.push_str(&text),
                Event::CData(text) => current.text.push_str(&text),
                Event::GeneralRef(reference) => match reference.resolve_char_ref()? {
                    Some(character) => current.text.push(character),
                    None => current
                        .text
                        .push_str(resolve_predefined_entity(&reference).context("an unknown entity")?),
                },
                Event::Eof => break,
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            }
        }
        let mut document = open
            .pop()
            .filter(|_| open.is_empty())
            .context("it ends within an element")?;
        if document.children.len() != 1 {
            bail!("{} outermost elements", document.children.len());
        }
        Ok(document.children.remove(0))
    }

    fn begin(start: &BytesStart<'_>) -> anyhow::Result<Self> {
        let mut element = Self {
            name: start.local_name().as_ref().to_owned(),
            ..Self::default()
        };
        for attribute in start.attributes() {
            let attribute = attribute?;
            element.attributes.push((
                attribute.key.as_ref().to_owned(),
                unescape(&attribute.value)?.into_owned(),
            ));
        }
        Ok(element)
    }

    /// This element and all in it, in the order of the document.
    #[must_use]
    pub fn all(&self) -> Vec<&Self> {
        let mut found = vec![self];
        for child in &self.children {
            found.extend(child.all());
        }
        found
    }

    /// The first element of that name, at any depth.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Self> {
        self.all().into_iter().find(|element| element.name == name)
    }

    /// Every element of that name, at any depth.
    #[must_use]
    pub fn find_all(&self, name: &str) -> Vec<&Self> {
        self.all().into_iter().filter(|element| element.name == name).collect()
    }

    /// An attribute, its name with or without a prefix.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let named = |key: &str| key == name || key.rsplit(':').next() == Some(name);
        self.attributes
            .iter()
            .find(|(key, _)| named(key))
            .map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_becomes_a_tree() {
        let text =
            "<?xml version='1.0'?><a:r xmlns:a='urn:x'><l xlink:href='u?a=1&amp;b=2'/><t>x &amp; &#65;</t></a:r>";
        let document = Element::parse(text).unwrap();
        assert_eq!(document.name, "r");
        assert_eq!(document.find("l").unwrap().attribute("href"), Some("u?a=1&b=2"));
        assert_eq!(document.find("t").unwrap().text, "x & A");
    }

    #[test]
    fn broken_documents_are_refused() {
        for text in ["", "<a>", "<a></b>", "<a/><b/>", "<a>&nbsp;</a>"] {
            assert!(Element::parse(text).is_err(), "{text}");
        }
    }
}
