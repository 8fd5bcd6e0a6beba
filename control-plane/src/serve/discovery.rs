//! Resolves the addresses that pools list, for agents that cannot register by themselves, again and again, and tells the hub
//! what there is. What an answer means is decided in [`discovery`](crate::core::discovery).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::hub::{Event, Hub};
use crate::config::Config;
use crate::core::discovery::{Names, News};

/// How often names are resolved.
const EVERY: Duration = Duration::from_secs(5);

/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// Addresses by pool.
pub type Found = BTreeMap<String, BTreeSet<SocketAddr>>;

/// Follows the configuration and the name servers until `stop`.
pub async fn follow(hub: Hub, stop: CancellationToken) {
    let mut config = hub.config.clone();
    let (mut names, mut told) = (Names::default(), Found::new());
    loop {
        let listed = listed(&config.borrow_and_update());
        let all: BTreeSet<String> = listed.values().flatten().cloned().collect();
        names.retain(&all);
        let unresolved = all.iter().filter(|entry| entry.parse::<SocketAddr>().is_err());
        let answers = join_all(unresolved.map(|name| async move { (name, resolve(name).await) }));
        let answers = tokio::select! {
            answers = answers => answers,
            () = stop.cancelled() => return,
        };
        let again = !answers.is_empty();
        for (name, answer) in answers {
            let (answer, problem) = match answer {
                Ok(answer) => (Some(answer), String::new()),
                Err(problem) => (None, problem),
            };
            match names.answered(name, answer) {
                News::None => {}
                News::Failed => tracing::warn!(
                    name,
                    problem,
                    "the name of agents cannot be resolved; those known of it stay, and it is tried again"
                ),
                News::Again => tracing::info!(name, "the name of agents can be resolved again"),
            }
        }
        let found = found(&listed, &names);
        if found != told {
            if !hub.tell(Event::Found(found.clone())).await {
                return;
            }
            told = found;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = config.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(EVERY), if again => {}
        }
    }
}

/// What pools list.
fn listed(config: &Config) -> BTreeMap<String, Vec<String>> {
    let pools = config.effective_pools().into_owned().into_iter();
    let listed = pools.filter(|(_, pool)| !pool.addresses.is_empty());
    listed.map(|(name, pool)| (name, pool.addresses)).collect()
}

async fn resolve(name: &str) -> Result<BTreeSet<SocketAddr>, String> {
    match tokio::time::timeout(PATIENCE, tokio::net::lookup_host(name)).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

fn found(listed: &BTreeMap<String, Vec<String>>, names: &Names) -> Found {
    let of_pool = |entries: &Vec<String>| -> BTreeSet<SocketAddr> {
        let mut addresses = BTreeSet::new();
        for entry in entries {
            match entry.parse() {
                Ok(address) => drop(addresses.insert(address)),
                Err(_) => addresses.extend(names.of(entry)),
            }
        }
        addresses
    };
    listed
        .iter()
        .map(|(pool, entries)| (pool.clone(), of_pool(entries)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_and_addresses_of_a_pool_stand_together() {
        let listed = [(
            "maps".to_owned(),
            vec!["10.0.0.7:1".to_owned(), "[::2]:2".to_owned(), "localhost:3".to_owned()],
        )]
        .into();
        let mut names = Names::default();
        assert_eq!(found(&listed, &names)["maps"].len(), 2, "the name is not resolved yet");
        let answer = resolve("localhost:3").await.unwrap();
        assert!(
            answer
                .iter()
                .all(|address| address.ip().is_loopback() && address.port() == 3)
        );
        names.answered("localhost:3", Some(answer.clone()));
        assert_eq!(found(&listed, &names)["maps"].len(), 2 + answer.len());
        assert!(resolve("no-such-name.invalid:1").await.is_err());
    }
}
