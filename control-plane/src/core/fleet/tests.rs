//! What the fleet does with each event, with a clock in the test's hand.

use proptest::prelude::*;

use super::*;

const TIMING: Timing = Timing {
    disconnect_grace: Duration::from_millis(500),
    sync_window: Duration::from_secs(2),
    silence_limit: Duration::from_secs(15),
};

fn ms(milliseconds: u64) -> Clock {
    Duration::from_millis(milliseconds)
}

fn identity(id: &str, port: u16) -> Identity {
    Identity {
        id: id.into(),
        pool: "default".into(),
        data_address: SocketAddr::from(([127, 0, 0, 1], port)),
        grpc_address: String::new(),
        version: "0".to_owned(),
        longest_timeout: Duration::ZERO,
    }
}

fn told(fleet: &Fleet<()>) -> Vec<(&str, Told)> {
    fleet.agents().map(|a| (&*a.identity.id, a.told())).collect()
}

#[test]
fn an_agent_that_has_said_no_state_is_not_told() {
    let mut fleet = Fleet::new(TIMING);
    assert_eq!(fleet.attach(ms(0), Session(1), identity("a", 1)), []);
    assert_eq!(told(&fleet), [("a", Told::None)]);
}

#[test]
fn each_phase_has_its_word() {
    let mut fleet = Fleet::new(TIMING);
    fleet.attach(ms(0), Session(1), identity("a", 1));
    let words = [Told::None, Told::Healthy, Told::Draining, Told::Draining];
    for (phase, word) in Phase::ALL.into_iter().zip(words) {
        assert!(fleet.state(ms(1), Session(1), phase, ()));
        assert_eq!(told(&fleet), [("a", word)], "{phase:?}");
    }
}

#[test]
fn a_broken_stream_changes_nothing_within_the_grace_and_everything_after() {
    let mut fleet = Fleet::new(TIMING);
    fleet.attach(ms(0), Session(1), identity("a", 1));
    fleet.state(ms(0), Session(1), Phase::Ready, ());
    fleet.detach(ms(3000), Session(1));
    assert_eq!(fleet.next_deadline(ms(3000)), Some(ms(3500)));
    assert_eq!(fleet.tick(ms(3499)), Passed::default());
    assert_eq!(told(&fleet), [("a", Told::Healthy)]);
    assert!(!fleet.agents().next().unwrap().attached);
    assert_eq!(fleet.tick(ms(3500)).gone, ["a"]);
    assert_eq!(told(&fleet), []);
}

#[test]
fn last_words_count_during_the_grace() {
    let mut fleet = Fleet::new(TIMING);
    fleet.attach(ms(0), Session(1), identity("a", 1));
    fleet.state(ms(0), Session(1), Phase::Ready, ());
    fleet.state(ms(10), Session(1), Phase::Failing, ());
    fleet.detach(ms(10), Session(1));
    assert_eq!(told(&fleet), [("a", Told::Draining)]);
}

#[test]
fn an_agent_that_comes_back_within_the_grace_never_left() {
    let mut fleet = Fleet::new(TIMING);
    fleet.attach(ms(0), Session(1), identity("a", 1));
    fleet.state(ms(0), Session(1), Phase::Ready, ());
    fleet.detach(ms(100), Session(1));
    assert_eq!(
        fleet.attach(ms(200), Session(2), identity("a", 1)),
        [Displaced::SameId { elsewhere: None }]
    );
    assert_eq!(
        told(&fleet),
        [("a", Told::Healthy)],
        "its last word holds until the next"
    );
    assert_eq!(fleet.tick(ms(10_000)), Passed::default());
}

#[test]
fn what_a_replaced_stream_says_is_not_heard() {
    let mut fleet = Fleet::new(TIMING);
    fleet.attach(ms(0), Session(1), identity("a", 1));
    fleet.attach(ms(1), Session(2), identity("a", 1));
    fleet.state(ms(2), Session(2), Phase::Ready, ());
    assert!(!fleet.state(ms(3), Session(1), Phase::Draining, ()));
    fleet.detach(ms(4), Session(1));
    assert_eq!(told(&fleet), [("a", Told::Healthy)]);
    assert!(fleet.agents().next().unwrap().attached);
}

