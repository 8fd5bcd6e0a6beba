//! A request as a line for logs and operators, without the secrets that clients put into it.
//!
//! A secret is the value of whatever has a name that looks like one (`token`, `password`, `X-Amz-Signature` …), in a query,
//! a form, JSON, XML or a data source's `password='…'`, and what stands before the `@` of a URL. It errs on the side of
//! hiding: what it cannot know is a secret that has no name.

use std::borrow::Cow;
use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What stands in a secret's place.
pub const HIDDEN: &str = "***";

/// How much of a body is read, in bytes.
const EXCERPT: usize = 16 * 1024;

/// What a value keeps as it is when it has to be encoded anew.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'*')
    .remove(b'/')
    .remove(b':')
    .remove(b',');

/// Parts of names that are secrets, without `-`, `_` and `.` and in small letters.
const PARTS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "token",
    "secret",
    "signature",
    "credential",
    "session",
    "jwt",
    "authorization",
    "cookie",
    "ticket",
];

/// Ends of such names.
const ENDS: &[&str] = &["key", "auth", "sig"];

/// Whether the value of what has this name is a secret.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    matches!(plain.as_str(), "pass" | "pw")
        || PARTS.iter().any(|part| plain.contains(part))
        || ENDS.iter().any(|end| plain.ends_with(end))
}

/// A request on one line: method, path, query and the beginning of its body.
#[must_use]
pub fn request(method: &str, path: &str, query: Option<&str>, body: &[u8]) -> String {
    let mut line = format!("{method} {}", text(path));
    if let Some(query) = query {
        // Writing to a String cannot fail.
        let _ = write!(line, "?{}", parameters(query));
    }
    if !body.is_empty() {
        let excerpt = &body[..body.len().min(EXCERPT)];
        let read = String::from_utf8_lossy(excerpt);
        let is_form = read.contains('=') && !read.trim_start().starts_with(['<', '{', '[']);
        let hidden = if is_form { parameters(&read) } else { text(&read) };
        let _ = write!(line, " body: {hidden}");
        if excerpt.len() < body.len() {
            line.push('…');
        }
    }
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A query or a form body. What holds no secret stays as it was spelled.
fn parameters(pairs: &str) -> String {
    let mut hidden = Vec::new();
    for pair in pairs.split('&') {
        let Some((name, value)) = pair.split_once('=') else {
            hidden.push(Cow::Borrowed(pair));
            continue;
        };
        if is_secret(&decoded(name)) {
            hidden.push(format!("{name}={HIDDEN}").into());
            continue;
        }
        let plain = decoded(value);
        let without = text(&plain);
        hidden.push(if without == plain {
            Cow::Borrowed(pair)
        } else {
            format!("{name}={}", utf8_percent_encode(&without, VALUE)).into()
        });
    }
    hidden.join("&")
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " "))
        .decode_utf8_lossy()
        .into_owned()
}

/// Any other text: JSON, XML, a data source, a URL.
#[must_use]
pub fn text(text: &str) -> String {
    let mut hidden = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphanumeric()) {
        let (before, from_word) = rest.split_at(at);
        hidden.push_str(before);
        let end = from_word.find(|c| !is_word(c)).unwrap_or(from_word.len());
        let (word, after) = from_word.split_at(end);
        hidden.push_str(word);
        rest = after;
        if let Some(after) = after.strip_prefix("://") {
            let authority = after
                .find(['/', '?', '#', ' ', '"', '\'', '<', '>'])
                .unwrap_or(after.len());
            // What was cut before its `@` is no port.
            let port = after.split_once(':').map(|(_, port)| port);
            let cut = authority == after.len() && port.is_some_and(|port| port.parse::<u16>().is_err());
            if let Some(user) = after[..authority].rfind('@').or(cut.then_some(authority)) {
                hidden.push_str("://");
                hidden.push_str(HIDDEN);
                rest = &after[user..];
            }
        } else if is_secret(word) {
            let is_element = before.ends_with('<') || before.ends_with(':') && after.contains('>');
            if let Some((kept, value)) = value_of(after, is_element) {
                hidden.push_str(&after[..kept]);
                hidden.push_str(HIDDEN);
                rest = &after[kept + value..];
            }
        }
    }
    hidden.push_str(rest);
    hidden
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Where the value after a name begins and how long it is.
fn value_of(after: &str, is_element: bool) -> Option<(usize, usize)> {
    if is_element && let Some(begins) = after.find('>').map(|at| at + 1) {
        let opens = !after[..begins].ends_with("/>");
        let length = after[begins..].find('<').unwrap_or(after.len() - begins);
        if opens && !after[..begins].contains('<') {
            return (length > 0).then_some((begins, length));
        }
    }
    // The closing quote of a name, blanks, one separator, blanks.
    let skip = |at: usize, what: &[char]| at + after[at..].len() - after[at..].trim_start_matches(what).len();
    let separator = skip(0, &['"', '\'', '\\', ' ', '\t', '\r', '\n']);
    after[separator..].starts_with(['=', ':']).then_some(())?;
    let mut begins = skip(separator + 1, &[' ', '\t', '\r', '\n', '\\']);
    let quote = after[begins..].chars().next().filter(|c| matches!(c, '"' | '\''));
    if let Some(quote) = quote {
        begins += 1;
        return Some((begins, quoted(&after[begins..], quote)));
    }
    // `Bearer abc`: the word before the secret is hidden with it.
    let ends = |c: char| c.is_whitespace() || matches!(c, '&' | ';' | ',' | '<' | '>' | '"' | '\'' | ')' | '}');
    let value = &after[begins..];
    let mut length = value.find(ends).unwrap_or(value.len());
    if ["bearer", "basic", "digest", "token"]
        .iter()
        .any(|scheme| value[..length].eq_ignore_ascii_case(scheme))
    {
        let secret = &value[length..];
        let blanks = secret.len() - secret.trim_start().len();
        length += blanks + secret[blanks..].find(ends).unwrap_or(secret.len() - blanks);
    }
    (length > 0).then_some((begins, length))
}

