//! How placed projects get to their agents: a small filter behind the one that reads requests, and a table for it.
//!
//! The table stands once in the route configuration, whatever the number of hosts, pools and routes: as the script that the
//! filter is to run in place of its own, because a table that a script asks Envoy for is copied for each request. The
//! listener never changes with it, so no connection is drained.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use envoy_types::pb::envoy::extensions::filters::http::lua::v3::{Lua, LuaPerRoute, lua_per_route};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::google::protobuf::Any;

use super::listener::http_filter;
use super::{Member, any, inline};
use crate::core::fleet::Told;

/// The filter. Its name stands in the route configuration, too.
const FILTER: &str = "graticule.placement";

/// The script; its table stands in lines before it.
const TEXT: &str = include_str!("placement.lua");

/// As long as `project_key.lua` makes them.
const MOST_KEY_BYTES: usize = 1024;

/// The filter that runs it; nothing is placed.
pub fn filter() -> HttpFilter {
    let script = Lua {
        default_source_code: Some(inline(&script(&BTreeMap::new()))),
        ..Default::default()
    };
    http_filter(FILTER, &script)
}

/// What the route configuration says to the filter; nothing while no project is placed.
pub fn table(members: &[Member]) -> Option<(String, Any)> {
    let mut placed: BTreeMap<String, Vec<(u32, String)>> = BTreeMap::new();
    for member in members.iter().filter(|member| member.told == Told::Healthy) {
        for (key, rank) in member.placed.iter() {
            let agents = placed.entry(format!("{}/{key}", member.pool)).or_default();
            agents.push((*rank, member.address.to_string()));
        }
    }
    if placed.is_empty() {
        return None;
    }
    placed.values_mut().for_each(|agents| agents.sort());
    let script = LuaPerRoute {
        r#override: Some(lua_per_route::Override::SourceCode(inline(&script(&placed)))),
        ..Default::default()
    };
    Some((FILTER.to_owned(), any(&script)))
}

/// The script with its table. Keys and addresses hold nothing that means something to Lua.
fn script(placed: &BTreeMap<String, Vec<(u32, String)>>) -> String {
    let mut text = "local PLACED = [[\n".to_owned();
    for (key, agents) in placed {
        text.push_str(key);
        for (_, address) in agents {
            // Writing to a String cannot fail.
            let _ = write!(text, " {address}");
        }
        text.push('\n');
    }
    text.push_str("]]\n");
    text.push_str(TEXT);
    text
}

/// The key that `project_key.lua` makes of a project's name.
#[must_use]
pub fn key_of(project: &str) -> String {
    let name = project.trim_matches('/').as_bytes();
    let mut key = String::with_capacity(name.len());
    for byte in &name[..name.len().min(MOST_KEY_BYTES)] {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            key.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(key, "%{byte:02X}");
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use prost::Message as _;

    use super::*;

    fn member(pool: &str, port: u16, told: Told, placed: &[(&str, u32)]) -> Member {
        let placed = placed.iter().map(|(key, rank)| ((*key).to_owned(), *rank));
        Member {
            id: port.to_string().into(),
            pool: pool.into(),
            address: ([127, 0, 0, 1], port).into(),
            told,
            longest_timeout: Duration::ZERO,
            weight: 100,
            placed: Arc::new(placed.collect()),
        }
    }

    #[test]
    fn agents_stand_in_their_order_and_only_those_that_take_requests() {
        let members = [
            member("maps", 1, Told::Healthy, &[("world", 1), ("a/b", 0)]),
            member("maps", 2, Told::Healthy, &[("world", 0)]),
            member("maps", 3, Told::Draining, &[("world", 2)]),
            member("other", 4, Told::Healthy, &[("world", 0)]),
        ];
        let (name, any) = table(&members).unwrap();
        assert_eq!(name, FILTER);
        let script = LuaPerRoute::decode(any.value.as_slice()).unwrap().r#override;
        let Some(lua_per_route::Override::SourceCode(source)) = script else {
            panic!("{script:?}");
        };
        let wanted = "local PLACED = [[\nmaps/a/b 127.0.0.1:1\nmaps/world 127.0.0.1:2 127.0.0.1:1\n\
                      other/world 127.0.0.1:4\n]]\n";
        assert_eq!(source, inline(&format!("{wanted}{TEXT}")));
        assert_eq!(table(&members[2..3]), None);
    }

    #[test]
    fn keys_are_those_of_the_script() {
        for (project, key) in [
            ("/world", "world"),
            ("/public/roads", "public/roads"),
            ("/m\u{fc}nchen plan", "m%C3%BCnchen%20plan"),
            ("/50%~x.y_z-", "50%25~x.y_z-"),
        ] {
            assert_eq!(key_of(project), key);
        }
    }
}
