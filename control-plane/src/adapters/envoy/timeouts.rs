//! How long Envoy waits for an agent, by pool and kind of request: as configured, but always longer than the agents of
//! the pool say that they may take. So it is the agent that says what was late, and no worker goes on for nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Member;
use crate::config::{Config, Pool, seconds};

/// How much longer than an agent Envoy waits, for the answer's way.
const MARGIN: Duration = Duration::from_secs(2);

/// The times of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// By kind of request in small letters, `wms/getprint` or `wms`, the longer name first.
    pub kinds: Vec<(String, Duration)>,
    /// For all others that say what they are.
    pub others: Duration,
    /// For those that may be anything, because what they ask for stands in their body.
    pub longest: Duration,
}

/// A pool whose agents may take longer than its configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The pool.
    pub pool: String,
    /// The longest that is configured for it.
    pub configured: Duration,
    /// What is told to Envoy.
    pub needed: Duration,
}

/// The longest that any agent of a pool may take, by its own word; of pools none of whose agents has said so, nothing.
pub type Longest = BTreeMap<String, Duration>;

/// What these agents say.
#[must_use]
pub fn longest(members: &[Member]) -> Longest {
    let mut longest = Longest::new();
    for member in members.iter().filter(|member| !member.longest_timeout.is_zero()) {
        match longest.get_mut(&*member.pool) {
            Some(known) => *known = member.longest_timeout.max(*known),
            None => drop(longest.insert(member.pool.to_string(), member.longest_timeout)),
        }
    }
    longest
}

/// The times of a pool whose agents may take so long.
pub fn timeouts(config: &Config, name: &str, pool: &Pool, longest: &Longest) -> Timeouts {
    let least = least(name, longest);
    let (kinds, others) = configured(config, pool);
    let others = others.max(least);
    let mut kinds: Vec<(String, Duration)> = kinds.into_iter().map(|(kind, time)| (kind, time.max(least))).collect();
    kinds.sort_by_key(|(kind, _)| (!kind.contains('/'), kind.clone()));
    let longest = kinds.iter().map(|(_, time)| *time).fold(others, Duration::max);
    // A kind that has what all others have needs no route of its own, unless its service has another.
    let plain = kinds.iter().all(|(_, time)| *time == others);
    if plain {
        kinds.clear();
    }
    Timeouts { kinds, others, longest }
}

/// The pools for which the agents' word goes before the configuration, in the order of their names.
#[must_use]
pub fn raised(config: &Config, members: &[Member]) -> Vec<Raised> {
    let (pools, longest) = (config.effective_pools(), self::longest(members));
    let raised = pools.iter().filter_map(|(name, pool)| {
        let (kinds, others) = self::configured(config, pool);
        let configured = kinds.into_values().fold(others, Duration::max);
        let needed = least(name, &longest);
        (needed > configured).then(|| Raised {
            pool: name.clone(),
            configured,
            needed,
        })
    });
    raised.collect()
}

/// What must not be undercut; nothing when no agent has said how long it may take.
fn least(pool: &str, longest: &Longest) -> Duration {
    longest.get(pool).map_or(Duration::ZERO, |longest| *longest + MARGIN)
}

fn configured(config: &Config, pool: &Pool) -> (BTreeMap<String, Duration>, Duration) {
    let front = config.front.timeouts.iter().chain(&pool.timeouts);
    let kinds = front
        .map(|(kind, time)| (kind.to_lowercase(), seconds(*time)))
        .collect();
    let others = if pool.request_timeout > 0.0 {
        pool.request_timeout
    } else {
        config.front.request_timeout
    };
    (kinds, seconds(others))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fleet::Told;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn member(pool: &str, longest: u64) -> Member {
        Member {
            id: pool.into(),
            pool: pool.into(),
            address: ([127, 0, 0, 1], 1).into(),
            told: Told::Healthy,
            longest_timeout: secs(longest),
            weight: 100,
            placed: std::sync::Arc::default(),
        }
    }

    fn config() -> Config {
        let mut config = Config::default();
        config.front.timeouts = [("WMS/GetPrint".to_owned(), 120.0), ("wms".to_owned(), 30.0)].into();
        config
    }

    #[test]
    fn the_pool_goes_before_the_front_and_single_requests_before_services() {
        let pool = Pool {
            request_timeout: 10.0,
            timeouts: [("wms".to_owned(), 20.0)].into(),
            ..Pool::default()
        };
        let times = timeouts(&config(), "a", &pool, &Longest::new());
        assert_eq!(
            times.kinds,
            [("wms/getprint".to_owned(), secs(120)), ("wms".to_owned(), secs(20))]
        );
        assert_eq!((times.others, times.longest), (secs(10), secs(120)));
    }

    #[test]
    fn what_an_agent_may_take_is_never_cut_short() {
        let members = [member("a", 50), member("a", 70), member("b", 500)];
        let times = timeouts(&config(), "a", &Pool::default(), &longest(&members));
        assert_eq!(
            times.kinds,
            [("wms/getprint".to_owned(), secs(120)), ("wms".to_owned(), secs(72))]
        );
        assert_eq!((times.others, times.longest), (secs(72), secs(120)));
        let mut config = config();
        let pools = ["a", "b"].map(|name| (name.to_owned(), Pool::default()));
        config.pools = pools.into();
        let expected = Raised {
            pool: "b".to_owned(),
            configured: secs(120),
            needed: secs(502),
        };
        assert_eq!(raised(&config, &members), [expected]);
        assert_eq!(raised(&config, &[]), []);
    }

    #[test]
    fn kinds_that_differ_in_nothing_need_no_routes() {
        let members = [member("a", 500)];
        assert_eq!(timeouts(&config(), "a", &Pool::default(), &longest(&members)).kinds, []);
    }
}
