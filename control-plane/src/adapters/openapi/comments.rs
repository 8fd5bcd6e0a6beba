//! What the contracts say of their parts, in the comments before them.

use prost_reflect::FileDescriptor;

/// The comment before the part of a file at a path, as `SourceCodeInfo` counts paths; empty when there is none.
pub fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let locations = info.map_or(&[][..], |info| &info.location);
    let text = locations.iter().find(|location| location.path == path);
    let text = text.map_or("", |location| location.leading_comments());
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join("\n").trim().to_owned()
}

/// The first sentence, without its full stop.
pub fn first_sentence(text: &str) -> String {
    let text = text.replace('\n', " ");
    let end = text.find(". ").unwrap_or(text.len());
    text[..end].trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_the_first_sentence() {
        assert_eq!(first_sentence("Ends a pin. What\nagents have stays."), "Ends a pin");
        assert_eq!(first_sentence("Where 0.5 is\na half."), "Where 0.5 is a half");
        assert_eq!(first_sentence(""), "");
    }
}
