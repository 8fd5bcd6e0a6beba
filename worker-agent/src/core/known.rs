//! What the storage said of projects, and for how long that is believed.
//!
//! A storage that does not answer costs nothing while a version is known, and the same question is not put to it again
//! and again. A project that was there and is not any more is told apart from one that never was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::message::ProjectRef;

/// How many projects are remembered.
const REMEMBERED: usize = 10_000;

/// What is not there, or does not answer, is asked again after this at the latest.
const BRIEFLY: Duration = Duration::from_secs(1);

/// A look that was begun in the background and did not end is begun again after this.
const LOST: Duration = Duration::from_secs(60);

/// What was seen of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// It is there.
    There(ProjectRef),
    /// It never was.
    Missing,
    /// It was there.
    Gone,
    /// The storage did not answer, and why.
    Trouble(String),
}

/// What to do with a request for a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Take this.
    Believe(Sight),
    /// Take this, and look again meanwhile.
    UseAndLook(ProjectRef),
    /// Look first.
    Look,
}

#[derive(Debug)]
struct Entry {
    sight: Sight,
    /// When the look began that showed it.
    begun: Instant,
    seen: Instant,
    /// When a look in the background began.
    looking: Option<Instant>,
    /// The storage said that it has changed.
    doubted: bool,
}

/// Projects as last seen, by name.
#[derive(Debug, Default)]
pub struct Known {
    entries: BTreeMap<String, Entry>,
}

impl Known {
    /// What to do with a request for `name` when sights are believed for so long; without a time, only trouble is.
    pub fn judge(&mut self, name: &str, believed: Option<Duration>, now: Instant) -> Verdict {
        let Some(entry) = self.entries.get_mut(name) else {
            return Verdict::Look;
        };
        let age = now.saturating_duration_since(entry.seen);
        if entry.doubted && believed.is_some() {
            return Verdict::Look;
        }
        match (&entry.sight, believed) {
            (Sight::Trouble(_), _) if age < BRIEFLY => Verdict::Believe(entry.sight.clone()),
            (Sight::Trouble(_), _) | (_, None) => Verdict::Look,
            (Sight::There(_), Some(believed)) if age < believed => Verdict::Believe(entry.sight.clone()),
            (Sight::There(project), Some(_)) => {
                if entry.looking.is_some_and(|since| now < since + LOST) {
                    return Verdict::Believe(entry.sight.clone());
                }
                entry.looking = Some(now);
                Verdict::UseAndLook(project.clone())
            }
            (_, Some(believed)) if age < believed.min(BRIEFLY) => Verdict::Believe(entry.sight.clone()),
            _ => Verdict::Look,
        }
    }

    /// Writes down what a look showed that began at `begun`, and says what it means: what was there before is gone, not missing,
    /// and serves on while there is trouble. What a later look has shown meanwhile counts, whichever ended first.
    pub fn saw(&mut self, name: &str, sight: Sight, begun: Instant, now: Instant) -> Sight {
        if let Some(entry) = self.entries.get(name).filter(|entry| begun < entry.begun) {
            return entry.sight.clone();
        }
        let before = self.entries.get(name).map(|entry| &entry.sight);
        let sight = match (sight, before) {
            (Sight::Missing, Some(Sight::There(_) | Sight::Gone)) => Sight::Gone,
            (Sight::Trouble(_), Some(Sight::There(project))) => Sight::There(project.clone()),
            (sight, _) => sight,
        };
        self.make_room(name);
        let entry = Entry {
            sight: sight.clone(),
            begun,
            seen: now,
            looking: None,
            doubted: false,
        };
        self.entries.insert(name.to_owned(), entry);
        sight
    }

    /// What was seen of the project with this uri is not believed any more; it is still served when the next look fails.
    pub fn forget(&mut self, uri: &str) {
        for entry in self.entries.values_mut() {
            entry.doubted |= matches!(&entry.sight, Sight::There(project) if project.uri == uri);
        }
    }

