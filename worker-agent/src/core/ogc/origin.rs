//! The scheme, host, port and path prefix that the client used, read from the request's own headers.
//!
//! Who may set the forwarded headers is Envoy's decision (`trusted_hops`); what arrives here is believed, but only when
//! it can stand in a URL. RFC 7239's `Forwarded` comes before `X-Forwarded-*`, as in QGIS, and of several values the
//! first counts, which is the one nearest to the client.

use std::net::Ipv6Addr;

use http::HeaderMap;

use super::exception::Refusal;

/// What stands before the path in every link of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host in small letters, with the port unless it is the scheme's own.
    pub authority: String,
    /// A path prefix that a proxy took off, such as `/gis`; empty for none, no slash at its end.
    pub prefix: String,
}

/// A host or forwarded fact that cannot stand in a URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Neither an authority nor a header with a host.
    #[error("the request has no Host header")]
    NoHost,
    /// Not a host name, an IPv4 address, or an IPv6 address in brackets, with or without a port.
    #[error("{header} does not hold a host and port: '{value}'")]
    Host {
        /// Where it was found.
        header: &'static str,
        /// What was found, shortened, without control characters.
        value: String,
    },
    /// Neither http nor https.
    #[error("{header} does not hold http or https: '{value}'")]
    Scheme {
        /// Where it was found.
        header: &'static str,
        /// What was found, shortened, without control characters.
        value: String,
    },
    /// Not a number from 1 to 65535.
    #[error("X-Forwarded-Port does not hold a port: '{value}'")]
    Port {
        /// What was found, shortened, without control characters.
        value: String,
    },
    /// Not a plain absolute path.
    #[error("X-Forwarded-Prefix does not hold a plain path: '{value}'")]
    Prefix {
        /// What was found, shortened, without control characters.
        value: String,
    },
}

impl From<OriginError> for Refusal {
    fn from(error: OriginError) -> Self {
        Self::BadOrigin(error.to_string())
    }
}

impl Origin {
    /// Reads the headers. `authority` is that of the request's URI (HTTP/2 has it there, and it goes before `Host`);
    /// `scheme` is that of the connection, used when no header names another.
    ///
    /// # Errors
    /// Names the header and what it holds.
    pub fn from_headers(headers: &HeaderMap, authority: Option<&str>, scheme: &str) -> Result<Self, OriginError> {
        let forwarded = headers
            .get("forwarded")
            .and_then(|value| value.to_str().ok())
            .map(first_element);
        let forwarded = forwarded.unwrap_or_default();
        let scheme = match (forwarded.proto, first(headers, "x-forwarded-proto")?) {
            (Some(proto), _) => read_scheme("Forwarded", &proto)?,
            (None, Some(proto)) => read_scheme("X-Forwarded-Proto", &proto)?,
            (None, None) => read_scheme("the connection", scheme)?,
        };
        let own_port = first(headers, "x-forwarded-port")?;
        let (host, port) = match (forwarded.host, first(headers, "x-forwarded-host")?) {
            (Some(host), _) => read_host("Forwarded", &host)?,
            (None, Some(host)) => read_host("X-Forwarded-Host", &host)?,
            (None, None) => match (authority, first(headers, "host")?) {
                (Some(host), _) => read_host("the authority", host)?,
                (None, Some(host)) => read_host("Host", &host)?,
                (None, None) => return Err(OriginError::NoHost),
            },
        };
        let port = match (port, own_port) {
            (Some(port), _) => Some(port),
            (None, Some(port)) => Some(read_port(&port).ok_or_else(|| OriginError::Port { value: shown(&port) })?),
            (None, None) => None,
        };
        let default = if scheme == "https" { 443 } else { 80 };
        let authority = match port.filter(|port| *port != default) {
            Some(port) => format!("{host}:{port}"),
            None => host,
        };
        let prefix =
            first(headers, "x-forwarded-prefix")?.map_or_else(|| Ok(String::new()), |path| read_prefix(&path))?;
        Ok(Self {
            scheme,
            authority,
            prefix,
        })
    }