#[test]
fn what_an_agent_may_take_is_as_it_said_last() {
    let (mut fleet, minute) = (ready(2), Duration::from_secs(60));
    assert!(fleet.takes(Session(1), minute));
    assert!(!fleet.takes(Session(1), minute), "no news");
    assert!(!fleet.takes(Session(7), minute), "nobody's stream");
    let takes: Vec<_> = fleet.agents().map(|a| a.identity.longest_timeout).collect();
    assert_eq!(takes, [minute, Duration::ZERO]);
}

#[test]
fn an_agent_that_moved_must_say_its_state_anew() {
    let mut fleet = Fleet::new(TIMING);
    fleet.attach(ms(0), Session(1), identity("a", 1));
    fleet.state(ms(0), Session(1), Phase::Ready, ());
    fleet.attach(ms(1), Session(2), identity("a", 2));
    assert_eq!(told(&fleet), [("a", Told::None)]);
}

#[test]
fn the_later_claim_to_an_address_wins() {
    let mut fleet = Fleet::new(TIMING);
    fleet.attach(ms(0), Session(1), identity("a", 1));
    fleet.state(ms(0), Session(1), Phase::Ready, ());
    let displaced = fleet.attach(ms(1), Session(2), identity("b", 1));
    assert_eq!(
        displaced,
        [Displaced::SameAddress {
            id: "a".to_owned(),
            attached: true
        }]
    );
    assert_eq!(told(&fleet), [("b", Told::None)]);
}

#[test]
fn silence_counts_as_a_broken_stream_and_a_word_ends_it() {
    let mut fleet = Fleet::new(TIMING);
    fleet.attach(ms(0), Session(1), identity("a", 1));
    fleet.state(ms(1000), Session(1), Phase::Ready, ());
    assert_eq!(fleet.tick(ms(16_000)), Passed::default());
    assert!(!fleet.agents().next().unwrap().attached);
    assert!(fleet.state(ms(16_100), Session(1), Phase::Ready, ()));
    assert_eq!(fleet.tick(ms(16_600)), Passed::default());
    assert_eq!(fleet.tick(ms(31_600)).gone, ["a"], "limit and grace are both over");
}

#[test]
fn nothing_is_published_before_the_sync_window_is_over() {
    let mut fleet: Fleet<()> = Fleet::new(TIMING);
    fleet.attach(ms(100), Session(1), identity("a", 1));
    fleet.state(ms(100), Session(1), Phase::Ready, ());
    assert!(!fleet.synced(ms(2099)), "the others have as long as the first");
    assert_eq!(fleet.next_deadline(ms(0)), Some(ms(2000)));
    assert_eq!(fleet.next_deadline(ms(2000)), Some(ms(2100)));
    assert!(fleet.waited(ms(2000)) && fleet.synced(ms(2100)));
    assert_eq!(fleet.next_deadline(ms(2100)), Some(ms(15_100)), "its silence");
}

#[test]
fn a_fleet_of_which_nobody_has_come_is_published_late() {
    let mut fleet: Fleet<()> = Fleet::new(TIMING);
    assert!(fleet.waited(ms(2000)) && !fleet.synced(ms(9999)) && fleet.synced(ms(10_000)));
    assert_eq!(fleet.next_deadline(ms(2000)), Some(ms(10_000)));
    assert_eq!(fleet.next_deadline(ms(10_000)), None);
    // Somebody who comes just before does not put it off further, and one by address counts as well.
    fleet.found(ms(9500), "default");
    assert!(fleet.synced(ms(10_000)));
    let mut fleet: Fleet<()> = Fleet::new(TIMING);
    fleet.found(ms(300), "default");
    assert!(fleet.synced(ms(2300)));
}

