//! What a connection uses after all layers: what the search path says, over the service file, over the environment, over
//! libpq's defaults.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::passfile;

use super::uri::Server;

/// What is asked of TLS, as libpq names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ssl {
    /// None.
    Disable,
    /// Not by preference; taken for [`Ssl::Prefer`], which is no worse.
    Allow,
    /// When the server has it; whoever that is.
    Prefer,
    /// Whoever the server is, unless there is a root certificate.
    Require,
    /// From a server with a certificate that a root certificate vouches for.
    VerifyCa,
    /// The same, and with the host's name in it.
    VerifyFull,
}

impl Ssl {
    const ALL: [Self; 6] = [
        Self::Disable,
        Self::Allow,
        Self::Prefer,
        Self::Require,
        Self::VerifyCa,
        Self::VerifyFull,
    ];

    /// As libpq and QGIS write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl FromStr for Ssl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("has the unknown sslmode `{text}`; expected one of {names}")
        })
    }
}

/// The variables that libpq reads.
pub type Variables = BTreeMap<String, String>;

/// A parameter and the variable that stands in for it.
const VARIABLES: [(&str, &str); 13] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("options", "PGOPTIONS"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("service", "PGSERVICE"),
];

/// Where a server may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A name, an address, or the directory of a Unix socket, which begins with a slash.
    pub name: String,
    /// An address that is used in the name's stead.
    pub address: Option<String>,
    /// The port.
    pub port: u16,
}

impl Host {
    /// Whether `name` is the directory of a Unix socket.
    #[must_use]
    pub fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// A connection's parameters after all layers. Its password is asked for host by host ([`Settings::password`]).
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Tried in this order.
    pub hosts: Vec<Host>,
    /// Who connects.
    pub user: String,
    /// The database.
    pub dbname: String,
    /// What is asked of TLS.
    pub sslmode: Ssl,
    /// The file of root certificates; `system` means those of the system.
    pub sslrootcert: Option<PathBuf>,
    /// The client's own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Options for the server's command line.
    pub options: Option<String>,
    /// The password file that libpq would look into.
    pub passfile: Option<PathBuf>,
    password: Option<String>,
    default_socket: String,
}

/// Where service files are looked for, in this order, and the service that is asked of them.
#[must_use]
pub fn service_files(server: &Server, variables: &Variables) -> Option<(String, Vec<PathBuf>)> {
    let service = server.service.as_ref().or_else(|| variables.get("PGSERVICE"))?;
    let own = match variables.get("PGSERVICEFILE") {
        Some(file) => Some(PathBuf::from(file)),
        None => variables
            .get("HOME")
            .map(|home| Path::new(home).join(".pg_service.conf")),
    };
    let shared = variables
        .get("PGSYSCONFDIR")
        .map_or("/etc/postgresql-common", String::as_str);
    let files = own.into_iter().chain([Path::new(shared).join("pg_service.conf")]);
    Some((service.clone(), files.collect()))
}

/// A service's parameters from the first of the files that has it; `files` are their texts.
///
/// # Errors
/// When none has it; what to do.
pub fn service_parameters(name: &str, files: &[(PathBuf, String)]) -> Result<Variables, String> {
    for (path, text) in files {
        let found =
            super::service::parameters(text, name).map_err(|problem| format!("{}: {problem}", path.display()))?;
        if let Some(found) = found {
            return Ok(found);
        }
    }
    Err(format!(
        "there is no connection service `{name}`: write a section [{name}] into the file that PGSERVICEFILE names, or into ~/.pg_service.conf"
    ))
}

