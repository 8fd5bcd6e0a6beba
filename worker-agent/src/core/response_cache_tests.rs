use std::collections::HashMap;

use graticule_daemon::dice::Dice;

use super::*;

const SEEDS: u64 = 1000;
const STEPS: usize = 200;

const AGE: Duration = Duration::from_secs(60);

fn cache(max_bytes: usize, max_entry_bytes: usize) -> ResponseCache {
    ResponseCache::new(Limits {
        max_bytes,
        max_entry_bytes,
    })
}

fn answer(length: usize, cost_ms: u64) -> Arc<Stored> {
    Arc::new(Stored {
        status: 200,
        headers: Vec::new(),
        body: vec![b'x'; length].into(),
        cost: Duration::from_millis(cost_ms),
    })
}

fn key<'a>(version: &'a str, question: &'a str) -> Key<'a> {
    Key {
        project: "/srv/w.qgs",
        version,
        question,
    }
}

#[test]
fn an_answer_is_found_by_its_whole_question_until_it_is_too_old() {
    let (mut cache, now) = (cache(10_000, 5_000), Instant::now());
    assert_eq!(cache.get(now, key("1", "a")), None);
    assert!(cache.put(now, key("1", "a"), answer(10, 1), AGE));
    let later = now + Duration::from_secs(59);
    let hit = cache.get(later, key("1", "a")).unwrap();
    assert_eq!((hit.answer, hit.age), (answer(10, 1), Duration::from_secs(59)));
    for other in [
        key("1", "b"),
        key("2", "a"),
        key("", "a"),
        Key {
            project: "/srv/x.qgs",
            ..key("1", "a")
        },
    ] {
        assert_eq!(cache.get(later, other), None, "{other:?}");
    }
    assert_eq!(cache.get(now + AGE, key("1", "a")), None);
    let counters = cache.counters();
    assert_eq!(
        (counters.hits, counters.misses, counters.entries, counters.bytes),
        (1, 6, 0, 0)
    );
}

#[test]
fn a_new_version_takes_the_place_of_the_old() {
    let (mut cache, now) = (cache(100_000, 5_000), Instant::now());
    for question in ["a", "b", "c"] {
        assert!(cache.put(now, key("1", question), answer(10, 1), AGE));
    }
    let other = Key {
        project: "/srv/x.qgs",
        ..key("1", "a")
    };
    assert!(cache.put(now, other, answer(10, 1), AGE));
    assert!(cache.put(now, key("2", "a"), answer(20, 1), AGE));
    assert_eq!(cache.counters().entries, 2, "the other project's stays");
    assert_eq!(cache.get(now, key("1", "b")), None);
    assert_eq!(cache.get(now, key("2", "a")).unwrap().answer, answer(20, 1));
    cache.forget_project("/srv/w.qgs");
    assert_eq!(cache.get(now, key("2", "a")), None);
    assert!(cache.get(now, other).is_some());
    cache.clear();
    cache.check_invariants();
    assert_eq!(cache.get(now, other), None);
    assert_eq!(cache.counters().hits, 2, "counts go on");
}

#[test]
fn what_is_too_large_or_would_not_live_is_not_kept_and_leaves_no_older_answer() {
    let (mut cache, now) = (cache(10_000, 2_000), Instant::now());
    for (refused, age) in [(answer(2_000, 1), AGE), (answer(10, 1), Duration::ZERO)] {
        assert!(cache.put(now, key("1", "a"), answer(10, 1), AGE));
        assert!(!cache.put(now, key("1", "a"), refused, age));
        assert_eq!(cache.get(now, key("1", "a")), None, "the older answer is out of date");
    }
    let mut off = super::tests::cache(0, 2_000);
    assert!(!off.put(now, key("1", "a"), answer(0, 1), AGE));
}

