use graticule_daemon::dice::Dice;

use super::*;

const RULE: Rule = Rule {
    limit: 2,
    window: Duration::from_secs(600),
    duration: Duration::from_secs(300),
};

fn report(fingerprint: &str, ages: &[u64]) -> Report {
    Report {
        fingerprint: fingerprint.to_owned(),
        project: "/slow".to_owned(),
        request: "GET /ows/slow".to_owned(),
        reason: "crash".to_owned(),
        ages: ages.iter().copied().map(Duration::from_secs).collect(),
        rule: RULE,
    }
}

struct Fleet {
    quarantine: Quarantine,
    start: Instant,
    now: Instant,
}

impl Fleet {
    fn new() -> Self {
        let start = Instant::now() + Duration::from_secs(100_000);
        Self {
            quarantine: Quarantine::default(),
            start,
            now: start,
        }
    }

    fn at(&mut self, second: u64) -> &mut Self {
        self.now = self.start + Duration::from_secs(second);
        self
    }

    fn reports(&mut self, agent: &str, fingerprint: &str, ages: &[u64]) -> News {
        let news = self.quarantine.report(self.now, agent, report(fingerprint, ages));
        self.quarantine.check_invariants();
        news
    }

    fn clear(&mut self, fingerprint: &str, age: u64) -> (usize, bool) {
        let done = self.quarantine.clear(self.now, fingerprint, Duration::from_secs(age));
        self.quarantine.check_invariants();
        done
    }

    /// Each entry: its kills, whether it is refused, and for how many seconds.
    fn shows(&self) -> Vec<(String, usize, bool, u64)> {
        let entries = self.quarantine.entries().map(|entry| {
            let standing = entry.standing(self.now);
            (
                entry.fingerprint.clone(),
                entry.kills().len(),
                standing.refused(),
                standing.remaining(self.now).as_secs(),
            )
        });
        entries.collect()
    }
}

#[test]
fn kills_of_the_whole_fleet_are_counted_once_however_often_they_are_told() {
    let mut fleet = Fleet::new();
    assert_eq!(fleet.reports("a", "f", &[0]), News::Changed);
    assert_eq!(fleet.at(10).reports("a", "f", &[10]), News::Changed);
    assert_eq!(fleet.shows(), [("f".to_owned(), 1, false, 590)]);
    assert_eq!(fleet.reports("b", "f", &[0]), News::Refused);
    assert_eq!(fleet.reports("b", "f", &[0]), News::Changed);
    assert_eq!(fleet.shows(), [("f".to_owned(), 2, true, 590)]);
    assert_eq!(fleet.reports("b", "f", &[]), News::Changed, "b takes its part back");
    assert_eq!(fleet.shows(), [("f".to_owned(), 1, false, 590)]);
    assert_eq!(fleet.reports("b", "f", &[]), News::None);
    assert_eq!(fleet.reports("a", "f", &[]), News::Changed);
    assert!(fleet.shows().is_empty());
}

#[test]
fn entries_end_by_time() {
    let mut fleet = Fleet::new();
    fleet.reports("a", "f", &[]);
    assert_eq!(fleet.quarantine.next_deadline(fleet.now), None);
    fleet.reports("a", "f", &[100]);
    fleet.reports("b", "f", &[0]);
    let after = |fleet: &Fleet| {
        let next = fleet.quarantine.next_deadline(fleet.now);
        next.map(|next| next.duration_since(fleet.start).as_secs())
    };
    assert_eq!(after(&fleet), Some(500));
    fleet.at(499);
    assert!(!fleet.quarantine.tick(fleet.now));
    fleet.at(500);
    assert!(fleet.quarantine.tick(fleet.now), "one kill has left the window");
    assert_eq!(fleet.shows(), [("f".to_owned(), 1, false, 100)]);
    assert_eq!(after(&fleet), Some(600));
    fleet.at(600);
    assert!(fleet.quarantine.tick(fleet.now) && fleet.shows().is_empty());
    // Told too late, it is nothing any more.
    fleet.reports("c", "f", &[700, 650]);
    assert!(fleet.shows().is_empty());
}