    /// Scheme, host, port and prefix, such as `https://maps.example.org/gis`, no slash at its end.
    #[must_use]
    pub fn base(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}

/// The first of a header's values that are separated by commas; none when there is nothing in it.
fn first(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, OriginError> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let bad = || OriginError::Host {
        header: name,
        value: shown(&String::from_utf8_lossy(value.as_bytes())),
    };
    let value = value.to_str().map_err(|_| bad())?;
    let value = value.split(',').next().unwrap_or_default().trim();
    Ok((!value.is_empty()).then(|| value.to_owned()))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Element {
    host: Option<String>,
    proto: Option<String>,
}

/// Host and proto of the first element of a `Forwarded` header.
fn first_element(value: &str) -> Element {
    let mut element = Element::default();
    let mut rest = value;
    loop {
        let (name, after) = match rest.find(['=', ';', ',']) {
            Some(at) if rest.as_bytes()[at] == b'=' => (rest[..at].trim().to_ascii_lowercase(), &rest[at + 1..]),
            Some(at) if rest.as_bytes()[at] == b';' => {
                rest = &rest[at + 1..];
                continue;
            }
            _ => return element,
        };
        let (value, after) = read_value(after);
        match name.as_str() {
            "host" if !value.is_empty() => element.host = Some(value),
            "proto" if !value.is_empty() => element.proto = Some(value),
            _ => {}
        }
        match after.trim_start().strip_prefix(';') {
            Some(more) => rest = more,
            None => return element,
        }
    }
}

/// A token or a quoted string, and what follows it.
fn read_value(text: &str) -> (String, &str) {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        return (text[..end].trim().to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

fn read_scheme(header: &'static str, value: &str) -> Result<&'static str, OriginError> {
    match value.trim().to_ascii_lowercase().as_str() {
        "http" => Ok("http"),
        "https" => Ok("https"),
        _ => Err(OriginError::Scheme {
            header,
            value: shown(value),
        }),
    }
}

fn read_port(value: &str) -> Option<u16> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().ok().filter(|port| *port != 0)).flatten()
}

fn read_host(header: &'static str, value: &str) -> Result<(String, Option<u16>), OriginError> {
    let bad = || OriginError::Host {
        header,
        value: shown(value),
    };
    let (host, port) = if let Some(rest) = value.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(bad)?;
        let address: Ipv6Addr = address.parse().map_err(|_| bad())?;
        let port = if port.is_empty() {
            None
        } else {
            Some(port.strip_prefix(':').ok_or_else(bad)?)
        };
        (format!("[{address}]"), port)
    } else {
        let (name, port) = value
            .split_once(':')
            .map_or((value, None), |(name, port)| (name, Some(port)));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) || name.contains("..") {
            return Err(bad());
        }
        (name.to_ascii_lowercase(), port)
    };
    let port = port
        .filter(|port| !port.is_empty())
        .map(|port| read_port(port).ok_or_else(bad))
        .transpose()?;
    Ok((host, port))
}

fn read_prefix(value: &str) -> Result<String, OriginError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b'%');
    let mut prefix = String::new();
    for segment in value.split('/').filter(|segment| !segment.is_empty()) {
        if segment == "." || segment == ".." || segment.contains('%') && !escapes_are_harmless(segment) {
            return Err(OriginError::Prefix { value: shown(value) });
        }
        prefix.push('/');
        prefix.push_str(segment);
    }
    if !value.starts_with('/') || value.len() > 1024 || !value.bytes().all(plain) {
        return Err(OriginError::Prefix { value: shown(value) });
    }
    Ok(prefix)
}

/// Whether a segment's escapes stand for text, not for what would cut the path.
fn escapes_are_harmless(segment: &str) -> bool {
    percent_encoding::percent_decode_str(segment)
        .decode_utf8()
        .is_ok_and(|text| {
            text != "." && text != ".." && !text.contains(['/', '\\', '%']) && !text.chars().any(char::is_control)
        })
}

/// A value as an error may show it.
fn shown(value: &str) -> String {
    value.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
#[path = "origin_tests.rs"]
mod tests;
