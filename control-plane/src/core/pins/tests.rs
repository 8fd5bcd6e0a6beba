//! What becomes of a pin with each word of an agent.

use super::*;

fn key(project: &str, pool: &str) -> Key {
    let (project, pool) = (project.to_owned(), pool.to_owned());
    Key { project, pool }
}

fn pinned(keys: &[Key]) -> Pins {
    let desired = keys.iter().fold(Desired::default(), |desired, key| {
        desired.with(key.clone(), 7, 0).unwrap()
    });
    Pins::new(desired)
}

fn states(pins: &Pins, key: &Key) -> Vec<(String, State)> {
    pins.check_invariants();
    let agents = pins.agents(key).unwrap().into_iter();
    agents.map(|(id, state)| (id.to_owned(), state)).collect()
}

#[test]
fn a_change_has_a_revision_and_none_is_no_change() {
    let (one, two) = (key("/a", ""), key("/a", "maps"));
    let first = Desired::default().with(one.clone(), 7, 0).unwrap();
    assert_eq!((first.revision, first.pins[&one].since), (1, 7));
    assert_eq!(first.with(one.clone(), 8, 0), None);
    assert_eq!(first.without(&two), None);
    let both = first.with(two.clone(), 9, 0).unwrap();
    assert_eq!((both.revision, both.pins[&two].revision), (2, 2));
    let left = both.without(&one).unwrap();
    assert_eq!((left.revision, left.pins.len()), (3, 1));
}

#[test]
fn a_pool_is_told_what_concerns_it_and_each_project_once() {
    let pins = pinned(&[key("/b", "maps"), key("/a", ""), key("/b", ""), key("/c", "other")]);
    assert_eq!(pins.desired().of_pool("maps"), ["/a", "/b"]);
    assert_eq!(pins.desired().of_pool("other"), ["/a", "/b", "/c"]);
    assert_eq!(pins.desired().of_pool("default"), ["/a", "/b"]);
}

#[test]
fn each_word_of_an_agent_has_its_state() {
    let world = key("/world", "");
    let mut pins = pinned(std::slice::from_ref(&world));
    pins.attach("a", "default");
    assert_eq!(states(&pins, &world), [("a".to_owned(), State::Loading)]);
    let name = || vec!["/world".to_owned()];
    let problems = || BTreeMap::from([("/world".to_owned(), "no".to_owned())]);
    let taken = || Words {
        revision: 1,
        ..Words::default()
    };
    for (words, state) in [
        (taken(), State::Loading),
        (
            Words {
                loaded: name(),
                ..taken()
            },
            State::Loaded,
        ),
        (
            Words {
                problems: problems(),
                ..taken()
            },
            State::Failed("no".into()),
        ),
        (
            Words {
                missing: name(),
                problems: problems(),
                ..taken()
            },
            State::Missing("no".into()),
        ),
        // It has not taken the pin: whatever it says is of something else.
        (
            Words {
                revision: 0,
                loaded: name(),
                ..taken()
            },
            State::Loading,
        ),
    ] {
        assert!(pins.said("a", words.clone()));
        assert!(!pins.said("a", words));
        assert_eq!(states(&pins, &world), [("a".to_owned(), state)]);
    }
    assert!(!pins.said("nobody", taken()));
}

#[test]
fn words_from_before_a_restart_or_a_new_pin_do_not_count() {
    let world = key("/world", "");
    let mut pins = pinned(std::slice::from_ref(&world));
    pins.attach("a", "default");
    let loaded = |revision| Words {
        revision,
        loaded: vec!["/world".to_owned()],
        ..Words::default()
    };
    pins.said("a", loaded(1));
    assert_eq!(pins.counts(), (1, 0));
    pins.attach("a", "default");
    assert_eq!(
        (states(&pins, &world)[0].1.clone(), pins.counts()),
        (State::Loading, (1, 1))
    );
    pins.said("a", loaded(1));
    // Unpinned and pinned again, while the agent's word is still of the first pin.
    let without = pins.desired().without(&world).unwrap();
    let again = without.with(world.clone(), 8, 0).unwrap();
    assert!(pins.desire(again.clone()) && !pins.desire(without) && !pins.desire(again));
    assert_eq!(states(&pins, &world)[0].1, State::Loading);
    pins.said("a", loaded(3));
    assert_eq!(states(&pins, &world)[0].1, State::Loaded);
}

#[test]
fn who_is_gone_lacks_nothing() {
    let world = key("/world", "maps");
    let mut pins = pinned(std::slice::from_ref(&world));
    pins.attach("a", "maps");
    pins.attach("b", "other");
    assert_eq!((states(&pins, &world).len(), pins.counts()), (1, (1, 1)));
    assert!(pins.retain(|agent| agent == "b") && !pins.retain(|_| true));
    assert_eq!((states(&pins, &world).len(), pins.counts()), (0, (1, 0)));
    assert_eq!(pins.agents(&key("/world", "")), None);
}

#[test]
fn a_pin_may_be_for_some_agents_only() {
    let (of_all, of_maps) = (key("/world", ""), key("/world", "maps"));
    let desired = Desired::default().with(of_all.clone(), 7, 0).unwrap();
    let changed = desired.with(of_all.clone(), 9, 3).unwrap();
    assert_eq!(changed.pins[&of_all].since, 7);
    assert_eq!(changed.with(of_all.clone(), 9, 0), None, "it stays as it is");
    let replicas = |desired: &Desired, standard| desired.replicas("maps", standard)["/world"];
    assert_eq!(
        (replicas(&desired, 0), replicas(&desired, 2), replicas(&changed, 2)),
        (0, 2, 3)
    );
    let both = changed.with(of_maps, 9, 5).unwrap();
    assert_eq!(replicas(&both, 0), 5);

    let mut wished = Wished {
        desired: changed.clone(),
        ..Wished::default()
    };
    let place = ("maps".to_owned(), "/world".to_owned());
    wished.kept.insert(place, vec!["b".to_owned()]);
    assert_eq!(wished.of_agent("maps", "a"), Some(Vec::new()));
    assert_eq!(wished.of_agent("maps", "b"), Some(vec!["/world".to_owned()]));
    assert_eq!(
        wished.of_agent("other", "a"),
        Some(vec!["/world".to_owned()]),
        "all of them"
    );
    wished.partial.insert("maps".to_owned());
    wished.decided.insert("a".to_owned());
    assert_eq!(wished.of_agent("maps", "a"), Some(Vec::new()));
    assert_eq!(wished.of_agent("maps", "b"), None, "it has just come");

    let mut pins = Pins::new(changed);
    pins.attach("a", "maps");
    pins.attach("b", "maps");
    assert_eq!(pins.agents(&of_all).unwrap().len(), 2);
    assert!(pins.keep(wished.kept.clone()) && !pins.keep(wished.kept));
    assert_eq!(pins.agents(&of_all).unwrap(), [("b", State::Loading)]);
    pins.check_invariants();
}