#[test]
fn a_pool_is_awaited_until_one_of_its_agents_has_been_ready() {
    let mut fleet = Fleet::new(TIMING);
    fleet.attach(ms(0), Session(1), identity("a", 1));
    for phase in [Phase::Starting, Phase::Draining, Phase::Failing] {
        fleet.state(ms(1), Session(1), phase, ());
        assert!(fleet.awaits("default"), "one that is {phase:?} serves nobody");
    }
    fleet.state(ms(2), Session(1), Phase::Ready, ());
    fleet.state(ms(3), Session(1), Phase::Draining, ());
    fleet.detach(ms(4), Session(1));
    assert_eq!(fleet.tick(ms(504)).gone, ["a"]);
    assert!(!fleet.awaits("default"), "what was said counts, whoever goes");
    assert!(fleet.awaits("other"));
    // One that was ready comes again for another pool, from the same address.
    fleet.attach(ms(600), Session(2), identity("b", 2));
    fleet.state(ms(600), Session(2), Phase::Ready, ());
    let elsewhere = Identity {
        pool: "other".into(),
        ..identity("b", 2)
    };
    fleet.attach(ms(601), Session(3), elsewhere);
    assert!(!fleet.awaits("other"));
    fleet.found(ms(700), "listed");
    assert!(!fleet.awaits("listed"));
}

/// So many agents, ready at zero.
fn ready(count: u16) -> Fleet<()> {
    let mut fleet = Fleet::new(TIMING);
    for n in 1..=count {
        fleet.attach(ms(0), Session(n.into()), identity(&n.to_string(), n));
        fleet.state(ms(0), Session(n.into()), Phase::Ready, ());
    }
    fleet
}

#[test]
fn agents_that_are_lost_all_at_once_are_told_as_before_and_one_that_is_lost_alone_is_not() {
    let mut fleet = ready(3);
    for n in 1..=3 {
        fleet.state(ms(5000), Session(n), Phase::Ready, ());
    }
    fleet.detach(ms(6000), Session(1));
    assert_eq!(fleet.tick(ms(6500)).gone, ["1"], "the others have been heard since");
    // The second breaks off, and the third has not said anything since about that time: it is silent, as it turns out.
    fleet.detach(ms(13_000), Session(2));
    let passed = fleet.tick(ms(13_500));
    assert_eq!((passed.gone, passed.lost), (vec![], vec!["2".to_owned()]));
    fleet.tick(ms(20_000));
    assert_eq!(fleet.tick(ms(20_500)).lost, ["3"]);
    assert_eq!(told(&fleet), [("2", Told::Healthy), ("3", Told::Healthy)]);
    assert!(fleet.agents().all(|agent| agent.lost()));
    // One of them is back: the other is given up when it is looked at again.
    fleet.attach(ms(21_000), Session(4), identity("2", 2));
    fleet.state(ms(21_000), Session(4), Phase::Ready, ());
    fleet.state(ms(34_000), Session(4), Phase::Ready, ());
    assert_eq!(fleet.tick(ms(35_500)).gone, ["3"]);
    assert_eq!(told(&fleet), [("2", Told::Healthy)]);
}

#[test]
fn who_is_lost_for_very_long_is_forgotten_and_who_said_that_it_goes_is_not_lost() {
    let mut fleet = ready(3);
    fleet.state(ms(0), Session(3), Phase::Draining, ());
    for n in 1..=3 {
        fleet.detach(ms(10), Session(n));
    }
    let passed = fleet.tick(ms(510));
    assert_eq!(
        (passed.gone, passed.lost),
        (vec!["3".to_owned()], vec!["1".to_owned(), "2".to_owned()])
    );
    let mut now = ms(510);
    while now < LOST_AT_MOST + ms(10) {
        assert_eq!(fleet.tick(now), Passed::default(), "said once");
        now = fleet.next_deadline(now).unwrap();
    }
    assert_eq!(fleet.tick(now).gone, ["1", "2"]);
    assert_eq!(fleet.next_deadline(now), None);
}

