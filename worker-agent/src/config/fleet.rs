//! `[fleet]`: the control planes, and how this agent is reached.

use std::borrow::Cow;
use std::path::PathBuf;

use graticule_daemon::tls::TlsClient;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Deserializer;
use serde::{Deserialize, Serialize, Serializer};
use tonic::transport::{Endpoint, Uri};

use super::texts::{text_or_list, texts};
use super::{Config, ConfigError, Secret, wrong};

/// The key of the control planes' addresses.
pub const CONTROL_PLANE: &str = "fleet.control_plane";

/// The most control planes that an agent attaches to.
pub const MOST_CONTROL_PLANES: usize = 8;

/// `[fleet]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fleet {
    /// The control plane's fleet port, such as `http://control-plane:18001`, or `https://…`; empty: the agent stands alone.
    /// A list names several, at most 8: the agent attaches to all of them at once. A name stands for one control plane.
    pub control_plane: Addresses,
    /// The pool: agents that share configuration and a route.
    pub pool: String,
    /// IP address and port where Envoy reaches the HTTP data port, such as `10.0.0.7:23457`; empty: found out from
    /// `server.http_listen` and the way to the control plane.
    pub advertise_http: String,
    /// The same for the gRPC port and `server.grpc_listen`.
    pub advertise_grpc: String,
    /// How control planes are known and what is shown to them, for `https://…`.
    pub tls: TlsClient,
    /// The token to show to control planes, one of their `fleet.access.peer_token`.
    pub token: Secret,
    /// A file with that token; it is read for each connection.
    pub token_file: PathBuf,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            control_plane: Addresses::default(),
            pool: "default".into(),
            advertise_http: String::new(),
            advertise_grpc: String::new(),
            tls: TlsClient::default(),
            token: Secret::default(),
            token_file: PathBuf::new(),
        }
    }
}

/// Addresses: none, written as an empty text; one, written as a text; or several, written as a list, or as a text with commas
/// between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses(Vec<String>);

const ADDRESSES: &str = "an address such as http://control-plane:18001, or a list of them";

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        texts(from, ADDRESSES, ',').map(Self)
    }
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [] => to.serialize_str(""),
            [one] => to.serialize_str(one),
            several => several.serialize(to),
        }
    }
}

impl From<&str> for Addresses {
    fn from(one: &str) -> Self {
        Self(Some(one.to_owned()).into_iter().filter(|one| !one.is_empty()).collect())
    }
}

impl std::ops::Deref for Addresses {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl JsonSchema for Addresses {
    fn schema_name() -> Cow<'static, str> {
        "Addresses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        text_or_list(ADDRESSES)
    }
}

impl Config {
    /// Where the control planes are, in the order in which they count.
    ///
    /// # Errors
    /// An address that cannot be used, one that is named twice, or too many.
    pub fn control_planes(&self) -> Result<Vec<Endpoint>, ConfigError> {
        let all = &self.fleet.control_plane;
        if all.len() > MOST_CONTROL_PLANES {
            return Err(wrong(
                CONTROL_PLANE,
                format!("expected at most {MOST_CONTROL_PLANES} addresses"),
            ));
        }
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for address in &**all {
            let example = "expected such as http://127.0.0.1:18001";
            let unusable = || wrong(CONTROL_PLANE, format!("`{address}`: {example}"));
            let uri: Uri = address.parse().map_err(|_| unusable())?;
            // What stands before an `@` could be a secret, and addresses are shown.
            let plain = uri
                .authority()
                .is_some_and(|authority| !authority.as_str().contains('@'));
            if !plain || !matches!(uri.scheme_str(), Some("http" | "https")) {
                return Err(unusable());
            }
            let same = |endpoint: &Endpoint| endpoint.uri().authority() == uri.authority();
            if endpoints.iter().any(same) {
                return Err(wrong(CONTROL_PLANE, format!("`{address}` is named twice: remove one")));
            }
            endpoints.push(Endpoint::from(uri));
        }
        Ok(endpoints)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(value: &serde_json::Value) -> Addresses {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn one_address_is_a_text_and_several_are_a_list() {
        for (value, addresses) in [
            (json!(""), &[][..]),
            (json!("http://a"), &["http://a"]),
            (json!(["http://a", "http://b"]), &["http://a", "http://b"]),
        ] {
            let read = written(&value);
            assert_eq!(&*read, addresses);
            assert_eq!(serde_json::to_value(&read).unwrap(), value);
        }
        assert_eq!(written(&json!([])), Addresses::default());
        // As a variable has them.
        let both = written(&json!(["http://a", "http://b"]));
        for text in [r#"["http://a", "http://b"]"#, "http://a, http://b"] {
            let variable = [("CONF_FLEET__CONTROL_PLANE".to_owned(), text.to_owned())];
            let config: Config = graticule_daemon::config::load(None, variable).unwrap();
            assert_eq!(config.fleet.control_plane, both, "{text}");
        }
        assert_eq!(written(&json!(["http://a"])), Addresses::from("http://a"));
    }

    #[test]
    fn an_address_that_cannot_be_used_is_named_with_what_to_change() {
        let endpoints = |value: serde_json::Value| {
            let mut config = Config::default();
            config.fleet.control_plane = written(&value);
            config.control_planes().map_err(|error| error.to_string())
        };
        assert_eq!(endpoints(json!("")).unwrap().len(), 0);
        let both = endpoints(json!(["http://a:18001", "https://b:18001"])).unwrap();
        assert_eq!(both[1].uri().host(), Some("b"));
        for wrong in [
            "a:18001",
            "127.0.0.1:18001",
            "ftp://a",
            "http://",
            "http://u:p@a:1",
            "a b",
        ] {
            let said = endpoints(json!(wrong)).unwrap_err();
            assert!(said.contains("`fleet.control_plane`: "), "{said}");
            assert!(said.contains("expected such as http://127.0.0.1:18001"), "{said}");
        }
        let twice = endpoints(json!(["http://a:1", "http://b:1", "http://a:1"])).unwrap_err();
        assert!(twice.contains("`http://a:1` is named twice"), "{twice}");
        let many: Vec<String> = (0..9).map(|n| format!("http://a:{}", n + 1)).collect();
        assert!(endpoints(json!(many)).unwrap_err().contains("at most 8"));
    }
}
