//! Password files as libpq reads them: `host:port:database:user:password` on each line, `*` for any, `\` before a `:` or a
//! `\` that is meant.

/// The password for a connection: that of the first line which fits.
#[must_use]
pub fn password(text: &str, host: &str, port: u16, dbname: &str, user: &str) -> Option<String> {
    let wanted = [host, &port.to_string(), dbname, user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let (wished, password) = fields.split_at_checked(4)?;
        let fits = wished
            .iter()
            .zip(wanted)
            .all(|(wish, wanted)| wish.as_str() == "*" || unescaped(wish) == wanted);
        let password = password.first().filter(|password| !password.is_empty())?;
        fits.then(|| unescaped(password))
    })
}

/// A line for a password file; what is not known fits any.
#[must_use]
pub fn line(fields: [Option<&str>; 4], password: &str) -> String {
    let fields = fields.map(|field| field.map_or_else(|| "*".to_owned(), escaped));
    format!("{}:{}\n", fields.join(":"), escaped(password))
}

/// At most five, still escaped; libpq takes the rest of the line after the fourth colon up to the next one.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut escaping = false;
    for c in line.chars() {
        if c == ':' && !escaping {
            if fields.len() == 5 {
                break;
            }
            fields.push(String::new());
        } else if let Some(last) = fields.last_mut() {
            last.push(c);
        }
        escaping = c == '\\' && !escaping;
    }
    fields
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        plain.push(if c == '\\' { rest.next().unwrap_or(c) } else { c });
    }
    plain
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace(':', r"\:")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment:1:2:3:4\n\ndb.example:5432:gis:ann:one\ndb.example:*:*:ann:two\n*:*:gis:bob:a\\:b\\\\c\nshort:line\n*:*:*:*:last\n";

    #[test]
    fn the_first_line_that_fits_wins() {
        let found = |host, port, dbname, user| password(FILE, host, port, dbname, user);
        assert_eq!(found("db.example", 5432, "gis", "ann").as_deref(), Some("one"));
        assert_eq!(found("db.example", 5433, "gis", "ann").as_deref(), Some("two"));
        assert_eq!(found("other", 1, "gis", "bob").as_deref(), Some(r"a:b\c"));
        assert_eq!(found("other", 1, "x", "bob").as_deref(), Some("last"));
        assert_eq!(password("h:1:d:u:", "h", 1, "d", "u"), None);
        assert_eq!(password("h:1:d:u", "h", 1, "d", "u"), None);
    }

    #[test]
    fn a_line_is_read_back() {
        let written = line([Some("::1"), Some("5432"), None, Some(r"a\b")], r"p:w\");
        assert_eq!(written, "\\:\\:1:5432:*:a\\\\b:p\\:w\\\\\n");
        assert_eq!(password(&written, "::1", 5432, "any", r"a\b").as_deref(), Some(r"p:w\"));
        assert_eq!(password(&written, "::1", 5433, "any", r"a\b"), None);
    }
}