#[test]
fn the_only_one_of_a_pool_is_forgotten_when_it_breaks_off() {
    let mut fleet = ready(1);
    fleet.detach(ms(10), Session(1));
    assert_eq!(fleet.tick(ms(510)).gone, ["1"]);
}

#[test]
fn nobody_suffers_from_this_process_standing_still() {
    let mut fleet = ready(2);
    fleet.state(ms(4000), Session(2), Phase::Ready, ());
    fleet.detach(ms(4900), Session(1));
    // From 5 s to 65 s nothing was heard here.
    fleet.stood_still(ms(65_000), ms(60_000));
    assert_eq!(fleet.tick(ms(65_000)), Passed::default());
    assert_eq!(
        fleet.next_deadline(ms(65_000)),
        Some(ms(65_400)),
        "what was left of the grace"
    );
    assert_eq!(fleet.tick(ms(65_400)).gone, ["1"]);
    assert_eq!(fleet.next_deadline(ms(65_400)), Some(ms(79_000)));
}

#[derive(Clone, Debug)]
enum Step {
    Attach(u8),
    State(u8, Phase),
    Detach(u8),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4_u8).prop_map(Step::Attach),
        (0..4_u8, prop::sample::select(Phase::ALL.to_vec())).prop_map(|(a, p)| Step::State(a, p)),
        (0..4_u8).prop_map(Step::Detach),
        (1..20_000_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// Whatever happens: addresses are told once, a deadline is never in the past after a tick, and an agent that is
    /// told has said so itself.
    #[test]
    fn the_fleet_stays_sound(steps in steps()) {
        let mut fleet = Fleet::new(TIMING);
        let (mut now, mut serial, mut session) = (ms(0), 0, [Session(0); 4]);
        for step in steps {
            match step {
                Step::Attach(a) => {
                    serial += 1;
                    session[usize::from(a)] = Session(serial);
                    // Agents 0 and 1 claim the same address.
                    fleet.attach(now, Session(serial), identity(&a.to_string(), u16::from(a.max(1))));
                }
                Step::State(a, phase) => { fleet.state(now, session[usize::from(a)], phase, ()); }
                Step::Detach(a) => fleet.detach(now, session[usize::from(a)]),
                Step::Wait(wait) => now += ms(wait),
            }
            fleet.tick(now);
            let mut addresses: Vec<_> = fleet.agents().map(|a| a.identity.data_address).collect();
            let all = addresses.len();
            addresses.sort();
            addresses.dedup();
            prop_assert_eq!(addresses.len(), all);
            let lost: Vec<_> = fleet.agents().filter(|a| a.lost()).collect();
            prop_assert!(lost.iter().all(|a| !a.attached && a.told() == Told::Healthy));
            if let Some(deadline) = fleet.next_deadline(now) {
                prop_assert!(deadline > now);
            }
            prop_assert!(fleet.agents().all(|a| a.told() == Told::None || a.state.is_some()));
        }
        fleet.tick(now + ms(15_000));
        let forgotten = now + ms(15_000) + LOST_AT_MOST;
        fleet.tick(forgotten);
        prop_assert_eq!(fleet.agents().count(), 0, "everybody was silent for long enough");
    }
}

#[test]
fn two_living_agents_of_one_id_are_told_from_one_that_moved() {
    let elsewhere = |heard: u64, detached: bool, again: u16| {
        let mut fleet = Fleet::new(TIMING);
        fleet.attach(ms(0), Session(1), identity("a", 1));
        fleet.state(ms(heard), Session(1), Phase::Ready, ());
        if detached {
            fleet.detach(ms(10_000), Session(1));
        }
        match &fleet.attach(ms(10_100), Session(2), identity("a", again))[..] {
            [Displaced::SameId { elsewhere }] => elsewhere.map(|address| address.port()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(elsewhere(9_000, false, 2), Some(1));
    assert_eq!(elsewhere(9_000, false, 1), None, "a new stream of the same");
    assert_eq!(elsewhere(9_000, true, 2), None, "it had gone");
    assert_eq!(elsewhere(1_000, false, 2), None, "its machine was lost");
}