#[test]
fn what_was_cleared_does_not_come_back() {
    let mut fleet = Fleet::new();
    for fingerprint in ["f", "g", "h"] {
        fleet.reports("a", fingerprint, &[1, 0]);
    }
    assert_eq!(fleet.at(5).clear("f", 0), (1, true));
    assert_eq!(fleet.clear("f", 0), (0, false));
    // An agent that was away tells what it remembers.
    assert_eq!(fleet.at(9).reports("b", "f", &[7]), News::None);
    assert_eq!(fleet.reports("b", "f", &[7, 1]), News::Changed);
    assert_eq!(
        fleet.shows()[0],
        ("f".to_owned(), 1, false, 599),
        "only the kill after the clearing"
    );
    assert_eq!(fleet.clear("", 2), (2, true), "all from before then");
    assert_eq!(fleet.shows().len(), 1);
    assert_eq!(fleet.clear("", 0), (1, true));
    assert_eq!(fleet.quarantine.cleared().iter().count(), 1);
}

/// Any reports of any agents: the invariants hold, time alone brings changes when it was said to, and in the end nothing
/// is left.
#[test]
fn whatever_agents_report_it_holds() {
    for seed in 1..=1000_u64 {
        let mut dice = Dice::seeded(seed);
        let mut fleet = Fleet::new();
        for step in 0..60 {
            let context = format!("seed {seed} step {step}");
            let later = fleet.now + Duration::from_millis(dice.pick(100_000) as u64);
            let next = fleet.quarantine.next_deadline(fleet.now);
            fleet.now = later;
            let changed = fleet.quarantine.tick(later);
            assert_eq!(changed, next.is_some_and(|next| next <= later), "{context}");
            let ages: Vec<u64> = (0..dice.pick(5)).map(|_| dice.pick(900) as u64).collect();
            let fingerprint = dice.pick(4).to_string();
            if dice.pick(10) == 0 {
                fleet.clear(&fingerprint, dice.pick(50) as u64);
            } else {
                fleet.reports(&dice.pick(40).to_string(), &fingerprint, &ages);
            }
            for (fingerprint, kills, refused, _) in fleet.shows() {
                assert!(!refused || kills >= 2, "{context}: {fingerprint} after {kills} kills");
            }
        }
        fleet.now += Duration::from_secs(900);
        fleet.quarantine.tick(fleet.now);
        assert!(fleet.shows().is_empty(), "seed {seed}");
    }
}

#[test]
fn a_hostile_agent_cannot_make_it_grow_or_displace_what_is_refused() {
    let mut fleet = Fleet::new();
    fleet.reports("a", "refused", &[0]);
    fleet.reports("b", "refused", &[0]);
    for n in 0..1000 {
        fleet.quarantine.report(
            fleet.now,
            &format!("{n}{}", "x".repeat(124)),
            Report {
                request: "é".repeat(100_000),
                ages: vec![Duration::from_secs(1); 1000],
                ..report("much", &[])
            },
        );
    }
    fleet.quarantine.check_invariants();
    fleet.at(1);
    for n in 0..2 * MAX_ENTRIES {
        let long = if n % 2 == 0 { 10_000 } else { 10 };
        fleet.quarantine.report(
            fleet.now,
            "hostile",
            Report {
                request: "x".repeat(long),
                ..report(&n.to_string(), &[0])
            },
        );
    }
    fleet.quarantine.check_invariants();
    assert!(fleet.quarantine.entries().count() > 1000);
    assert!(fleet.quarantine.entries().any(|entry| entry.fingerprint == "refused"));
    for n in 0..1000 {
        fleet.clear(&n.to_string(), 0);
    }
}

#[test]
fn what_was_known_before_is_added_to_what_agents_say_now() {
    let mut before = Fleet::new();
    before.at(0).reports("a", "1", &[0]);
    before.reports("b", "1", &[1]);
    before.reports("a", "2", &[0]);
    before.reports("gone", "3", &[0]);
    before.at(1).clear("2", 0);
    let mut fleet = Fleet::new();
    (fleet.start, fleet.now) = (before.start, before.start);
    // An agent has taken its kills back meanwhile, and another one has been sent again.
    fleet.at(10).reports("b", "1", &[11]);
    fleet.reports("a", "2", &[10]);
    let now = fleet.now;
    assert!(fleet.quarantine.remember(now, &before.quarantine));
    fleet.quarantine.check_invariants();
    let shown: Vec<_> = fleet
        .shows()
        .into_iter()
        .map(|(name, kills, ..)| (name, kills))
        .collect();
    assert_eq!(shown, [("1".to_owned(), 2), ("3".to_owned(), 1)], "2 was cleared");
    assert!(!fleet.quarantine.remember(now, &before.quarantine), "once is enough");
    // What is too old does not come back.
    let mut late = Quarantine::default();
    assert!(!late.remember(now + Duration::from_secs(5000), &before.quarantine) || late.entries().count() == 0);
}
