//! What users add in Envoy's own words: their listeners and clusters become resources beside ours, their HTTP filters stand
//! in the front's chain. Everything in them is looked at before it is published; what only Envoy can know, such as whether
//! a script compiles, Envoy says.

mod message;

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use prost::Message as _;
use serde_json::Value;

use super::{Kind, Resource, encoded};
use crate::config::{Config, Fragment};
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

/// The listeners and clusters of the fragments.
pub(super) fn resources(config: &Config) -> Result<Vec<(Kind, Resource)>, Faulty> {
    let mut found = Vec::new();
    for (name, fragment) in &config.fragments {
        for (kind, message, key, items) in [
            (Kind::Listener, LISTENER, "listeners", &fragment.listeners),
            (Kind::Cluster, CLUSTER, "clusters", &fragment.clusters),
        ] {
            for (index, item) in items.iter().enumerate() {
                let key = format!("fragments.{name}.{key}[{index}]");
                let resource = named(item, &key)?;
                let Encoded { body, refs } = message::encode(message, item, &key)?;
                if kind == Kind::Listener {
                    apart(config, item, &key)?;
                }
                found.push((kind, encoded(resource, body, refs)));
            }
        }
    }
    Ok(found)
}

/// The HTTP filters of the fragments, in the order of the fragments' names.
pub(super) fn http_filters(config: &Config) -> Result<Vec<HttpFilter>, Faulty> {
    let items = |(name, fragment): (&String, &Fragment)| -> Vec<(String, Value)> {
        let keyed = fragment.http_filters.iter().enumerate();
        keyed
            .map(|(index, item)| (format!("fragments.{name}.http_filters[{index}]"), item.clone()))
            .collect()
    };
    let mut filters: Vec<HttpFilter> = Vec::new();
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
        if filters.iter().any(|filter| filter.name == name) {
            return Err(fault(format!(
                "there is another filter named `{name}`, name it otherwise"
            )));
        }
        let Encoded { body, .. } = message::encode(HTTP_FILTER, &item, &key)?;
        filters.push(HttpFilter::decode(body.as_slice()).map_err(|error| fault(error.to_string()))?);
    }
    Ok(filters)
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
    let rest = config.rest.enabled.then_some(("rest.listen", config.rest.listen));
    for (ours, address) in [("front.listen", config.front.listen)].into_iter().chain(rest) {
        if !is_udp && port.as_u64() == Some(u64::from(address.port())) {
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