#[test]
fn what_saves_the_least_work_for_its_size_makes_room() {
    let (mut cache, now) = (cache(20_000, 9_000), Instant::now());
    assert!(cache.put(now, key("1", "large and cheap"), answer(8_000, 50), AGE));
    assert!(cache.put(now, key("1", "large and dear"), answer(8_000, 5_000), AGE));
    assert!(cache.put(now, key("1", "small"), answer(100, 50), AGE));
    assert!(cache.put(now, key("1", "new"), answer(8_000, 100), AGE));
    assert_eq!(cache.get(now, key("1", "large and cheap")), None);
    for kept in ["large and dear", "small", "new"] {
        assert!(cache.get(now, key("1", kept)).is_some(), "{kept}");
    }
}

#[test]
fn what_was_wanted_once_gives_way_to_what_is_wanted_now() {
    let (mut cache, now) = (cache(10_000, 9_000), Instant::now());
    assert!(cache.put(now, key("1", "fame"), answer(4_000, 10), AGE));
    for _ in 0..20 {
        assert!(cache.get(now, key("1", "fame")).is_some());
    }
    let mut survived = 0;
    while cache.entries.keys().any(|text| text.ends_with("fame")) {
        let question = survived.to_string();
        assert!(cache.put(now, key("1", &question), answer(4_000, 10), AGE));
        survived += 1;
    }
    assert!(
        (10..40).contains(&survived),
        "{survived}: as many as it was used, roughly"
    );
}

/// What a cache may answer: the last that was put, while it may live and nobody made it forget.
#[derive(Default)]
struct Model {
    last: HashMap<String, (Arc<Stored>, Instant)>,
    version: HashMap<String, String>,
}

#[test]
fn any_history_keeps_within_the_limits_and_gives_only_what_was_put() {
    for seed in 1..=SEEDS {
        let run = std::panic::catch_unwind(|| simulate(seed));
        assert!(run.is_ok(), "seed {seed} failed; its own message stands above");
    }
}

fn simulate(seed: u64) {
    let mut dice = Dice::seeded(seed);
    let limits = Limits {
        max_bytes: usize::try_from(dice.roll(40_000)).unwrap(),
        max_entry_bytes: usize::try_from(dice.roll(20_000)).unwrap(),
    };
    let (mut cache, mut model) = (ResponseCache::new(limits), Model::default());
    let mut now = Instant::now();
    let (mut hits, mut misses) = (0, 0);
    for step in 0..STEPS {
        now += Duration::from_millis(dice.roll(400));
        let project = format!("/p{}", dice.roll(3));
        let version = dice.roll(3).to_string();
        let question = dice.roll(8).to_string();
        let key = Key {
            project: &project,
            version: &version,
            question: &question,
        };
        match dice.roll(20) {
            0 => {
                cache.forget_project(&project);
                model.last.retain(|text, _| !text.starts_with(&format!("{project}\0")));
            }
            1 if dice.roll(10) == 0 => {
                cache.clear();
                model.last.clear();
            }
            2..=8 => {
                // Each answer is another one, so that an old one is told from a new one.
                let mut stored = (*answer(usize::try_from(dice.roll(9_000)).unwrap(), dice.roll(2_000))).clone();
                stored.headers.push(("etag".into(), format!("\"{step}\"")));
                let (stored, age) = (Arc::new(stored), Duration::from_millis(dice.roll(10_000)));
                if model.version.get(&project).is_some_and(|held| *held != version) {
                    model.last.retain(|text, _| !text.starts_with(&format!("{project}\0")));
                }
                model.version.insert(project.clone(), version.clone());
                if cache.put(now, key, Arc::clone(&stored), age) {
                    model.last.insert(key.text(), (stored, now + age));
                    assert!(
                        cache.entries.contains_key(key.text().as_str()),
                        "what comes does not leave at once"
                    );
                } else {
                    model.last.remove(&key.text());
                }
            }
            _ => match cache.get(now, key) {
                None => misses += 1,
                Some(hit) => {
                    hits += 1;
                    let (last, end) = &model.last[&key.text()];
                    assert_eq!(hit.answer, *last);
                    assert!(now < *end, "too old");
                }
            },
        }
        cache.check_invariants();
        let counters = cache.counters();
        assert_eq!((counters.hits, counters.misses), (hits, misses));
    }
}
