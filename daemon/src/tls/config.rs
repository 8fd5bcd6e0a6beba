//! What is configured of TLS: of a port that is served, and of a connection that is made. Nothing is read here.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TlsError;

/// TLS of a port that is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsServer {
    /// Whether the port speaks TLS; left out: when `cert_file` is set.
    #[schemars(extend("examples" = [false]))]
    pub enabled: Option<bool>,
    /// The PEM file of the certificate, followed by those of the authorities between it and the root.
    pub cert_file: PathBuf,
    /// The PEM file of the certificate's private key.
    pub key_file: PathBuf,
    /// The PEM file of authorities. When it is set, only clients with a certificate that one of them has signed can connect.
    pub client_ca_file: PathBuf,
}

impl TlsServer {
    /// Whether the port speaks TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.enabled.unwrap_or(is_set(&self.cert_file))
    }

    /// Whether nobody can connect without a certificate.
    #[must_use]
    pub fn asks_clients(&self) -> bool {
        self.is_on() && is_set(&self.client_ca_file)
    }

    /// Checks what can be checked without the files. `key` is where it stands in the configuration.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self, key: &str) -> Result<(), TlsError> {
        if !self.is_on() {
            // Who has named a file and not said `enabled = false` believes that the port is secured.
            let named = [("key_file", &self.key_file), ("client_ca_file", &self.client_ca_file)];
            return match named.into_iter().find(|(_, file)| is_set(file)) {
                Some((name, file)) if self.enabled.is_none() => {
                    let problem = format!("it counts only with `{key}.cert_file`: set that, or enabled = false");
                    Err(TlsError::new(format!("{key}.{name}"), file, problem))
                }
                _ => Ok(()),
            };
        }
        for (name, file) in [("cert_file", &self.cert_file), ("key_file", &self.key_file)] {
            if !is_set(file) {
                return Err(TlsError::of(
                    format!("{key}.{name}"),
                    "it is not set: name the PEM file, or set enabled = false",
                ));
            }
        }
        Ok(())
    }

    /// In a few words for people.
    #[must_use]
    pub fn says(&self) -> &'static str {
        match (self.is_on(), self.asks_clients()) {
            (false, _) => "plaintext",
            (true, false) => "TLS, clients need no certificate",
            (true, true) => "TLS, clients need a certificate",
        }
    }
}

/// TLS of a connection that is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsClient {
    /// The PEM file of the authorities that may have signed the server's certificate; empty: the system's.
    pub ca_file: PathBuf,
    /// The PEM file of the certificate to show, followed by those of the authorities between; empty: none.
    pub cert_file: PathBuf,
    /// The PEM file of the private key of `cert_file`.
    pub key_file: PathBuf,
    /// The name that the server's certificate has, when that is not the one by which it is called.
    pub server_name: String,
}

impl TlsClient {
    /// Whether anything of it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }

    /// Whether a certificate is shown.
    #[must_use]
    pub fn shows_certificate(&self) -> bool {
        is_set(&self.cert_file)
    }

    /// Checks what can be checked without the files. `key` is where it stands in the configuration.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self, key: &str) -> Result<(), TlsError> {
        let pairs = [
            ("cert_file", &self.cert_file, "key_file", &self.key_file),
            ("key_file", &self.key_file, "cert_file", &self.cert_file),
        ];
        for (name, file, other, counterpart) in pairs {
            if is_set(file) && !is_set(counterpart) {
                let problem = format!("`{key}.{other}` must be set with it: name the PEM file");
                return Err(TlsError::new(format!("{key}.{name}"), file, problem));
            }
        }
        Ok(())
    }
}

/// Whether a file is named.
pub(super) fn is_set(file: &Path) -> bool {
    !file.as_os_str().is_empty()
}
