//! `[pools.NAME]`: which requests go to a pool, and what Envoy does for them.

use std::collections::BTreeMap;

use graticule_daemon::tls::TlsClient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::balance::{self, Ejection, HealthCheck};
use super::cors::{self, Cors};
use super::front::check_timeouts;
use super::{Unusable, is_plain_name};
use crate::core::routing::{self, Claim};

/// A pool: the requests that go to it, and what Envoy does for them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// Host names as clients write them, without port; `*.example.org`, `www.*` and `*` are allowed. `["*"]` when left out.
    pub hosts: Vec<String>,
    /// What of these hosts is the pool's; everything when left out.
    pub routes: Vec<PoolRoute>,
    /// Which pages of other origins may read its answers. Envoy answers every preflight itself.
    pub cors: Cors,
    /// How long its requests may take, in seconds; 0 for `front.request_timeout`.
    #[schemars(extend("x-expected" = "a number from 0.1 to 86400, or 0"))]
    pub request_timeout: f64,
    /// What goes before `request_timeout` for single services and requests, besides those of `front.timeouts`, in seconds.
    #[schemars(extend("examples" = [{"WMS/GetMap": 30.0}]))]
    pub timeouts: BTreeMap<String, f64>,
    /// How many requests it takes from all clients together: a bucket that holds `burst` requests and gets `requests` more within
    /// each `per`.
    pub rate_limit: Rate,
    /// How many requests it takes from one client's address; of IPv6, from one /64.
    pub client_rate_limit: Rate,
    /// How Envoy looks after the pool's agents by itself: it asks each agent's data port for `/readyz`. docs/balancing.md.
    pub health_check: HealthCheck,
    /// When Envoy leaves an agent that takes no connections out for a while. What agents answer never counts.
    pub ejection: Ejection,
    /// By how many of the pool's agents a pinned project is served, where its pin says nothing else; 0: by all of them. At
    /// least two keep it loaded. docs/balancing.md.
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: u32,
    /// Data ports of agents that cannot register by themselves: `10.0.0.7:23457`, or `agents.example.org:23457` for all
    /// addresses of that name.
    pub addresses: Vec<String>,
    /// How Envoy reaches the pool's agents by TLS, as their `server.http_tls` asks for; nothing set: plaintext.
    pub tls: TlsClient,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            hosts: vec!["*".to_owned()],
            routes: vec![PoolRoute::default()],
            cors: Cors::default(),
            request_timeout: 0.0,
            timeouts: BTreeMap::new(),
            rate_limit: Rate::default(),
            client_rate_limit: Rate::default(),
            health_check: HealthCheck::default(),
            ejection: Ejection::default(),
            replicas: 0,
            addresses: Vec::new(),
            tls: TlsClient::default(),
        }
    }
}

/// A limit on how often something may be asked for: a bucket that holds `burst` requests and gets `requests` more within
/// each time of `per`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rate {
    /// How many requests come free within each `per`; 0 for no limit.
    pub requests: u32,
    /// The time within which `requests` come free, in seconds.
    #[schemars(extend("x-expected" = "a number from 0.05 to 86400"))]
    pub per: f64,
    /// How many requests may come at once after a pause; 0 for as many as `requests`.
    pub burst: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            requests: 0,
            per: 1.0,
            burst: 0,
        }
    }
}

/// One of `[[pools.NAME.routes]]`: requests below a path, with certain headers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PoolRoute {
    /// The path, such as `/maps`, which takes `/maps` and `/maps/…` but not `/mapsheet`.
    pub prefix: String,
    /// What a request's headers must say, value by name; `*` for whatever value.
    pub headers: BTreeMap<String, String>,
    /// Whether agents get the path without the prefix, and the prefix in `X-Forwarded-Prefix`.
    pub strip_prefix: bool,
}

impl Default for PoolRoute {
    fn default() -> Self {
        Self {
            prefix: "/".to_owned(),
            headers: BTreeMap::new(),
            strip_prefix: true,
        }
    }
}

impl PoolRoute {
    /// The prefix without a slash at its end; `/` for everything.
    #[must_use]
    pub fn path(&self) -> &str {
        match self.prefix.trim_end_matches('/') {
            "" => "/",
            path => path,
        }
    }

    /// What agents do not get of the path; nothing when all of it is theirs.
    #[must_use]
    pub fn stripped(&self) -> Option<&str> {
        let path = self.path();
        (self.strip_prefix && path != "/").then_some(path)
    }
}

