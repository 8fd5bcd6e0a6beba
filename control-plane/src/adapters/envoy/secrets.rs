//! SDS: certificates, keys and authorities as Envoy takes them.

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SubjectAltNameMatcher, TlsCertificate, secret,
    subject_alt_name_matcher::SanType,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use crate::adapters::secrets::Material;

/// The secret of that name.
pub fn secret(name: &str, material: &Material) -> Secret {
    let kind = match material {
        Material::Certificate { chain, key, .. } => Some(secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: bytes(chain),
            private_key: bytes(key),
            ..Default::default()
        })),
        Material::Authority { pem, name } => Some(secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: bytes(pem),
            match_typed_subject_alt_names: if name.is_empty() { Vec::new() } else { named(name) },
            ..Default::default()
        })),
        Material::Unread => None,
    };
    Secret {
        name: name.to_owned(),
        r#type: kind,
    }
}

/// A certificate that is for this name, be it of a host or an address.
fn named(name: &str) -> Vec<SubjectAltNameMatcher> {
    let matcher = |kind: SanType| SubjectAltNameMatcher {
        san_type: kind as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(name.to_owned())),
            ..Default::default()
        }),
        ..Default::default()
    };
    let kind = if name.parse::<std::net::IpAddr>().is_ok() {
        SanType::IpAddress
    } else {
        SanType::Dns
    };
    vec![matcher(kind)]
}

fn bytes(pem: &[u8]) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(data_source::Specifier::InlineBytes(pem.to_vec())),
        ..Default::default()
    })
}
