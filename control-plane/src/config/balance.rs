//! What of `[pools.NAME]` is about agents: what Envoy finds out about them by itself, which is the net under what they say of
//! themselves; where they are that cannot register; and how many of them serve a pinned project.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Pool;

/// The most agents that a pin can be for, short of all.
pub const MOST_REPLICAS: u32 = 1000;

/// `[pools.NAME.health_check]`: Envoy asks each agent's data port for `/readyz`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// How often, in seconds; 0: never.
    #[schemars(extend("x-expected" = "a number from 0.1 to 3600, or 0"))]
    pub interval: f64,
    /// How long an answer may take, in seconds.
    #[schemars(extend("x-expected" = "a number from 0.05 to 60"))]
    pub timeout: f64,
    /// An agent that has failed so many checks in a row gets no requests until one succeeds. An agent that says itself that it
    /// goes is taken out at once.
    #[schemars(range(min = 1, max = 100))]
    pub failures: u32,
    /// When less than this part of a pool is healthy, in percent, Envoy takes it that the checks are wrong and sends to all
    /// agents. The default means: when no agent is. 0: it never does.
    #[schemars(range(min = 0, max = 100))]
    pub panic_threshold: f64,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            interval: 2.0,
            timeout: 1.0,
            failures: 3,
            panic_threshold: 1.0,
        }
    }
}

/// `[pools.NAME.ejection]`: an agent that takes no connections is left out for a while. What agents answer never counts,
/// whatever the status: a 503 is a full agent's word, and a 502 or 504 may be due to one bad project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ejection {
    /// After so many connections in a row that could not be made; 0: never.
    #[schemars(range(min = 0, max = 1000))]
    pub failures: u32,
    /// For how long the first time, in seconds. The second time for twice as long, and so on up to ten times.
    #[schemars(extend("x-expected" = "a number from 0.1 to 3600"))]
    pub duration: f64,
    /// At most this part of the pool at once, in percent.
    #[schemars(range(min = 0, max = 100))]
    pub max_percent: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            failures: 5,
            duration: 5.0,
            max_percent: 50,
        }
    }
}

/// The first value that cannot be used: its key below the pool, the value, and what to change.
pub(super) fn problem(pool: &Pool) -> Option<(&'static str, String, String)> {
    let (check, ejection) = (&pool.health_check, &pool.ejection);
    let seconds = |least: f64, most: f64| format!("set it to a number of seconds from {least} to {most}");
    let outside = |value: f64, least: f64, most: f64| !(least..=most).contains(&value);
    if check.interval != 0.0 && outside(check.interval, 0.1, 3600.0) {
        let remedy = format!("{}, or to 0 for no checks", seconds(0.1, 3600.0));
        return Some(("health_check.interval", check.interval.to_string(), remedy));
    }
    for (key, value, least, most) in [
        ("health_check.timeout", check.timeout, 0.05, 60.0),
        ("ejection.duration", ejection.duration, 0.1, 3600.0),
    ] {
        if outside(value, least, most) {
            return Some((key, value.to_string(), seconds(least, most)));
        }
    }
    for (key, value, least, most) in [
        ("health_check.failures", f64::from(check.failures), 1.0, 100.0),
        ("health_check.panic_threshold", check.panic_threshold, 0.0, 100.0),
        ("ejection.failures", f64::from(ejection.failures), 0.0, 1000.0),
        ("ejection.max_percent", f64::from(ejection.max_percent), 0.0, 100.0),
        ("replicas", f64::from(pool.replicas), 0.0, f64::from(MOST_REPLICAS)),
    ] {
        if outside(value, least, most) {
            return Some((
                key,
                value.to_string(),
                format!("set it to a number from {least} to {most}"),
            ));
        }
    }
    if let Some(wrong) = pool.addresses.iter().find(|address| !is_address(address)) {
        let remedy = "write it as HOST:PORT, with an IP address or a name, as in `agents.example.org:23457`";
        return Some(("addresses", wrong.clone(), remedy.to_owned()));
    }
    if !pool.addresses.is_empty() && check.interval == 0.0 {
        let remedy = "agents that do not register are known to be well by checks only, set it to a number of seconds from 0.1 to 3600";
        return Some(("health_check.interval", "0".to_owned(), remedy.to_owned()));
    }
    None
}

/// Whether a text is an IP address or a name, with a port.
pub(super) fn is_address(text: &str) -> bool {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() > 0;
    }
    text.rsplit_once(':').is_some_and(|(name, port)| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let letters = name.bytes().any(|b| b.is_ascii_alphabetic());
        letters && name.len() <= 253 && name.bytes().all(plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named_with_the_remedy() {
        let said = |change: fn(&mut Pool)| {
            let mut pool = Pool::default();
            change(&mut pool);
            problem(&pool).map_or_else(String::new, |(key, value, remedy)| format!("{key} {value} {remedy}"))
        };
        assert_eq!(said(|_| {}), "");
        assert_eq!(said(|pool| pool.health_check.interval = 0.0), "");
        assert_eq!(said(|pool| pool.ejection.failures = 0), "");
        assert_eq!(
            said(|pool| pool.addresses = ["10.0.0.7:1", "[::1]:2", "a-b.example.org:3"].map(str::to_owned).into()),
            ""
        );
        assert!(said(|pool| pool.health_check.interval = -1.0).ends_with("or to 0 for no checks"));
        assert!(said(|pool| pool.health_check.interval = f64::NAN).starts_with("health_check.interval NaN"));
        assert!(
            said(|pool| pool.health_check.timeout = 0.0).starts_with("health_check.timeout 0 set it to a number of")
        );
        assert!(said(|pool| pool.health_check.failures = 0).starts_with("health_check.failures 0"));
        assert!(said(|pool| pool.health_check.panic_threshold = 101.0).ends_with("from 0 to 100"));
        assert!(said(|pool| pool.ejection.max_percent = 101).starts_with("ejection.max_percent 101"));
        assert!(said(|pool| pool.replicas = 1001).ends_with("from 0 to 1000"));
        for wrong in [
            "http://x.org",
            "10.0.0:80",
            "x.org",
            "x.org:0",
            "x.org:70000",
            ":80",
            "a b:80",
        ] {
            let mut pool = Pool::default();
            pool.addresses.push(wrong.to_owned());
            assert_eq!(problem(&pool).map(|(key, ..)| key), Some("addresses"), "{wrong}");
        }
        let said = said(|pool| {
            pool.addresses.push("x.org:80".to_owned());
            pool.health_check.interval = 0.0;
        });
        assert!(said.contains("are known to be well by checks only"));
    }
}