/// What becomes a pattern for Envoy, which takes programs of at most 100 steps, is no longer than this.
pub(super) const MOST_PATTERN_BYTES: usize = 64;

/// Paths that mean something to agents.
const AGENTS_PATHS: [&str; 3] = ["/ows", "/wfs3", "/catalog"];

/// Headers that Envoy or this project sets itself: what a client says in them never counts.
const OWN_HEADERS: [&str; 4] = ["x-graticule-", "x-envoy-", "x-forwarded-", "x-request-id"];

/// Checks every pool for itself and all against each other.
///
/// # Errors
/// The first thing that cannot be used.
pub(super) fn check(pools: &BTreeMap<String, Pool>) -> Result<(), Unusable> {
    for (name, pool) in pools {
        if !is_plain_name(name) {
            return Err(Unusable::PoolName(name.clone()));
        }
        if pool.hosts.is_empty() || pool.hosts.iter().any(String::is_empty) {
            return Err(Unusable::NoHost(name.clone()));
        }
        if pool.routes.is_empty() {
            return Err(Unusable::NoRoute(name.clone()));
        }
        let wrong = |key: &str, value: &str, problem: &str| Unusable::Value {
            key: format!("pools.{name}.{key}"),
            value: value.to_owned(),
            problem: problem.to_owned(),
        };
        for host in &pool.hosts {
            host_problem(host).map_or(Ok(()), |problem| Err(wrong("hosts", host, problem)))?;
        }
        if let Some((key, value, problem)) = cors::problem(&pool.cors) {
            return Err(wrong(key, &value, problem));
        }
        for (key, rate) in [
            ("rate_limit", &pool.rate_limit),
            ("client_rate_limit", &pool.client_rate_limit),
        ] {
            if rate.requests > 0 && !(0.05..=86_400.0).contains(&rate.per) {
                return Err(wrong(
                    &format!("{key}.per"),
                    &rate.per.to_string(),
                    "set it to a number of seconds from 0.05 to 86400",
                ));
            }
            if rate.requests == 0 && rate.burst > 0 {
                return Err(wrong(
                    &format!("{key}.burst"),
                    &rate.burst.to_string(),
                    "without `requests` there is no limit, set both or none",
                ));
            }
        }
        if pool.request_timeout != 0.0 && !(0.1..=86_400.0).contains(&pool.request_timeout) {
            return Err(wrong(
                "request_timeout",
                &pool.request_timeout.to_string(),
                "set it to a number of seconds from 0.1 to 86400, or to 0 for that of `front`",
            ));
        }
        check_timeouts(&format!("pools.{name}.timeouts"), &pool.timeouts)?;
        if let Some((key, value, problem)) = balance::problem(pool) {
            return Err(wrong(key, &value, &problem));
        }
        for (index, route) in pool.routes.iter().enumerate() {
            let key = |field: &str| format!("routes[{index}].{field}");
            if let Some(problem) = prefix_problem(route) {
                return Err(wrong(&key("prefix"), &route.prefix, problem));
            }
            for (header, value) in &route.headers {
                if let Some(problem) = header_problem(header, value) {
                    return Err(wrong(&key("headers"), header, problem));
                }
            }
        }
    }
    routing::order(&claims(pools)).map(drop).map_err(Unusable::Routes)
}

fn host_problem(host: &str) -> Option<&'static str> {
    let inner = host.strip_prefix('*').unwrap_or(host);
    let inner = inner.strip_suffix('*').unwrap_or(inner);
    let port = host
        .rsplit_once(':')
        .is_some_and(|(before, port)| !before.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()));
    if port {
        Some("hosts are compared without their port, leave it out")
    } else if inner.contains('*') || (host.len() > 1 && host.starts_with('*') && host.ends_with('*')) {
        Some("a host has one `*`, at its beginning or its end")
    } else if !host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.*:[]".contains(&byte))
    {
        Some("it is no host name, write it without scheme and path, other letters as in `xn--…`")
    } else {
        None
    }
}

