//! What users add in Envoy's own words: their listeners and clusters become resources beside ours, their HTTP filters stand
//! in the front's chain. Everything in them is looked at before it is published; what only Envoy can know, such as whether
//! a script compiles, Envoy says.

mod message;

use std::collections::BTreeSet;

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use graticule_daemon::config::redacted;
use prost::Message as _;
use serde_json::Value;

use super::{Kind, Resource, cluster_name, encoded, refers};
use crate::config::{Config, Fragment};
use crate::core::resources::Reference;
use message::Encoded;

const LISTENER: &str = "envoy.config.listener.v3.Listener";
const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const HTTP_FILTER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter";

/// The filter that ends every chain.
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// What in a fragment Envoy would not understand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {problem}")]
pub struct Faulty {
    /// Where it is, from `fragments.` on.
    pub key: String,
    /// What is wrong, and what to change.
    pub problem: String,
}

/// Looks at every fragment.
///
/// # Errors
/// The first thing that Envoy would not understand.
pub fn check(config: &Config) -> Result<(), Faulty> {
    resources(config)?;
    http_filters(config)?;
    Ok(())
}

/// The HTTP filters of the fragments, and what whoever carries them mentions with them.
#[derive(Debug, Default)]
pub(super) struct Filters {
    /// In the order of the fragments' names.
    pub filters: Vec<HttpFilter>,
    /// What they want to be told over the same stream, and the clusters that they name.
    pub refs: Vec<Reference>,
    /// Whether secrets stand in them.
    pub confidential: bool,
}

/// The listeners and clusters of the fragments.
pub(super) fn resources(config: &Config) -> Result<Vec<(Kind, Resource)>, Faulty> {
    let (clusters, mut found) = (Clusters::of(config), Vec::new());
    for (name, fragment) in &config.fragments {
        for (kind, message, key, items) in [
            (Kind::Listener, LISTENER, "listeners", &fragment.listeners),
            (Kind::Cluster, CLUSTER, "clusters", &fragment.clusters),
        ] {
            for (index, item) in items.iter().enumerate() {
                let key = format!("fragments.{name}.{key}[{index}]");
                let resource = named(item, &key)?;
                let Encoded { body, mut refs } = message::encode(message, item, &key)?;
                if kind == Kind::Listener {
                    apart(config, item, &key)?;
                    refs.extend(clusters.named_in(item));
                }
                let mut resource = encoded(resource, body, refs);
                resource.confidential = has_secrets(item);
                found.push((kind, resource));
            }
        }
    }
    Ok(found)
}

/// The HTTP filters of the fragments.
///
/// # Errors
/// The first thing that Envoy would not understand.
pub(super) fn http_filters(config: &Config) -> Result<Filters, Faulty> {
    let items = |(name, fragment): (&String, &Fragment)| -> Vec<(String, Value)> {
        let keyed = fragment.http_filters.iter().enumerate();
        keyed
            .map(|(index, item)| (format!("fragments.{name}.http_filters[{index}]"), item.clone()))
            .collect()
    };
    let (clusters, mut found) = (Clusters::of(config), Filters::default());
    for (key, item) in config.fragments.iter().flat_map(items) {
        let fault = |problem: String| Faulty {
            key: key.clone(),
            problem,
        };
        let name = named(&item, &key)?;
        if item.to_string().contains(ROUTER) {
            return Err(fault(
                "the router is there already, as the last filter: remove it".to_owned(),
            ));
        }
        if found.filters.iter().any(|filter| filter.name == name) {
            return Err(fault(format!(
                "there is another filter named `{name}`, name it otherwise"
            )));
        }
        let Encoded { body, refs } = message::encode(HTTP_FILTER, &item, &key)?;
        found.refs.extend(refs);
        found.refs.extend(clusters.named_in(&item));
        found.confidential |= has_secrets(&item);
        let filter = HttpFilter::decode(body.as_slice()).map_err(|error| fault(error.to_string()))?;
        found.filters.push(filter);
    }
    Ok(found)
}

/// Whether something stands in it that is hidden where the configuration is shown.
fn has_secrets(item: &Value) -> bool {
    redacted(item) != *item
}

/// The clusters that a fragment may name. Envoy's messages do so in many places, scripts in their text, so every text is looked
/// at: too many only means that Envoy has a cluster a little longer, or a listener a little later.
struct Clusters<'a> {
    own: BTreeSet<&'a str>,
    pools: BTreeSet<String>,
}

impl<'a> Clusters<'a> {
    fn of(config: &'a Config) -> Self {
        let own = config.fragments.values().flat_map(|fragment| &fragment.clusters);
        let own = own.filter_map(|cluster| cluster["name"].as_str());
        Self {
            own: own.filter(|name| !name.is_empty()).collect(),
            pools: config.effective_pools().keys().map(|pool| cluster_name(pool)).collect(),
        }
    }

    fn named_in(&self, item: &Value) -> BTreeSet<Reference> {
        let mut found = BTreeSet::new();
        self.look(item, &mut found);
        found
    }

    fn look(&self, value: &Value, found: &mut BTreeSet<Reference>) {
        match value {
            Value::String(text) => {
                let own = self.own.iter().filter(|name| text.contains(**name)).copied();
                let pool = self.pools.get(text).map(String::as_str);
                found.extend(own.chain(pool).map(|name| refers(Kind::Cluster, name.to_owned())));
            }
            Value::Array(items) => items.iter().for_each(|item| self.look(item, found)),
            Value::Object(fields) => fields.values().for_each(|value| self.look(value, found)),
            _ => {}
        }
    }
}

fn named(item: &Value, key: &str) -> Result<String, Faulty> {
    match item["name"].as_str() {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(Faulty {
            key: key.to_owned(),
            problem: "`name` is missing: give it one that nothing else has".to_owned(),
        }),
    }
}

/// A listener on a port of ours would be refused by Envoy, or take its requests.
fn apart(config: &Config, listener: &Value, key: &str) -> Result<(), Faulty> {
    let either = |value: &Value, snake: &str, camel: &str| {
        let found = if value[snake].is_null() {
            &value[camel]
        } else {
            &value[snake]
        };
        found.clone()
    };
    let socket = either(&listener["address"], "socket_address", "socketAddress");
    let port = either(&socket, "port_value", "portValue");
    let is_udp = socket["protocol"] == "UDP";
    let (tls, rest) = (&config.front.tls, &config.rest);
    let ours = [
        (true, "front.listen", config.front.listen, false),
        (tls.is_on(), "front.tls.listen", tls.listen, false),
        (tls.is_on() && tls.http3, "front.tls.listen", tls.listen, true),
        (rest.enabled, "rest.listen", rest.listen, false),
    ];
    for (is_open, ours, address, over_udp) in ours {
        if is_open && is_udp == over_udp && port.as_u64() == Some(u64::from(address.port())) {
            return Err(Faulty {
                key: format!("{key}.address.socket_address.port_value"),
                problem: format!("{port} is the port of `{ours}`: take another one"),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
