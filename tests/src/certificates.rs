//! Certificates for tests: authorities of their own, and what these sign.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

/// An authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, in PEM.
pub struct Issued {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// One of this name, with a key of its own.
    pub fn new(name: &str) -> Self {
        let mut params = named(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate whose common name is the first of these; all of them are its alternative names.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.sign(&named(names[0], names))
    }

    /// The same, but it has expired.
    pub fn issue_expired(&self, names: &[&str]) -> Issued {
        let mut params = named(names[0], names);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap().pem();
        Issued {
            cert,
            key: key.serialize_pem(),
        }
    }

    /// Writes its own certificate there.
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, self.pem()).unwrap();
        path
    }
}

impl Issued {
    /// Writes both there, as `NAME.crt` and `NAME.key`: each whole at once, as tools that renew certificates do.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let put = |ending: &str, text: &str| {
            let (path, fresh) = (
                dir.join(format!("{name}.{ending}")),
                dir.join(format!("{name}.{ending}.new")),
            );
            std::fs::write(&fresh, text).unwrap();
            std::fs::rename(&fresh, &path).unwrap();
            path
        };
        (put("crt", &self.cert), put("key", &self.key))
    }
}

fn named(common: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, common);
    params
}