fn prefix_problem(route: &PoolRoute) -> Option<&'static str> {
    let path = route.path();
    if !route.prefix.starts_with('/') {
        return Some("a prefix begins with `/`");
    }
    if !path
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&b))
    {
        return Some("it holds what no path holds, write other letters percent-encoded and leave out the query");
    }
    if path.len() > MOST_PATTERN_BYTES {
        return Some("Envoy bounds the size of patterns, take at most 64 bytes");
    }
    let lower = path.to_lowercase();
    let unreachable = path.contains("//")
        || path.split('/').any(|segment| segment == "." || segment == "..")
        || ["%2f", "%5c"].iter().any(|escape| lower.contains(escape));
    if unreachable {
        return Some(
            "no request has such a path, Envoy resolves `//`, `.` and `..` and refuses escaped slashes before",
        );
    }
    let agents = AGENTS_PATHS.iter().any(|own| {
        path.strip_prefix(own)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    if agents && route.strip_prefix {
        return Some("agents need this part of the path, set strip_prefix = false");
    }
    None
}

/// Why requests cannot be told apart, or allowed, by this header.
pub(super) fn header_problem(name: &str, value: &str) -> Option<&'static str> {
    let token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let lower = name.to_lowercase();
    if !token {
        Some("it is no name of a header")
    } else if lower == "host" {
        Some("hosts stand in `hosts`")
    } else if OWN_HEADERS.iter().any(|own| lower.starts_with(own)) {
        Some("what clients say in this header does not count, take another one")
    } else if value.is_empty() || value.trim() != value || value.bytes().any(|byte| byte < b' ') {
        Some("its value is empty or has spaces around it, write `*` for any")
    } else {
        None
    }
}

/// What every pool claims, in the order of pools and of their routes.
fn claims(pools: &BTreeMap<String, Pool>) -> Vec<Claim<'_>> {
    let all = pools
        .iter()
        .flat_map(|(name, pool)| pool.routes.iter().map(move |route| (name, pool, route)));
    all.map(|(name, pool, route)| Claim {
        pool: name,
        hosts: &pool.hosts,
        prefix: route.path().to_owned(),
        headers: lower_case(&route.headers),
    })
    .collect()
}

fn lower_case(headers: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    headers
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.clone()))
        .collect()
}

/// A route with the pool whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'a> {
    /// The pool's name.
    pub name: &'a str,
    /// The pool.
    pub pool: &'a Pool,
    /// One of its routes.
    pub route: &'a PoolRoute,
}

