//! Search paths into PostgreSQL, and the URIs by which QGIS opens projects there.
//!
//! `postgresql://[user[:password]@][host][:port]/?[service=…&][sslmode=…&][dbname=…&][schema=…&][project=…]`. The same
//! form is QGIS's own, but for the password, which no URI that leaves this module holds.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::settings::Ssl;
use crate::core::stored;

/// Where projects are when a search path names no schema.
const SCHEMA: &str = "public";

/// What a user's name keeps as it is.
const USER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A database as a search path names it. What is none is left to services and the environment, as libpq has it.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Server {
    /// The host; without brackets.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// Who connects.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The connection service.
    pub service: Option<String>,
    /// What is asked of TLS.
    pub sslmode: Option<Ssl>,
    /// The database.
    pub dbname: Option<String>,
}

/// A search path into PostgreSQL, or a place below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The database.
    pub server: Server,
    /// The schema that has the table.
    pub schema: String,
    /// What the project is called there; the name below the location when none.
    pub project: Option<String>,
}

impl Source {
    /// Reads the URL of a search path.
    ///
    /// # Errors
    /// What is wrong with it and what to change; without its password.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = ["postgresql://", "postgres://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme));
        let rest = rest.ok_or("is no such URL; write postgresql://user@host/?dbname=gis&schema=maps")?;
        let (front, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = front.split_once('/').unwrap_or((front, ""));
        if !path.is_empty() {
            return Err(format!("has the path `/{path}`; write the database as ?dbname={path}"));
        }
        let (mut server, schema, project) = (authority_of(authority)?, None, None);
        let (mut schema, mut project): (Option<String>, Option<String>) = (schema, project);
        for (name, value) in stored::pairs(query) {
            if value.is_empty() {
                return Err(format!("has an empty `{name}`; give it a value, or leave it out"));
            }
            let fixed = || {
                if value.contains('{') {
                    return Err(format!(
                        "has a dynamic segment in its `{name}`; a client may not choose that"
                    ));
                }
                Ok(value.clone())
            };
            match name.as_str() {
                "dbname" => server.dbname = Some(value),
                "schema" => schema = Some(value),
                "project" => project = Some(value),
                "service" => server.service = Some(fixed()?),
                "sslmode" => server.sslmode = Some(fixed()?.parse()?),
                "password" => return Err("has its password in the query; write it as user:password@host".into()),
                "sslrootcert" | "sslcert" | "sslkey" => {
                    let variable = name.to_ascii_uppercase();
                    return Err(format!(
                        "has `{name}`, which QGIS does not take from a URL; set PG{variable}, or use a service"
                    ));
                }
                "authcfg" => {
                    return Err("has `authcfg`, which only QGIS can read; use a service or a password file".into());
                }
                _ => {
                    return Err(format!(
                        "has the unknown parameter `{name}`; known are dbname, schema, project, service and sslmode"
                    ));
                }
            }
        }
        if server.service.is_some() && (server.host.is_some() || server.port.is_some()) {
            return Err("names a service and a host, and QGIS takes only the service; remove one of them".into());
        }
        let schema = schema.unwrap_or_else(|| SCHEMA.to_owned());
        Ok(Self {
            server,
            schema,
            project,
        })
    }

    /// The URI by which QGIS opens the project in row `row`. It has no password.
    ///
    /// # Errors
    /// When QGIS cannot open it in any spelling, and what to change.
    pub fn uri(&self, row: &str) -> Result<String, String> {
        let server = &self.server;
        let mut uri = "postgresql://".to_owned();
        if let Some(user) = &server.user {
            uri.extend(utf8_percent_encode(user, USER));
            uri.push('@');
        }
        match server.host.as_deref() {
            Some(host) if host.contains(':') => uri += &format!("[{host}]"),
            host => uri += host.unwrap_or_default(),
        }
        if let Some(port) = server.port {
            uri += &format!(":{port}");
        }
        uri.push_str("/?");
        let sslmode = server.sslmode.map(|mode| mode.name().to_owned());
        let before = [
            ("service", &server.service),
            ("sslmode", &sslmode),
            ("dbname", &server.dbname),
        ];
        for (name, text) in before {
            if let Some(text) = text {
                uri += &format!("{name}={}&", stored::value(text)?);
            }
        }
        uri += &format!(
            "schema={}&project={}",
            stored::value(&self.schema)?,
            stored::value(row)?
        );
        Ok(uri)
    }
}

