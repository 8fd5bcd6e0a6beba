//! What a certificate says of itself: whose it is, and until when.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_cert::Certificate;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The common name of a subject (RFC 5280).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The alternative names of a subject (RFC 5280).
const ALTERNATIVE_NAMES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its names: the subject's common name, then the alternative ones (DNS names, URIs, mail addresses), each once.
    pub names: Vec<String>,
    /// When it begins to be valid.
    pub from: SystemTime,
    /// The end of its validity.
    pub until: SystemTime,
}

impl Facts {
    /// Reads them from a certificate in DER.
    ///
    /// # Errors
    /// When it is no certificate.
    pub fn of(der: &[u8]) -> Result<Self, String> {
        let certificate = Certificate::from_der(der).map_err(|error| format!("it is no X.509 certificate: {error}"))?;
        let tbs = certificate.tbs_certificate;
        let mut names: Vec<String> = Vec::new();
        let mut add = |name: String| {
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        };
        for attribute in tbs.subject.0.iter().flat_map(|relative| relative.0.iter()) {
            if attribute.oid != COMMON_NAME {
                continue;
            }
            let value = attribute.value.to_der().unwrap_or_default();
            let text = Utf8StringRef::from_der(&value).map(|text| text.as_str().to_owned());
            let text = text.or_else(|_| PrintableStringRef::from_der(&value).map(|text| text.as_str().to_owned()));
            add(text.unwrap_or_default());
        }
        for extension in tbs
            .extensions
            .iter()
            .flatten()
            .filter(|e| e.extn_id == ALTERNATIVE_NAMES)
        {
            let alternative = SubjectAltName::from_der(extension.extn_value.as_bytes());
            for name in alternative.into_iter().flat_map(|names| names.0) {
                match name {
                    GeneralName::DnsName(name)
                    | GeneralName::UniformResourceIdentifier(name)
                    | GeneralName::Rfc822Name(name) => add(name.as_str().to_owned()),
                    _ => {}
                }
            }
        }
        Ok(Self {
            names,
            from: at(tbs.validity.not_before.to_unix_duration()),
            until: at(tbs.validity.not_after.to_unix_duration()),
        })
    }

    /// Why it is of no use at this time, if so.
    #[must_use]
    pub fn out_of_time(&self, now: SystemTime) -> Option<String> {
        let days = |duration: Duration| duration.as_secs() / 86_400;
        if let Ok(since) = now.duration_since(self.until) {
            return Some(format!("it expired {} days ago", days(since)));
        }
        let ahead = self.from.duration_since(now).ok()?;
        (!ahead.is_zero()).then(|| format!("it is not valid for another {} days", days(ahead)))
    }

    /// The end of its validity, in seconds since 1970.
    #[must_use]
    pub fn until_unix(&self) -> i64 {
        let since = self.until.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }
}

fn at(since: Duration) -> SystemTime {
    UNIX_EPOCH + since
}
