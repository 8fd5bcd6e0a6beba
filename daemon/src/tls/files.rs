//! What stands in PEM files: a certificate with its key, and authorities. An error names the key of the configuration, the file,
//! and what to change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};

use super::certificate::Facts;
use super::provider;

/// The largest file that is read, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// What is wrong with TLS as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    key: String,
    file: Option<PathBuf>,
    problem: String,
}

impl TlsError {
    /// Of what a file has.
    pub fn new(key: String, file: &Path, problem: impl Into<String>) -> Self {
        let (file, problem) = (Some(file.to_owned()), problem.into());
        Self { key, file, problem }
    }

    /// Of a key that names no file.
    pub fn of(key: String, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self {
            key,
            file: None,
            problem,
        }
    }

    /// The key of the configuration.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The same without the key: what stands there, and what is wrong with it.
    #[must_use]
    pub fn problem(&self) -> String {
        match &self.file {
            Some(file) => format!("{}: {}", file.display(), self.problem),
            None => self.problem.clone(),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.key, self.problem())
    }
}

impl std::error::Error for TlsError {}

/// A certificate with its key, which belong together.
#[derive(Clone)]
pub struct Identity {
    /// The certificate and those of the authorities between, as the file has them.
    pub chain_pem: Arc<[u8]>,
    /// The private key, as the file has it.
    pub key_pem: Arc<[u8]>,
    /// The same for rustls.
    pub certified: Arc<CertifiedKey>,
    /// What the certificate says.
    pub facts: Facts,
}

/// Nothing of the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads both files. `key` is where `cert_file` and `key_file` stand in the configuration.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn read(key: &str, cert_file: &Path, key_file: &Path) -> Result<Self, TlsError> {
        let of_cert = |problem: String| TlsError::new(format!("{key}.cert_file"), cert_file, problem);
        let of_key = |problem: String| TlsError::new(format!("{key}.key_file"), key_file, problem);
        let chain_pem = contents(cert_file).map_err(of_cert)?;
        let key_pem = contents(key_file).map_err(of_key)?;
        let chain = certificates(&chain_pem).map_err(of_cert)?;
        let facts = chain
            .first()
            .map_or_else(|| Err("it holds no certificate".to_owned()), |first| Facts::of(first));
        let facts = facts.map_err(of_cert)?;
        let secret = private_key(&key_pem).map_err(of_key)?;
        let certified = CertifiedKey::from_der(chain, secret, &provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => of_key(format!(
                "it does not belong to the certificate in {} (`{key}.cert_file`): name the two that were made together, the \
                 server's own certificate first in its file",
                cert_file.display()
            )),
            // The error of a key names no part of it.
            error => of_key(format!("it cannot be used: {error}; an RSA (2048 bits or more), ECDSA (P-256, P-384) or Ed25519 key can")),
        })?;
        Ok(Self {
            chain_pem: chain_pem.into(),
            key_pem: key_pem.into(),
            certified: Arc::new(certified),
            facts,
        })
    }

    /// A certificate that this process signs itself, with a new key: for development.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub fn self_signed(key: &str, names: &[String]) -> Result<Self, TlsError> {
        let wrong = |problem: String| TlsError::of(key.to_owned(), format!("no certificate can be made: {problem}"));
        let pair = rcgen::KeyPair::generate().map_err(|error| wrong(error.to_string()))?;
        let mut params = rcgen::CertificateParams::new(names).map_err(|error| wrong(error.to_string()))?;
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "Graticule, self-signed");
        let certificate = params.self_signed(&pair).map_err(|error| wrong(error.to_string()))?;
        let (chain_pem, key_pem) = (certificate.pem().into_bytes(), pair.serialize_pem().into_bytes());
        let chain = certificates(&chain_pem).map_err(wrong)?;
        let facts = Facts::of(certificate.der()).map_err(wrong)?;
        let secret = private_key(&key_pem).map_err(wrong)?;
        let certified = CertifiedKey::from_der(chain, secret, &provider()).map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            chain_pem: chain_pem.into(),
            key_pem: key_pem.into(),
            certified: Arc::new(certified),
            facts,
        })
    }

    /// What should be said of its time, if anything.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.facts.out_of_time(SystemTime::now())
    }
}

/// Authorities that vouch for certificates.
#[derive(Clone, Debug)]
pub struct Authority {
    /// As the file has them.
    pub pem: Arc<[u8]>,
    /// The same for rustls.
    pub roots: Arc<RootCertStore>,
}

impl Authority {
    /// Reads the file. `key` is where it stands in the configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(key: &str, file: &Path) -> Result<Self, TlsError> {
        let wrong = |problem: String| TlsError::new(key.to_owned(), file, problem);
        let pem = contents(file).map_err(wrong)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&pem).map_err(wrong)? {
            let added = roots.add(certificate);
            added.map_err(|error| wrong(format!("a certificate in it cannot be an authority's: {error}")))?;
        }
        Ok(Self {
            pem: pem.into(),
            roots: Arc::new(roots),
        })
    }
}

/// The whole file.
pub(super) fn contents(file: &Path) -> Result<Vec<u8>, String> {
    let length = std::fs::metadata(file)
        .map_err(|error| format!("it cannot be read: {error}"))?
        .len();
    if length > LARGEST {
        return Err(format!("it has {length} bytes, more than any PEM file of certificates"));
    }
    std::fs::read(file).map_err(|error| format!("it cannot be read: {error}"))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)".to_owned()),
        Err(error) => Err(format!("it is not sound PEM: {error}")),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        let encrypted = String::from_utf8_lossy(pem).contains("ENCRYPTED");
        if encrypted {
            "the key in it is encrypted with a password: write it without, readable by this service's user only"
                .to_owned()
        } else {
            "it holds no private key in PEM (-----BEGIN PRIVATE KEY-----)".to_owned()
        }
    })
}