impl Settings {
    /// Lays everything over everything. `service` is what [`service_parameters`] found, `socket` the directory of the default Unix
    /// socket, `login` the name of the user that this process is.
    ///
    /// # Errors
    /// A parameter that cannot be used, and what to change.
    pub fn resolve(
        server: &Server,
        service: &Variables,
        variables: &Variables,
        socket: &str,
        login: &str,
    ) -> Result<Self, String> {
        let port = server.port.map(|port| port.to_string());
        let written = |name: &str| match name {
            "host" => server.host.clone(),
            "port" => port.clone(),
            "dbname" => server.dbname.clone(),
            "user" => server.user.clone(),
            "password" => server.password.clone(),
            "sslmode" => server.sslmode.map(|mode| mode.name().to_owned()),
            _ => None,
        };
        let value = |name: &str| {
            let variable = VARIABLES
                .iter()
                .find(|(parameter, _)| *parameter == name)
                .map(|(_, variable)| *variable);
            written(name)
                .or_else(|| service.get(name).cloned())
                .or_else(|| variables.get(variable?).cloned())
                .filter(|value| !value.is_empty())
        };
        let home = |file: &str| variables.get("HOME").map(|home| Path::new(home).join(file));
        let user = value("user").unwrap_or_else(|| login.to_owned());
        let sslmode = match value("sslmode") {
            Some(mode) => mode.parse().map_err(|problem| format!("the connection {problem}"))?,
            None => Ssl::Prefer,
        };
        let identity = value("sslcert")
            .map(PathBuf::from)
            .zip(value("sslkey").map(PathBuf::from));
        Ok(Self {
            hosts: hosts(value("host"), value("hostaddr"), value("port"), socket)?,
            dbname: value("dbname").unwrap_or_else(|| user.clone()),
            user,
            sslmode,
            sslrootcert: value("sslrootcert")
                .map(PathBuf::from)
                .or_else(|| home(".postgresql/root.crt")),
            identity,
            options: value("options"),
            passfile: value("passfile").map(PathBuf::from).or_else(|| home(".pgpass")),
            password: value("password"),
            default_socket: socket.to_owned(),
        })
    }

    /// The password for a host; `file` is the text of the password file.
    #[must_use]
    pub fn password(&self, host: &Host, file: &str) -> Option<String> {
        // As libpq: the socket of the default directory is `localhost` there.
        let name = if host.name == self.default_socket {
            "localhost"
        } else {
            &host.name
        };
        let found = || passfile::password(file, name, host.port, &self.dbname, &self.user);
        self.password.clone().or_else(found)
    }
}