/// The routes of all pools host by host, in the order in which Envoy is to try them. Hosts of which the same is said stand
/// together. Call it on pools that were checked; those that contradict each other have no routes.
#[must_use]
pub fn routed(pools: &BTreeMap<String, Pool>) -> Vec<(Vec<String>, Vec<Routed<'_>>)> {
    let all: Vec<Routed<'_>> = pools
        .iter()
        .flat_map(|(name, pool)| pool.routes.iter().map(move |route| Routed { name, pool, route }))
        .collect();
    let mut groups: Vec<(Vec<String>, Vec<usize>)> = Vec::new();
    for routing::HostClaims { host, claims } in routing::order(&claims(pools)).unwrap_or_default() {
        match groups.iter_mut().find(|(_, known)| *known == claims) {
            Some((hosts, _)) => hosts.push(host),
            None => groups.push((vec![host], claims)),
        }
    }
    let routes = |claims: Vec<usize>| claims.into_iter().filter_map(|index| all.get(index).copied()).collect();
    groups
        .into_iter()
        .map(|(hosts, claims)| (hosts, routes(claims)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn refusal(toml: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, toml).unwrap();
        let config: Config = graticule_daemon::config::load(Some(&file), []).unwrap();
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn what_no_request_reaches_is_refused_with_the_remedy() {
        for (toml, words) in [
            (
                r#"pools.a.hosts = ["x.org:8080"]"#,
                "`pools.a.hosts` has `x.org:8080`: hosts are compared without their port",
            ),
            (r#"pools.a.hosts = ["a.*.org"]"#, "one `*`"),
            (r#"pools.a.hosts = ["*.org.*"]"#, "one `*`"),
            (r#"pools.a.hosts = ["http://x.org"]"#, "no host name"),
            (r#"pools.a.hosts = []"#, "give the pool at least one host"),
            (r#"pools.a.routes = []"#, "`pools.a.routes` is empty"),
            (
                r#"pools.a.routes = [{ prefix = "maps" }]"#,
                "`pools.a.routes[0].prefix` has `maps`: a prefix begins with `/`",
            ),
            (r#"pools.a.routes = [{ prefix = "/maps?x" }]"#, "leave out the query"),
            (
                r#"pools.a.routes = [{ prefix = "/a//b" }]"#,
                "no request has such a path",
            ),
            (
                r#"pools.a.routes = [{ prefix = "/a/../b" }]"#,
                "no request has such a path",
            ),
            (
                r#"pools.a.routes = [{ prefix = "/a%2Fb" }]"#,
                "no request has such a path",
            ),
            (
                "pools.a.routes = [{ prefix = \"/0123456789012345678901234567890123456789012345678901234567890123\" }]",
                "at most 64 bytes",
            ),
            (
                r#"pools.a.routes = [{ prefix = "/ows/city" }]"#,
                "set strip_prefix = false",
            ),
            (
                r#"pools.a.routes = [{ headers = { "x y" = "1" } }]"#,
                "no name of a header",
            ),
            (
                r#"pools.a.routes = [{ headers = { Host = "x" } }]"#,
                "hosts stand in `hosts`",
            ),
            (
                r#"pools.a.routes = [{ headers = { X-Envoy-Y = "1" } }]"#,
                "does not count",
            ),
            (
                r#"pools.a.routes = [{ headers = { X-Y = " 1" } }]"#,
                "write `*` for any",
            ),
            (
                r#"pools.a.cors.origins = "some""#,
                "`pools.a.cors.origins` has `some`: write `all`, `same-origin`, or a list",
            ),
            (
                r#"pools.a.cors.origins = []"#,
                "write `same-origin` for no other origin",
            ),
            (
                r#"pools.a.cors.origins = ["maps.example.org"]"#,
                "scheme, host and perhaps port",
            ),
            (
                r#"pools.a.cors.origins = ["https://maps.example.org/"]"#,
                "scheme, host and perhaps port",
            ),
            (
                r#"pools.a.cors = { origins = "all", credentials = true }"#,
                "list the origins",
            ),
            (r#"pools.a.cors.headers = ["x y"]"#, "`pools.a.cors.headers` has `x y`"),
            (
                r#"pools.a.rate_limit = { requests = 1, per = 0.01 }"#,
                "`pools.a.rate_limit.per` has `0.01`",
            ),
            (r#"pools.a.client_rate_limit.burst = 5"#, "set both or none"),
            (r#"pools.a.request_timeout = -1.0"#, "or to 0 for that of `front`"),
            (
                r#"pools.a.timeouts = { "WMS GetMap" = 3.0 }"#,
                "write it as in `WMS/GetPrint`",
            ),
            (
                r#"pools.a.addresses = ["http://x.org"]"#,
                "`pools.a.addresses` has `http://x.org`: write it as HOST:PORT",
            ),
            (r#"pools.a.addresses = ["10.0.0:80"]"#, "write it as HOST:PORT"),
            (
                "pools.a.addresses = [\"x.org:80\"]\npools.a.health_check.interval = 0.0",
                "are known to be well by checks only",
            ),
            (
                r#"pools.a.ejection.duration = 0.0"#,
                "`pools.a.ejection.duration` has `0`",
            ),
            (r#"front.timeouts = { WMS = 3.0, wms = 4.0 }"#, "twice in other letters"),
            (r#"front.timeouts = { WMS = 0.0 }"#, "`front.timeouts` has `WMS = 0`"),
            (
                r#"front.limits.max_url_length = 70000"#,
                "`front.limits.max_url_length` has `70000`: set it to a number from 256 to 61440",
            ),
            (
                r#"front.response_headers = { "x y" = "1" }"#,
                "a header's name has letters",
            ),
            (
                "pools.a.routes = [{ prefix = \"/m/\" }]\npools.b.routes = [{ prefix = \"/m\" }]",
                "`pools.b` and `pools.a` both claim prefix `/m` of the host `*`",
            ),
            (
                "pools.a.routes = [{ headers = { X-T = \"1\" } }]\npools.b.routes = [{ headers = { x-t = \"1\" } }]",
                "both claim prefix `/` with x-t: 1",
            ),
        ] {
            let said = refusal(toml);
            assert!(said.contains(words), "{toml}: {said}");
        }
    }

    #[test]
    fn hosts_of_which_the_same_is_said_stand_together() {
        let pool = |hosts: &[&str], prefix: &str| Pool {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            routes: vec![PoolRoute {
                prefix: prefix.to_owned(),
                ..PoolRoute::default()
            }],
            ..Pool::default()
        };
        let pools = BTreeMap::from([
            ("a".to_owned(), pool(&["x.org", "y.org", "z.org"], "/")),
            ("b".to_owned(), pool(&["Y.org"], "/deep/")),
        ]);
        let routed: Vec<String> = routed(&pools)
            .iter()
            .map(|(hosts, routes)| {
                let routes: Vec<String> = routes.iter().map(|r| format!("{}{}", r.name, r.route.path())).collect();
                format!("{}: {}", hosts.join(","), routes.join(" "))
            })
            .collect();
        assert_eq!(routed, ["x.org,z.org: a/", "y.org: b/deep a/"]);
    }
}