    /// The same for all that was seen.
    pub fn forget_all(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.doubted = true);
    }

    /// What was asked for in vain goes first: a client could fill the memory with it.
    fn make_room(&mut self, name: &str) {
        if self.entries.len() < REMEMBERED || self.entries.contains_key(name) {
            return;
        }
        let oldest = self.entries.iter().min_by_key(|(_, entry)| {
            let rank = match entry.sight {
                Sight::Missing | Sight::Trouble(_) => 0,
                Sight::Gone => 1,
                Sight::There(_) => 2,
            };
            (rank, entry.seen)
        });
        let oldest = oldest.map(|(name, _)| name.clone());
        self.entries.remove(&oldest.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BELIEVED: Option<Duration> = Some(Duration::from_secs(10));

    fn there(version: &str) -> Sight {
        Sight::There(ProjectRef {
            uri: "s3://b/x".into(),
            version: version.into(),
            file: None,
            begun: crate::core::message::Begun::default(),
        })
    }

    fn there_count(known: &Known) -> usize {
        let there = |entry: &&Entry| matches!(entry.sight, Sight::There(_));
        known.entries.values().filter(there).count()
    }

    fn later(seconds: u64) -> Instant {
        use std::sync::LazyLock;
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        *START + Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_seen_is_believed_for_a_while_and_then_used_during_one_look() {
        let mut known = Known::default();
        assert_eq!(known.judge("/x", BELIEVED, later(0)), Verdict::Look);
        assert_eq!(known.saw("/x", there("1"), later(0), later(0)), there("1"));
        assert_eq!(known.judge("/x", BELIEVED, later(9)), Verdict::Believe(there("1")));
        assert!(matches!(known.judge("/x", BELIEVED, later(10)), Verdict::UseAndLook(_)));
        assert_eq!(
            known.judge("/x", BELIEVED, later(11)),
            Verdict::Believe(there("1")),
            "one looks"
        );
        assert!(
            matches!(known.judge("/x", BELIEVED, later(71)), Verdict::UseAndLook(_)),
            "a lost look"
        );
        assert_eq!(known.saw("/x", there("2"), later(72), later(72)), there("2"));
        assert_eq!(known.judge("/x", BELIEVED, later(73)), Verdict::Believe(there("2")));
        assert_eq!(
            known.judge("/x", None, later(73)),
            Verdict::Look,
            "where looking is cheap"
        );
    }

    #[test]
    fn trouble_does_not_take_away_what_is_known() {
        let mut known = Known::default();
        known.saw("/x", there("1"), later(0), later(0));
        let trouble = Sight::Trouble("down".into());
        assert_eq!(known.saw("/x", trouble.clone(), later(20), later(20)), there("1"));
        assert_eq!(known.judge("/x", BELIEVED, later(21)), Verdict::Believe(there("1")));
        assert_eq!(known.saw("/y", trouble.clone(), later(0), later(0)), trouble);
        assert_eq!(
            known.judge("/y", BELIEVED, later(0)),
            Verdict::Believe(trouble),
            "not asked at once"
        );
        assert_eq!(known.judge("/y", BELIEVED, later(1)), Verdict::Look);
    }

    #[test]
    fn a_look_that_began_earlier_and_ended_later_takes_nothing_back() {
        let mut known = Known::default();
        assert_eq!(known.saw("/x", there("2"), later(2), later(3)), there("2"));
        for late in [there("1"), Sight::Missing, Sight::Trouble("down".into())] {
            assert_eq!(known.saw("/x", late, later(1), later(4)), there("2"));
        }
        assert_eq!(known.judge("/x", BELIEVED, later(12)), Verdict::Believe(there("2")));
        assert_eq!(known.saw("/x", there("3"), later(5), later(6)), there("3"));
    }

    #[test]
    fn what_was_there_is_gone_and_what_never_was_is_missing() {
        let mut known = Known::default();
        assert_eq!(known.saw("/x", Sight::Missing, later(0), later(0)), Sight::Missing);
        assert_eq!(known.judge("/x", BELIEVED, later(0)), Verdict::Believe(Sight::Missing));
        assert_eq!(known.judge("/x", BELIEVED, later(1)), Verdict::Look);
        known.saw("/x", there("1"), later(1), later(1));
        assert_eq!(known.saw("/x", Sight::Missing, later(2), later(2)), Sight::Gone);
        assert_eq!(known.saw("/x", Sight::Missing, later(3), later(3)), Sight::Gone);
        known.saw("/x", there("2"), later(4), later(4));
        assert_eq!(there_count(&known), 1);
    }

    #[test]
    fn what_is_said_to_have_changed_is_looked_at_and_not_lost() {
        let mut known = Known::default();
        known.saw("/x", there("1"), later(0), later(0));
        known.saw("/missing", Sight::Missing, later(0), later(0));
        known.forget("s3://b/other");
        assert_eq!(known.judge("/x", BELIEVED, later(0)), Verdict::Believe(there("1")));
        known.forget("s3://b/x");
        assert_eq!(known.judge("/x", BELIEVED, later(0)), Verdict::Look);
        // The look fails: what was there is served on.
        assert_eq!(
            known.saw("/x", Sight::Trouble("down".into()), later(0), later(0)),
            there("1")
        );
        assert_eq!(known.judge("/x", BELIEVED, later(0)), Verdict::Believe(there("1")));
        assert_eq!(
            known.judge("/missing", BELIEVED, later(0)),
            Verdict::Believe(Sight::Missing)
        );
        known.forget_all();
        assert_eq!(known.judge("/missing", BELIEVED, later(0)), Verdict::Look);
        assert_eq!(
            known.saw("/x", Sight::Missing, later(0), later(0)),
            Sight::Gone,
            "it was there"
        );
    }

    #[test]
    fn names_asked_in_vain_do_not_drive_out_projects() {
        let mut known = Known::default();
        known.saw("/x", there("1"), later(0), later(0));
        for n in 0..REMEMBERED + 10 {
            known.saw(&format!("/no/{n}"), Sight::Missing, later(1), later(1));
        }
        assert_eq!(known.entries.len(), REMEMBERED);
        assert_eq!(there_count(&known), 1);
    }
}
