//! Everything changes at once under load, and clients notice nothing: the fleet, the configuration, certificates, the control plane
//! itself, filters that Envoy refuses, and a rolling restart. Seeded; `SEED=n` repeats a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use graticule_daemon::dice::Dice;
use graticule_proto::v1::AgentPhase;
use hyper::Method;
use serde_json::json;

use crate::fragments::lua;
use crate::stack::{Agent, Stack, exchange, exchange_over, request, until};
use crate::state::{admin_of, set};
use crate::tls::{Client, Place, until_https};

/// Eight clients until told to stop, every second one by HTTPS; how many answers there were, and those that were bad.
fn load(stack: &Stack, secure: &Client) -> (Arc<AtomicBool>, tokio::task::JoinHandle<(usize, Vec<String>)>) {
    let (stop, front) = (Arc::new(AtomicBool::new(false)), stack.front);
    let (stopped, https, secure) = (Arc::clone(&stop), stack.config.front.tls.listen, secure.clone());
    let clients = (0..8_usize).map(move |client| {
        let (stopped, secure) = (Arc::clone(&stopped), secure.clone());
        async move {
            let (mut count, mut bad) = (0, Vec::new());
            while !stopped.load(Ordering::SeqCst) && count < 50_000 {
                let target = format!("/?MAP=/project{}&SERVICE=WMS", (count + client) % 16);
                let request = request(Method::GET, &target, &[], "");
                let answer = if client % 2 == 0 {
                    exchange(front, request).await
                } else {
                    exchange_over(secure.connect(https), request).await
                };
                if answer.status != 200 {
                    bad.push(format!("{} {}", answer.status, answer.body));
                }
                count += 1;
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            (count, bad)
        }
    });
    let load = tokio::spawn(async move {
        let all = futures::future::join_all(clients).await;
        all.into_iter().fold((0, Vec::new()), |mut sum, (count, bad)| {
            sum.0 += count;
            sum.1.extend(bad);
            sum
        })
    });
    (stop, load)
}

async fn settle(milliseconds: usize) {
    let milliseconds = u64::try_from(milliseconds).unwrap();
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[tokio::test]
async fn no_request_fails_while_everything_changes() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(42);
    println!("SEED={seed}");
    let mut dice = Dice::seeded(seed);
    let names = ["a", "b", "c", "d"];
    // Load goes to a pool that is there throughout, whatever other pools come and go.
    let place = Place::new();
    let (mut stack, agents) = Stack::with_agents_and(names, |config| {
        place.https(config);
        config
            .pools
            .insert("default".to_owned(), control_plane::config::Pool::default());
    })
    .await;
    let mut agents: Vec<Option<Agent>> = agents.into_iter().map(Some).collect();
    until_https(&stack).await;
    let (stop, load) = load(&stack, &place.client(None));
    let (mut fleet, mut configurations, mut refused, mut restarts, mut by_envoy) = (0, 0_u32, 0, 0, 0);

    // In turns and in any order, with a word of who is well before somebody else is asked to go.
    let mut turns: Vec<usize> = [vec![0; 50], vec![1; 20], vec![2; 5], vec![3; 5], vec![4; 3]].concat();
    for n in (1..turns.len()).rev() {
        turns.swap(n, dice.pick(n + 1));
    }
    for turn in turns {
        match turn {
            0 => {
                let who = dice.pick(names.len());
                let listen = stack.config.fleet.listen;
                match (agents[who].take(), dice.pick(3)) {
                    // It dies without a word, and is there again.
                    (Some(agent), 0) => {
                        drop(agent);
                        settle(dice.pick(60)).await;
                        agents[who] = Some(Agent::start(names[who], "default", listen));
                        // Envoy hears of its new address: nobody else is to die before.
                        settle(60).await;
                    }
                    (Some(agent), 1) => {
                        agent.say(AgentPhase::Draining);
                        settle(50 + dice.pick(60)).await;
                        agent.say(AgentPhase::Ready);
                        agents[who] = Some(agent);
                    }
                    (agent, _) => {
                        let agent = agent.unwrap_or_else(|| Agent::start(names[who], "default", listen));
                        agent.say(AgentPhase::Starting);
                        settle(30 + dice.pick(60)).await;
                        agent.say(AgentPhase::Ready);
                        agents[who] = Some(agent);
                    }
                }
                fleet += 1;
                stack.until_healthy("pool/default", names.len()).await;
            }
            1 => {
                let mut admin = admin_of(stack.control_plane.as_ref().unwrap()).await;
                let patch = match dice.pick(7) {
                    0 => json!({"front": {"request_timeout": 30.0 + f64::from(configurations)}}),
                    1 => json!({"front": {"connect_timeout": 0.5 + 0.01 * f64::from(configurations)}}),
                    2 => json!({"pools": {"extra": {"hosts": [format!("h{configurations}.example.org")]}}}),
                    5 => {
                        place.front(&format!("renewed-{configurations}.org"));
                        json!({"front": {"tls": {"hsts_max_age": configurations}}})
                    }
                    6 => json!({"fragments": {"own": {"http_filters": lua(&format!("-- {configurations}"))}}}),
                    3 => json!({"pools": {"extra": null}, "front": {"trusted_hops": configurations % 3}}),
                    _ => {
                        json!({"front": {"affinity": configurations % 2 == 0}, "fleet": {"silence_limit": 15.0 + f64::from(configurations)}})
                    }
                };
                set(&mut admin, &patch).await.unwrap();
                configurations += 1;
                settle(dice.pick(80)).await;
            }
            2 => {
                stack
                    .restart_control_plane(Duration::from_millis(dice.roll(300)), |_| {})
                    .await;
                // Envoy is back on its stream and has been told by a control plane that knows its fleet.
                until("Envoy to come back", async || {
                    stack.stat("control_plane.connected_state").await == 1
                        && stack
                            .page("/metrics")
                            .await
                            .contains("graticule_cp_agents_told{told=\"healthy\"} 4")
                })
                .await;
                settle(500).await;
                restarts += 1;
            }
            3 => {
                let mut admin = admin_of(stack.control_plane.as_ref().unwrap()).await;
                let bad = json!({"front": {"trusted_hops": 9}, "pools": {"extra": {"hosts": ["*"]}}});
                set(&mut admin, &bad).await.unwrap_err();
                refused += 1;
            }
            _ => {
                // Only Envoy can see that this is no Lua.
                let rejected = stack.stat("listener_manager.lds.update_rejected").await;
                let mut admin = admin_of(stack.control_plane.as_ref().unwrap()).await;
                let bad = json!({"fragments": {"own": {"http_filters": lua("function (")}}});
                set(&mut admin, &bad).await.unwrap();
                until("Envoy to refuse it", async || {
                    stack.stat("listener_manager.lds.update_rejected").await > rejected
                })
                .await;
                settle(dice.pick(80)).await;
                set(&mut admin, &json!({"fragments": null})).await.unwrap();
                by_envoy += 1;
            }
        }
    }
    // A rolling restart: each finishes what it has, goes, and comes again before the next.
    for who in 0..3 {
        let agent = agents[who].take().unwrap();
        agent.say(AgentPhase::Draining);
        stack.until_healthy("pool/default", names.len() - 1).await;
        settle(100).await;
        drop(agent);
        agents[who] = Some(Agent::start(names[who], "default", stack.config.fleet.listen));
        stack.until_healthy("pool/default", names.len()).await;
    }
    settle(300).await;
    stop.store(true, Ordering::SeqCst);
    let (count, bad) = load.await.unwrap();
    println!(
        "{count} answers, {fleet} fleet changes, {configurations} configurations, {refused} refused, {by_envoy} by Envoy, {restarts} restarts"
    );
    assert_eq!((fleet, configurations, refused, restarts, by_envoy), (50, 20, 5, 5, 3));
    assert!(count > 1000, "there was a load: {count}");
    assert!(
        bad.is_empty(),
        "SEED={seed}: {} bad of {count}: {:?}",
        bad.len(),
        &bad[..bad.len().min(5)]
    );
}