/// How long a text is until the quote that ends it; a backslash takes the next character along.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if c == quote && !escaped {
            return at;
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_secret() {
        for name in [
            "token",
            "ACCESS_TOKEN",
            "Password",
            "pass_word",
            "passwd",
            "pwd",
            "apikey",
            "api-key",
            "X-API-Key",
            "KEY",
            "client_secret",
            "X-Amz-Signature",
            "sig",
            "Authorization",
            "auth",
            "JSESSIONID",
            "jwt",
            "X-Amz-Credential",
            "Set-Cookie",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "MAP", "LAYERS", "REQUEST", "FILTER", "authcfg", "BBOX", "WIDTH", "dbname", "user",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn parameters_keep_their_spelling_and_lose_their_secrets() {
        let get = |query| request("GET", "/ows/world", Some(query), b"");
        assert_eq!(
            get("SERVICE=WMS&LAYERS=a%20b&Token=s3cret&x&tok%65n=s3cret&apikey="),
            "GET /ows/world?SERVICE=WMS&LAYERS=a%20b&Token=***&x&tok%65n=***&apikey=***"
        );
        assert_eq!(
            get("url=https%3A%2F%2Fme%3As3cret%40host%2Fx%3Ftoken%3Ds3cret&W=1"),
            "GET /ows/world?url=https://***%40host/x%3Ftoken%3D***&W=1"
        );
        assert_eq!(
            get("dsn=dbname%3D'x'+user%3D'u'+password%3D's3c\\'ret'+port%3D1"),
            "GET /ows/world?dsn=dbname%3D%27x%27%20user%3D%27u%27%20password%3D%27***%27%20port%3D1"
        );
    }

    #[test]
    fn other_texts_lose_their_secrets() {
        for (given, expected) in [
            ("https://me:s3cret@host:80/a@b", "https://***@host:80/a@b"),
            ("ftp://s3cret@host", "ftp://***@host"),
            ("https://host/a@b", "https://host/a@b"),
            ("password=s3cret dbname=x", "password=*** dbname=x"),
            ("PASSWORD = 's3 cret' x", "PASSWORD = '***' x"),
            ("password='s3cret", "password='***"),
            (r#"{"token": "s3\"cret", "a": 1}"#, r#"{"token": "***", "a": 1}"#),
            (r#"{"pwd":12345,"a":"token"}"#, r#"{"pwd":***,"a":"token"}"#),
            ("Authorization: Bearer s3cret, x", "Authorization: ***, x"),
            ("<a><Password>s3cret</Password></a>", "<a><Password>***</Password></a>"),
            (
                "<x:token type=\"a\">s3cret</x:token>",
                "<x:token type=\"a\">***</x:token>",
            ),
            ("<a apikey=\"s3cret\" b='c'/>", "<a apikey=\"***\" b='c'/>"),
            (
                "<PropertyName>session</PropertyName>",
                "<PropertyName>session</PropertyName>",
            ),
            ("the key of the token", "the key of the token"),
            ("grün=1&ключ=2", "grün=1&ключ=2"),
            ("token:", "token:"),
            ("token=", "token="),
            ("<token/>", "<token/>"),
        ] {
            assert_eq!(text(given), expected);
        }
    }

    #[test]
    fn a_request_is_one_line_and_its_body_bounded() {
        let line = request("POST", "/ows/world", None, b"<a>\n<b/>\r\n</a>\x00");
        assert_eq!(line, "POST /ows/world body: <a> <b/>  </a> ");
        let form = request("POST", "/", Some("MAP=/w"), b"REQUEST=GetMap&password=s3cret&a=b");
        assert_eq!(form, "POST /?MAP=/w body: REQUEST=GetMap&password=***&a=b");
        let long = request("POST", "/", None, &vec![b'x'; 10 << 20]);
        assert!(long.len() < EXCERPT + 100 && long.ends_with('…'), "{}", long.len());
    }

    /// Texts made of pieces that look like secrets, cut anywhere: it ends, and the secret is gone.
    #[test]
    fn no_secret_stays_wherever_the_text_is_cut() {
        let whole = "<a token='s3cret'>x</a>{\"pwd\": \"s3cret\"} https://u:s3cret@h/?key=s3cret&é password='s3cret'";
        for end in (0..=whole.len()).filter(|end| whole.is_char_boundary(*end)) {
            let hidden = text(&whole[..end]);
            assert!(!hidden.contains("s3cret"), "{hidden}");
            let line = request("POST", &whole[..end], Some(&whole[end..]), &whole.as_bytes()[end..]);
            assert!(line.starts_with("POST "), "{line}");
        }
    }
}