fn authority_of(authority: &str) -> Result<Server, String> {
    let (credentials, address) = match authority.rsplit_once('@') {
        Some((credentials, address)) => (Some(credentials), address),
        None => (None, authority),
    };
    let some = |text: &str| Some(stored::decoded(text)).filter(|text| !text.is_empty());
    let (user, password) = match credentials.map(|text| text.split_once(':').unwrap_or((text, ""))) {
        Some((user, password)) => (some(user), some(password)),
        None => (None, None),
    };
    if password.is_some() && user.is_none() {
        return Err("has a password and no user; write user:password@host".into());
    }
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (some(host), rest.strip_prefix(':').unwrap_or(rest)),
        None => {
            let (host, port) = address.split_once(':').unwrap_or((address, ""));
            (some(host), port)
        }
    };
    let port = match port {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_| "has no number from 1 to 65535 after its host's colon")?,
        ),
    };
    Ok(Server {
        host,
        port,
        user,
        password,
        ..Server::default()
    })
}

/// For people: where it is, and nothing of who connects.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.service, &self.host) {
            (Some(service), _) => write!(f, "service {service}")?,
            (None, host) => f.write_str(host.as_deref().unwrap_or("the default host"))?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))?;
        self.dbname
            .as_ref()
            .map_or(Ok(()), |dbname| write!(f, ", database {dbname}"))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.password.as_ref().map(|_| "***");
        f.debug_struct("Server")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("password", &hidden)
            .field("service", &self.service)
            .field("sslmode", &self.sslmode)
            .field("dbname", &self.dbname)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(url: &str, row: &str) -> String {
        Source::parse(url).unwrap().uri(row).unwrap()
    }

    #[test]
    fn a_search_path_becomes_the_uri_of_qgis_without_its_password() {
        assert_eq!(
            uri(
                "postgresql://ann:s3cret@db.example:5433/?sslmode=disable&dbname=gis&schema=maps",
                "town/a b&c"
            ),
            "postgresql://ann@db.example:5433/?sslmode=disable&dbname=gis&schema=maps&project=town/a%20b%26c"
        );
        assert_eq!(
            uri("postgres://?service=maps&schema=Z%C3%BCrich", "x"),
            "postgresql:///?service=maps&schema=Z%C3%BCrich&project=x"
        );
        assert_eq!(
            uri("postgresql://a%40b:x%3Ay@[::1]/?dbname=gis", "x"),
            "postgresql://a%40b@[::1]/?dbname=gis&schema=public&project=x"
        );
        let source = Source::parse("postgresql://ann:s3c%3Aret@h/?schema={town}&project={town}-{path}").unwrap();
        assert_eq!(
            (source.schema.as_str(), source.project.as_deref()),
            ("{town}", Some("{town}-{path}"))
        );
        assert_eq!(source.server.password.as_deref(), Some("s3c:ret"));
        assert!(!format!("{source:?}").contains("s3c"), "{source:?}");
        let shown = |url: &str| Source::parse(url).unwrap().server.to_string();
        assert_eq!(shown("postgresql://a:b@db:1/?dbname=gis"), "db:1, database gis");
        assert_eq!(shown("postgresql://?service=maps"), "service maps");
        assert_eq!(shown("postgresql://"), "the default host");
    }

    #[test]
    fn names_that_qgis_cannot_read_are_said_to_be() {
        let source = Source::parse("postgresql://h/?dbname=gis").unwrap();
        assert!(source.uri("100%").unwrap_err().contains("100%"));
    }

    #[test]
    fn mistakes_are_named_without_the_password() {
        for (url, says) in [
            ("postgresql:x", "is no such URL"),
            ("postgresql://u:s3cret@h/gis", "?dbname=gis"),
            ("postgresql://u:s3cret@h:port/", "65535"),
            ("postgresql://u:s3cret@h:70000/", "65535"),
            ("postgresql://:s3cret@h/", "no user"),
            ("postgresql://h/?password=s3cret", "user:password@host"),
            ("postgresql://h/?sslmode=maybe", "verify-full"),
            ("postgresql://h/?sslmode={x}", "may not choose"),
            ("postgresql://h/?service={x}", "may not choose"),
            ("postgresql://h/?service=maps", "a service and a host"),
            ("postgresql://h/?schema=", "empty `schema`"),
            ("postgresql://h/?sslrootcert=/x", "PGSSLROOTCERT"),
            ("postgresql://h/?authcfg=abc", "only QGIS"),
            ("postgresql://h/?db=x", "unknown parameter `db`"),
        ] {
            let error = Source::parse(url).expect_err(url);
            assert!(error.contains(says) && !error.contains("s3cret"), "{url}: {error}");
        }
    }
}