fn hosts(
    names: Option<String>,
    addresses: Option<String>,
    ports: Option<String>,
    socket: &str,
) -> Result<Vec<Host>, String> {
    let split = |list: Option<String>| -> Vec<String> {
        list.map_or_else(Vec::new, |list| {
            list.split(',').map(|part| part.trim().to_owned()).collect()
        })
    };
    let (names, addresses, ports) = (split(names), split(addresses), split(ports));
    let count = names.len().max(addresses.len()).max(1);
    let at = |list: &[String], index: usize| list.get(index).filter(|part| !part.is_empty()).cloned();
    let host = |index: usize| {
        let text = at(&ports, if ports.len() == 1 { 0 } else { index }).unwrap_or_else(|| "5432".into());
        let port = text
            .parse()
            .map_err(|_| format!("the connection's port `{text}` is no number from 1 to 65535"))?;
        let address = at(&addresses, index);
        let name = at(&names, index)
            .or_else(|| address.clone())
            .unwrap_or_else(|| socket.to_owned());
        Ok(Host { name, address, port })
    };
    (0..count).map(host).collect()
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("hosts", &self.hosts)
            .field("user", &self.user)
            .field("dbname", &self.dbname)
            .field("sslmode", &self.sslmode)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::postgresql::uri::Source;

    const SOCKET: &str = "/var/run/postgresql";

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn resolved(url: &str, service: &[(&str, &str)], environment: &[(&str, &str)]) -> Settings {
        let source = Source::parse(url).unwrap();
        Settings::resolve(
            &source.server,
            &variables(service),
            &variables(environment),
            SOCKET,
            "login",
        )
        .unwrap()
    }

    #[test]
    fn the_search_path_goes_over_the_service_and_that_over_the_environment() {
        let environment = [
            ("PGHOST", "env.example"),
            ("PGUSER", "env"),
            ("PGPORT", "1"),
            ("PGSSLMODE", "require"),
            ("HOME", "/home/ann"),
        ];
        let plain = resolved("postgresql://ann@db.example/?dbname=gis", &[], &environment);
        assert_eq!(
            (
                plain.hosts[0].to_string().as_str(),
                plain.user.as_str(),
                plain.dbname.as_str()
            ),
            ("db.example:1", "ann", "gis")
        );
        assert_eq!(plain.sslmode, Ssl::Require);
        assert_eq!(plain.passfile, Some("/home/ann/.pgpass".into()));
        assert_eq!(plain.sslrootcert, Some("/home/ann/.postgresql/root.crt".into()));
        let of_service = resolved(
            "postgresql://?service=x",
            &[("host", "a,b"), ("port", "5,6"), ("dbname", "s")],
            &environment,
        );
        let hosts: Vec<_> = of_service.hosts.iter().map(Host::to_string).collect();
        assert_eq!(
            (hosts, of_service.dbname.as_str(), of_service.user.as_str()),
            (vec!["a:5".into(), "b:6".into()], "s", "env")
        );
        let bare = resolved("postgresql://", &[], &[]);
        assert_eq!((bare.hosts[0].name.as_str(), bare.hosts[0].port), (SOCKET, 5432));
        assert!(bare.hosts[0].is_socket());
        assert_eq!(
            (bare.user.as_str(), bare.dbname.as_str(), bare.sslmode),
            ("login", "login", Ssl::Prefer)
        );
        assert_eq!((bare.passfile, bare.sslrootcert), (None, None));
    }

    #[test]
    fn a_password_comes_from_where_libpq_takes_it() {
        let file = "localhost:5432:*:login:of the socket\ndb.example:5432:gis:ann:of the file\n";
        let password = |settings: &Settings| settings.password(&settings.hosts[0], file);
        let environment = [("PGPASSWORD", "of the environment")];
        assert_eq!(
            password(&resolved(
                "postgresql://ann:own@db.example/?dbname=gis",
                &[],
                &environment
            ))
            .as_deref(),
            Some("own")
        );
        assert_eq!(
            password(&resolved("postgresql://ann@db.example/?dbname=gis", &[], &environment)).as_deref(),
            Some("of the environment")
        );
        assert_eq!(
            password(&resolved("postgresql://ann@db.example/?dbname=gis", &[], &[])).as_deref(),
            Some("of the file")
        );
        assert_eq!(
            password(&resolved("postgresql://", &[], &[])).as_deref(),
            Some("of the socket")
        );
        assert_eq!(
            password(&resolved("postgresql://bob@db.example/?dbname=gis", &[], &[])),
            None
        );
        assert!(!format!("{:?}", resolved("postgresql://a:s3cret@h/", &[], &[])).contains("s3cret"));
    }

    #[test]
    fn service_files_are_looked_for_as_libpq_does() {
        let server = Source::parse("postgresql://?service=maps").unwrap().server;
        let files = |environment: &[(&str, &str)]| {
            let (name, files) = service_files(&server, &variables(environment)).unwrap();
            assert_eq!(name, "maps");
            files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            files(&[("HOME", "/h")]),
            ["/h/.pg_service.conf", "/etc/postgresql-common/pg_service.conf"]
        );
        assert_eq!(
            files(&[("PGSERVICEFILE", "/s"), ("HOME", "/h"), ("PGSYSCONFDIR", "/c")]),
            ["/s", "/c/pg_service.conf"]
        );
        let texts = [
            ("/a".into(), "[x]\nhost=h".into()),
            ("/b".into(), "[maps]\nhost=db".to_owned()),
        ];
        assert_eq!(service_parameters("maps", &texts).unwrap()["host"], "db");
        assert!(
            service_parameters("none", &texts)
                .unwrap_err()
                .contains("PGSERVICEFILE")
        );
        assert!(service_files(&Server::default(), &variables(&[])).is_none());
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let server = Server::default();
        let said = |environment: &[(&str, &str)]| {
            Settings::resolve(&server, &variables(&[]), &variables(environment), SOCKET, "x").unwrap_err()
        };
        assert!(said(&[("PGPORT", "many")]).contains("`many`"));
        assert!(said(&[("PGSSLMODE", "some")]).contains("verify-full"));
    }
}
