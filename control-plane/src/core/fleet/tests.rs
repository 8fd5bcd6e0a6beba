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
    assert!(fleet.tick(ms(3499)).is_empty());
    assert_eq!(told(&fleet), [("a", Told::Healthy)]);
    assert!(!fleet.agents().next().unwrap().attached);
    assert_eq!(fleet.tick(ms(3500)), ["a"]);
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
    assert_eq!(fleet.attach(ms(200), Session(2), identity("a", 1)), [Displaced::SameId]);
    assert_eq!(
        told(&fleet),
        [("a", Told::Healthy)],
        "its last word holds until the next"
    );
    assert!(fleet.tick(ms(10_000)).is_empty());
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
    assert!(fleet.tick(ms(16_000)).is_empty());
    assert!(!fleet.agents().next().unwrap().attached);
    assert!(fleet.state(ms(16_100), Session(1), Phase::Ready, ()));
    assert!(fleet.tick(ms(16_600)).is_empty());
    assert_eq!(fleet.tick(ms(31_600)), ["a"], "limit and grace are both over");
}

#[test]
fn nothing_is_published_before_the_sync_window_is_over() {
    let fleet: Fleet<()> = Fleet::new(TIMING);
    assert!(!fleet.synced(ms(1999)));
    assert_eq!(fleet.next_deadline(ms(0)), Some(ms(2000)));
    assert!(fleet.synced(ms(2000)));
    assert_eq!(fleet.next_deadline(ms(2000)), None);
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
            if let Some(deadline) = fleet.next_deadline(now) {
                prop_assert!(deadline > now);
            }
            prop_assert!(fleet.agents().all(|a| a.told() == Told::None || a.state.is_some()));
        }
        fleet.tick(now + ms(15_500));
        prop_assert_eq!(fleet.agents().count(), 0, "everybody was silent for long enough");
    }
}
