//! Projects as rows of a table `qgis_projects`, which QGIS keeps in PostgreSQL schemas and in GeoPackages: what a row is
//! called, how QGIS spells that in a URI, and when it was written.
//!
//! Pure, and of no one database.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::locate::{ProjectName, Suffix};

/// Stands for the project's name below the location.
const PATH: &str = "{path}";

/// QGIS reads a query's values with their punctuation as it stands: `%2C` is not a comma to it. Only what would end the
/// value, and what no URI may hold, is encoded.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'$')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b'-')
    .remove(b'.')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'?')
    .remove(b'@')
    .remove(b'[')
    .remove(b']')
    .remove(b'_')
    .remove(b'~');

/// A value in a query as QGIS reads it back.
///
/// # Errors
/// When QGIS cannot read it back in any spelling: it holds a `%`. The text says what to change.
pub fn value(text: &str) -> Result<String, String> {
    if text.contains('%') {
        return Err(format!(
            "QGIS cannot open `{text}`: it reads no `%` in such a name; rename it"
        ));
    }
    Ok(utf8_percent_encode(text, VALUE).to_string())
}

/// A part of a URL without its percent encoding.
#[must_use]
pub fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The names and values of a URL's query, decoded.
pub fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

/// What rows may be called that hold the project which is stored as `name`, in the order in which they are taken. A suffix
/// that the client wrote asks for just that; QGIS Desktop adds none by itself.
#[must_use]
pub fn rows(name: &str, suffix: Option<Suffix>) -> Vec<String> {
    match suffix {
        Some(suffix) => vec![format!("{name}{}", suffix.as_str())],
        None => [name, &format!("{name}.qgs"), &format!("{name}.qgz")]
            .map(str::to_owned)
            .into(),
    }
}

/// Whether a template for names tells projects apart.
///
/// # Errors
/// What to change.
pub fn check_template(parameter: &str, template: &str) -> Result<(), String> {
    if template.matches(PATH).count() == 1 {
        return Ok(());
    }
    Err(format!(
        "has a `{parameter}` without one {PATH}, so that all names would mean one project; write such as `{parameter}={PATH}`, or leave it out"
    ))
}

/// The name below the location, and the suffix, of a row that a template such as `maps/{path}` stands for; none when the
/// row belongs to another location, or clients cannot name it.
#[must_use]
pub fn listed(template: Option<&str>, row: &str) -> Option<(String, Option<Suffix>)> {
    let (before, after) = template
        .and_then(|template| template.split_once(PATH))
        .unwrap_or_default();
    let suffix = Suffix::of(row);
    let bare = row.strip_suffix(suffix.map_or("", Suffix::as_str))?;
    let relative = bare.strip_prefix(before)?.strip_suffix(after)?;
    let name = ProjectName::parse(relative).ok()?;
    (name.suffix().is_none() && name.key().strip_prefix('/') == Some(relative)).then(|| (relative.to_owned(), suffix))
}

/// A version made of what changes when a row is written; it goes into a header, so nothing odd stays in it.
#[must_use]
pub fn version(parts: &[&str]) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-') {
            c
        } else {
            '_'
        }
    };
    let parts: Vec<String> = parts
        .iter()
        .map(|part| part.chars().take(40).map(plain).collect())
        .collect();
    parts.join("-")
}

/// When QGIS wrote a row, by its metadata: `2026-11-22 12:20:47.123456` or with a `T`. It is taken for UTC, as QGIS has it
/// in PostgreSQL; in a GeoPackage it is the writer's local time.
#[must_use]
pub fn written(text: &str) -> Option<SystemTime> {
    let (date, time) = text.trim_end_matches('Z').split_once(['T', ' '])?;
    let mut date = date.splitn(3, '-').map(str::parse::<u64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<u64>().ok()?, time.next()?.parse::<u64>().ok()?);
    let second = time
        .next()?
        .parse::<f64>()
        .ok()
        .filter(|second| (0.0..61.0).contains(second))?;
    if !(1970..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
    {
        return None;
    }
    // Days of the Gregorian calendar, with years that begin in March.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    let whole = Duration::from_secs(days * 86_400 + hour * 3600 + minute * 60);
    UNIX_EPOCH.checked_add(whole + Duration::from_secs_f64(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_spelled_as_qgis_reads_them() {
        assert_eq!(value("town/roads").unwrap(), "town/roads");
        assert_eq!(
            value("ways & means #1 (a+b, c?) d=e;[f]:g@h!*'$~").unwrap(),
            "ways%20%26%20means%20%231%20(a+b,%20c?)%20d=e;[f]:g@h!*'$~"
        );
        assert_eq!(value("Zürich").unwrap(), "Z%C3%BCrich");
        assert!(value("100%").unwrap_err().contains("rename it"));
        assert_eq!(decoded("Z%C3%BCrich%20+%26"), "Zürich +&");
    }

    #[test]
    fn a_suffix_asks_for_just_that_row() {
        assert_eq!(rows("roads", None), ["roads", "roads.qgs", "roads.qgz"]);
        assert_eq!(rows("roads", Some(Suffix::Qgz)), ["roads.qgz"]);
    }

    #[test]
    fn listings_give_back_what_requests_ask_for() {
        let found = |relative: &str, suffix| Some((relative.to_owned(), suffix));
        assert_eq!(listed(None, "town/roads"), found("town/roads", None));
        assert_eq!(listed(None, "roads.qgz"), found("roads", Some(Suffix::Qgz)));
        assert_eq!(listed(Some("maps/{path}-v2"), "maps/a/b-v2"), found("a/b", None));
        assert_eq!(
            listed(Some("maps/{path}-v2"), "maps/a-v2.qgs"),
            found("a", Some(Suffix::Qgs))
        );
        for other in [
            "maps/a",
            "a-v2",
            "maps/-v2",
            "maps/../a-v2",
            "maps//a-v2",
            "maps/a/-v2/.x-v2",
            "maps/a.qgs-v2",
        ] {
            assert_eq!(listed(Some("maps/{path}-v2"), other), None, "{other}");
        }
    }

    #[test]
    fn a_template_has_the_path_once() {
        assert!(check_template("project", "{town}-{path}").is_ok());
        for wrong in ["", "fixed", "{town}", "{path}/{path}"] {
            assert!(
                check_template("project", wrong).unwrap_err().contains("project={path}"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_version_holds_nothing_odd() {
        let long = "x".repeat(99);
        let version = version(&["2026-11-22 12:20:47.1", "1234", "ü\r\n", &long]);
        assert_eq!(version, format!("2026-11-22_12:20:47.1-1234-___-{}", &long[..40]));
    }

    #[test]
    fn times_are_read_and_nonsense_is_none() {
        let seconds = |text| written(text).map(|time| time.duration_since(UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(seconds("1970-01-01 00:00:00"), Some(0));
        assert_eq!(seconds("2000-02-29T12:00:01"), Some(951_825_601));
        assert_eq!(seconds("2026-11-22 12:20:47.123456"), Some(1_795_350_047));
        assert_eq!(seconds("2100-03-01T00:00:00Z"), Some(4_107_542_400));
        for wrong in [
            "",
            "now",
            "2026-11-22",
            "2026-13-01 00:00:00",
            "1969-01-01 00:00:00",
            "2026-01-01 00:00:NaN",
            "a-b-c d:e:f",
        ] {
            assert_eq!(written(wrong), None, "{wrong}");
        }
    }
}
