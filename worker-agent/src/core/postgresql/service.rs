//! Connection service files as libpq reads them: sections in brackets, with connection parameters.

use std::collections::BTreeMap;

/// The parameters of a service; none when the file does not have it.
///
/// # Errors
/// What is wrong with the section, and in which line.
pub fn parameters(text: &str, service: &str) -> Result<Option<BTreeMap<String, String>>, String> {
    let mut found: Option<BTreeMap<String, String>> = None;
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        let (number, line) = (number + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            if inside {
                break;
            }
            inside = name.strip_suffix(']') == Some(service);
            if inside {
                found = Some(BTreeMap::new());
            }
        } else if let Some(parameters) = found.as_mut().filter(|_| inside) {
            let (name, value) = line.split_once('=').ok_or_else(|| {
                format!("line {number} of the service file is no `name=value`: correct it in [{service}]")
            })?;
            // The first wins.
            parameters
                .entry(name.trim().to_owned())
                .or_insert_with(|| value.trim().to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "# all\n[maps]\nhost=db.example\n port = 5433\nuser=ann\nuser=bob\n\n[other]\nnonsense\n[maps]\nhost=late\n";

    #[test]
    fn a_service_is_found_and_the_first_of_its_name_wins() {
        let maps = parameters(FILE, "maps").unwrap().unwrap();
        let expected = [("host", "db.example"), ("port", "5433"), ("user", "ann")];
        assert_eq!(
            maps,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        );
        assert_eq!(parameters(FILE, "none"), Ok(None));
        assert!(parameters(FILE, "other").unwrap_err().starts_with("line 9 "));
    }
}
