use super::*;

pub const RULE: Rule = Rule {
    limit: 2,
    window: Duration::from_secs(600),
    duration: Duration::from_secs(300),
};

pub fn culprit(fingerprint: &str) -> Culprit {
    Culprit {
        fingerprint: fingerprint.to_owned(),
        project: "/slow".to_owned(),
        request: "GET /ows/slow?REQUEST=GetMap".to_owned(),
        reason: "crash".to_owned(),
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

struct Agent {
    quarantine: Quarantine,
    start: Instant,
    now: Instant,
}

impl Agent {
    fn new() -> Self {
        let start = Instant::now() + seconds(100_000);
        let quarantine = Quarantine::new(start, "a", RULE);
        Self {
            quarantine,
            start,
            now: start,
        }
    }

    fn at(&mut self, second: u64) -> &mut Self {
        self.now = self.start + seconds(second);
        self
    }

    fn killed(&mut self, fingerprint: &str) -> Verdict {
        let verdict = self.quarantine.killed(self.now, culprit(fingerprint)).unwrap();
        self.quarantine.check_invariants();
        verdict
    }

    fn succeeded(&mut self, fingerprint: &str) -> bool {
        let changed = self.quarantine.succeeded(self.now, fingerprint);
        self.quarantine.check_invariants();
        changed
    }

    /// The fleet tells of kills with these ages, by agent.
    fn fleet(&mut self, fingerprint: &str, agents: &[(&str, &[u64])]) {
        let agents = agents
            .iter()
            .map(|(agent, ages)| ((*agent).to_owned(), ages.iter().copied().map(seconds).collect()));
        let fleet = Fleet {
            entries: vec![(culprit(fingerprint), agents.collect())],
            cleared: vec![],
        };
        self.quarantine.fleet(self.now, 0, fleet);
        self.quarantine.check_invariants();
    }

    fn refused(&self, fingerprint: &str) -> Option<u64> {
        self.quarantine
            .check(self.now, fingerprint)
            .err()
            .map(|remaining| remaining.as_secs())
    }

    /// The ages of the kills it has to tell of; `None` when it has nothing to say.
    fn tells(&mut self) -> Option<Vec<u64>> {
        let words = self.quarantine.words(self.now, 0);
        assert!(words.len() <= 1, "{words:?}");
        words.into_iter().next().map(|word| match word {
            Word::Killed(_, ages) => ages.iter().map(Duration::as_secs).collect(),
            Word::Cleared(..) => panic!("{word:?}"),
        })
    }
}

#[test]
fn two_kills_within_the_window_are_refused_until_they_no_longer_count() {
    let mut agent = Agent::new();
    assert_eq!(agent.refused("f"), None);
    assert_eq!(
        agent.killed("f"),
        Verdict {
            kills: 1,
            refused: false
        }
    );
    assert_eq!(agent.refused("f"), None, "only suspected");
    assert_eq!(
        agent.at(500).killed("f"),
        Verdict {
            kills: 2,
            refused: true
        }
    );
    assert_eq!(agent.refused("f"), Some(300));
    assert_eq!(agent.refused("other"), None);
    assert!(!agent.at(501).killed("f").refused, "it was refused before");
    assert_eq!(agent.at(1099).refused("f"), Some(1));
    assert_eq!(agent.at(1100).refused("f"), None);
    agent.at(1102);
    assert!(agent.quarantine.list(agent.now).is_empty());
}

#[test]
fn successes_outweigh_kills_that_came_before_them() {
    let mut agent = Agent::new();
    agent.killed("f");
    assert_eq!(agent.tells(), Some(vec![0]));
    assert!(agent.at(1).succeeded("f"), "nothing counts any more, and that is news");
    assert_eq!(agent.tells(), Some(vec![]));
    for _ in 0..1000 {
        assert!(!agent.succeeded("f"));
    }
    agent.at(2).killed("f");
    assert_eq!(agent.refused("f"), None);
    assert_eq!(
        agent.at(3).tells(),
        Some(vec![1]),
        "the kill after the successes counts"
    );
    // What was well for long and now kills is found as soon as what never was well.
    assert!(agent.at(4).killed("f").refused);
    assert_eq!(agent.tells(), Some(vec![2, 0]));
    // An answer that was under way lifts it again only when it outweighs: two kills, one success.
    agent.succeeded("f");
    assert!(agent.refused("f").is_some());
    agent.succeeded("f");
    assert_eq!(agent.refused("f"), None);
    assert_eq!(agent.tells(), Some(vec![]));
    assert!(!agent.succeeded("never killed"));
}

#[test]
fn kills_elsewhere_count() {
    let mut agent = Agent::new();
    agent.at(100).fleet("f", &[("b", &[50])]);
    assert_eq!(agent.refused("f"), None);
    assert!(!agent.succeeded("f"), "they were weighed where they happened");
    assert_eq!(
        agent.killed("f"),
        Verdict {
            kills: 2,
            refused: true
        }
    );
    assert_eq!(agent.refused("f"), Some(550));
    agent.fleet("f", &[("a", &[0])]);
    assert_eq!(agent.refused("f"), None, "b has withdrawn its kill");
    agent.fleet("f", &[("b", &[1]), ("c", &[2])]);
    assert_eq!(agent.tells(), Some(vec![0]), "only its own");
    let listed = agent.quarantine.list(agent.now);
    assert!(listed[0].refused && listed[0].culprit == culprit("f"));
    let agents: Vec<(&str, usize)> = listed[0].agents.iter().map(|(a, k)| (a.as_str(), k.len())).collect();
    assert_eq!(agents, [("a", 1), ("b", 1), ("c", 1)]);
    assert_eq!(agent.quarantine.counts(agent.now), (1, 0));
    agent.quarantine.fleet(agent.now, 0, Fleet::default());
    assert_eq!(agent.quarantine.counts(agent.now), (0, 1));
}

#[test]
fn a_restart_absolves_nobody() {
    let mut agent = Agent::new();
    agent.at(10).fleet("f", &[("a", &[30, 20])]);
    assert!(agent.refused("f").is_some(), "killed before this process began");
    agent.fleet("f", &[("a", &[30, 20])]);
    agent.quarantine.tell_all(0);
    assert_eq!(agent.tells(), Some(vec![30, 20]));
    // What the fleet says of this process itself is only what this process told it.
    agent.fleet("g", &[("a", &[5, 4])]);
    assert_eq!(agent.refused("g"), None);
}

#[test]
fn a_new_stream_is_told_everything_again() {
    let mut agent = Agent::new();
    agent.killed("f");
    assert_eq!(agent.tells(), Some(vec![0]));
    assert_eq!(agent.tells(), None);
    agent.at(5).quarantine.tell_all(0);
    assert_eq!(agent.tells(), Some(vec![5]));
    agent.succeeded("f");
    assert_eq!(agent.tells(), Some(vec![]));
    agent.quarantine.tell_all(0);
    assert_eq!(
        agent.tells(),
        Some(vec![]),
        "the control plane may still have what it was told before"
    );
}

#[test]
fn what_is_cleared_here_is_cleared_everywhere_and_stays_so() {
    let mut agent = Agent::new();
    agent.at(10).fleet("f", &[("b", &[3, 2])]);
    agent.killed("g");
    agent.killed("f");
    assert_eq!(agent.quarantine.clear(agent.now, "f"), 1);
    assert_eq!(agent.quarantine.clear(agent.now, "f"), 0);
    assert_eq!(agent.refused("f"), None);
    // A message that was on its way brings nothing back.
    agent.at(11).fleet("f", &[("b", &[4, 3])]);
    assert_eq!(agent.quarantine.list(agent.now).len(), 1, "only the other one");
    let words = agent.quarantine.words(agent.now, 0);
    assert_eq!(words[0], Word::Cleared("f".to_owned(), seconds(1)));
    assert!(matches!(&words[1], Word::Killed(culprit, _) if culprit.fingerprint == "g"));
    assert_eq!(words.len(), 2);
    agent.quarantine.tell_all(0);
    assert_eq!(agent.quarantine.words(agent.now, 0), words);
    // Kills after the clearing count.
    agent.at(20).killed("f");
    assert!(agent.at(21).killed("f").refused);
    // Cleared elsewhere: all.
    agent.at(30);
    agent.quarantine.fleet(
        agent.now,
        0,
        Fleet {
            entries: vec![],
            cleared: vec![(String::new(), seconds(1))],
        },
    );
    assert!(agent.quarantine.list(agent.now).is_empty());
    agent.killed("h");
    agent.killed("h");
    assert_eq!(agent.quarantine.clear(agent.now, ""), 1);
    assert_eq!(agent.refused("h"), None);
}

#[test]
fn it_can_be_turned_off() {
    let start = Instant::now();
    let mut quarantine = Quarantine::new(start, "a", Rule { limit: 0, ..RULE });
    assert_eq!(quarantine.killed(start, culprit("f")), None);
    let agents = vec![("b".to_owned(), vec![Duration::ZERO; 9])];
    quarantine.fleet(
        start,
        0,
        Fleet {
            entries: vec![(culprit("f"), agents)],
            cleared: vec![],
        },
    );
    quarantine.check_invariants();
    assert!(quarantine.check(start, "f").is_ok() && quarantine.words(start, 0).is_empty());
}

#[test]
fn it_is_bounded_and_forgets_the_unrefused_first() {
    let mut agent = Agent::new();
    agent.killed("refused");
    agent.killed("refused");
    for n in 0..2 * MAX_OWN {
        agent
            .quarantine
            .killed(agent.now + Duration::from_millis(n as u64), culprit(&n.to_string()));
    }
    agent.at(5);
    agent.quarantine.check_invariants();
    let known = agent.quarantine.list(agent.now).len();
    assert!((MAX_OWN / 2..=MAX_OWN).contains(&known), "{known}");
    assert!(agent.refused("refused").is_some());
    for _ in 0..1000 {
        agent.killed("refused");
    }
    let long = Culprit {
        request: "é".repeat(5000),
        ..culprit("long")
    };
    agent.quarantine.killed(agent.now, long);
    let kills = |n: usize| vec![Duration::ZERO; n];
    let entries = (0..2 * MAX_FLEET).map(|n| (culprit(&format!("fleet {n}")), vec![("b".to_owned(), kills(1000))]));
    let entries: Vec<_> = entries
        .chain([(culprit("f"), (0..1000).map(|n| (n.to_string(), kills(1))).collect())])
        .collect();
    agent.quarantine.fleet(
        agent.now,
        0,
        Fleet {
            entries,
            cleared: vec![(String::new(), seconds(100)); 10_000],
        },
    );
    agent.quarantine.check_invariants();
}

/// What a control plane tells: kills of "f" on another agent, by their ages in milliseconds, and clearings.
fn told(kills: &[u64], cleared: &[(&str, u64)]) -> Fleet {
    let ages = kills.iter().copied().map(Duration::from_millis).collect();
    let cleared = cleared.iter();
    Fleet {
        entries: vec![(culprit("f"), vec![("b".to_owned(), ages)])],
        cleared: cleared
            .map(|(fingerprint, age)| ((*fingerprint).to_owned(), Duration::from_millis(*age)))
            .collect(),
    }
}

#[test]
fn a_kill_that_two_control_planes_tell_of_is_one() {
    let mut agent = Agent::new();
    let quarantine = &mut agent.at(10).quarantine;
    let now = Instant::now() + seconds(1000);
    quarantine.fleet(now, 0, told(&[5000], &[]));
    quarantine.fleet(now, 1, told(&[4990], &[]));
    quarantine.check_invariants();
    assert_eq!(quarantine.counts(now), (0, 1), "two would refuse it");
    quarantine.fleet(now, 1, told(&[4990, 10], &[]));
    assert_eq!(quarantine.counts(now), (1, 0), "who knows of more counts");
    // One that has gone does not keep what the other has dropped.
    quarantine.lost(1);
    assert_eq!(quarantine.counts(now), (0, 1));
    quarantine.lost(0);
    assert_eq!(quarantine.counts(now), (0, 1), "with nobody there all stays as it is");
    quarantine.fleet(now, 1, Fleet::default());
    assert_eq!(quarantine.counts(now), (0, 0));
    quarantine.check_invariants();
}

#[test]
fn each_control_plane_is_told_all_and_what_was_cleared_at_the_other() {
    let mut agent = Agent::new();
    agent.at(5).killed("f");
    let now = agent.now;
    let quarantine = &mut agent.quarantine;
    assert_eq!((quarantine.words(now, 0).len(), quarantine.words(now, 1).len()), (1, 1));
    assert!(quarantine.words(now, 0).is_empty() && quarantine.words(now, 1).is_empty());
    let now = now + seconds(1);
    quarantine.fleet(now, 0, told(&[], &[("f", 10)]));
    assert_eq!(quarantine.counts(now), (0, 0));
    assert!(quarantine.words(now, 0).is_empty(), "it has said so itself");
    let passed_on = [Word::Cleared("f".to_owned(), Duration::from_millis(10))];
    assert_eq!(quarantine.words(now, 1), passed_on);
    // The other one repeats it, a little later: that is no news for the first.
    quarantine.fleet(now, 1, told(&[], &[("f", 2)]));
    assert!(quarantine.words(now, 0).is_empty() && quarantine.words(now, 1).is_empty());
    // Restarted with nothing, it is told once more.
    quarantine.lost(1);
    quarantine.tell_all(1);
    quarantine.fleet(now, 1, Fleet::default());
    assert_eq!(quarantine.words(now, 1), passed_on);
    // Cleared again some time later is another clearing.
    let now = now + seconds(30);
    quarantine.fleet(now, 0, told(&[], &[("f", 0)]));
    assert_eq!(
        quarantine.words(now, 1),
        [Word::Cleared("f".to_owned(), Duration::ZERO)]
    );
}
