//! Which of the agent's environment variables its workers get.
//!
//! An environment holds secrets of all kinds, and a worker runs code of projects and plugins. So it gets what QGIS and
//! the libraries below it are known to read, and what an operator adds, and nothing else.

/// Variables of the daemons' own configuration, never passed on: the first part of their names.
const OWN: &str = "CONF_";

/// Passed on by their whole names.
const NAMES: &[&str] = &[
    "ALL_PROXY",
    "CURL_CA_BUNDLE",
    "GLIBC_TUNABLES",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "LANGUAGE",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOGNAME",
    "NO_PROXY",
    "PATH",
    "REQUESTS_CA_BUNDLE",
    "TZ",
    "TZDIR",
    "USER",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Passed on by how their names begin.
const BEGINNINGS: &[&str] = &[
    "CPL_",
    "FONTCONFIG_",
    "GDAL_",
    "LC_",
    "MALLOC_",
    "OGR_",
    "OMP_",
    "OPENBLAS_",
    "PG",
    "PROJ_",
    "PYTHON",
    "QGIS_",
    "QT_",
    "SSL_CERT_",
    "VSI_",
    "XDG_",
];

/// The rule, with what an operator added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    added: Vec<String>,
}

impl Environment {
    /// The rule with variables added to it; a name that ends with `*` means all that begin so.
    ///
    /// # Errors
    /// What is wrong with a name, and what to write instead.
    pub fn new(added: &[String]) -> Result<Self, String> {
        for name in added {
            let beginning = name.strip_suffix('*').unwrap_or(name);
            if beginning.is_empty() {
                return Err(format!(
                    "`{name}` means every variable: name those that workers need, such as `AWS_*`"
                ));
            }
            if beginning.contains(['*', '=', '\0']) {
                return Err(format!(
                    "`{name}` is no name of a variable: expected such as `AWS_REGION`, or `AWS_*` for all that begin so"
                ));
            }
            if beginning.starts_with(OWN) {
                return Err(format!(
                    "`{name}` configures the daemons and may hold secrets: such variables are never passed on"
                ));
            }
        }
        Ok(Self { added: added.to_vec() })
    }

    /// Whether workers get the variable `name`.
    #[must_use]
    pub fn passes(&self, name: &str) -> bool {
        let added = || {
            self.added.iter().any(|added| match added.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == added,
            })
        };
        !name.starts_with(OWN)
            && (NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)) || added())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(added: &[&str]) -> Result<Environment, String> {
        Environment::new(&added.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_qgis_and_its_libraries_read_passes() {
        let environment = Environment::default();
        for name in [
            "PATH",
            "HOME",
            "LANG",
            "LC_ALL",
            "TZ",
            "QGIS_SERVER_LOG_LEVEL",
            "GDAL_HTTP_PROXY",
            "OGR_SQLITE_CACHE",
            "CPL_DEBUG",
            "VSI_CACHE",
            "PROJ_LIB",
            "PGSERVICEFILE",
            "PGPASSWORD",
            "QT_HASH_SEED",
            "XDG_CACHE_HOME",
            "LD_LIBRARY_PATH",
            "LD_PRELOAD",
            "PYTHONPATH",
            "FONTCONFIG_PATH",
            "OMP_NUM_THREADS",
            "MALLOC_CONF",
            "http_proxy",
            "HTTPS_PROXY",
            "no_proxy",
            "SSL_CERT_FILE",
            "CURL_CA_BUNDLE",
            "REQUESTS_CA_BUNDLE",
        ] {
            assert!(environment.passes(name), "{name}");
        }
    }

    #[test]
    fn nothing_else_does() {
        let environment = Environment::default();
        for name in [
            "SOME_PASSWORD",
            "AWS_SECRET_ACCESS_KEY",
            "CONF_WORKER__NAME",
            "GRATICULE_AGENT",
            "SSH_AUTH_SOCK",
            "DBUS_SESSION_BUS_ADDRESS",
            "DATABASE_URL",
            "path",
            "PATHS",
            "MY_QGIS_TOKEN",
            "LCX",
            "",
        ] {
            assert!(!environment.passes(name), "{name}");
        }
    }

    #[test]
    fn operators_add_names_and_beginnings() {
        let environment = with(&["AWS_*", "ORACLE_HOME", "CON*"]).unwrap();
        for name in ["AWS_REGION", "AWS_", "ORACLE_HOME", "CONTEXT"] {
            assert!(environment.passes(name), "{name}");
        }
        for name in ["AWS", "ORACLE_HOME_2", "xAWS_REGION"] {
            assert!(!environment.passes(name), "{name}");
        }
        assert!(
            !environment.passes("CONF_SECRET"),
            "also when an added beginning would have it"
        );
    }

    #[test]
    fn what_cannot_be_meant_is_said() {
        assert!(with(&["*"]).unwrap_err().contains("every variable"));
        assert!(with(&[""]).unwrap_err().contains("every variable"));
        assert!(with(&["A*B"]).unwrap_err().contains("no name"));
        assert!(with(&["A=b"]).unwrap_err().contains("no name"));
        assert!(with(&["CONF_X"]).unwrap_err().contains("never passed on"));
    }
}
