//! The agent's one quarantine, shared by those who ask it, those who feed it and the links that tell the fleet. The
//! decisions are [`core::quarantine`](crate::core::quarantine)'s; here are the clock, the lock, the log and the messages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use graticule_daemon::quarantine::Rule;
use graticule_proto::v1::agent_update::Update;
use graticule_proto::v1::{FleetQuarantine, QuarantineCleared, WorkerKilled};
use tokio::sync::watch;

use crate::core::ogc::Refusal;
use crate::core::quarantine::{Culprit, Fleet, Listed, Place, Quarantine, Word};

/// The quarantine; clones share it.
#[derive(Clone)]
pub struct QuarantineHandle {
    inner: Arc<Inner>,
}

struct Inner {
    quarantine: Mutex<Quarantine>,
    /// There is something to tell the fleet.
    news: watch::Sender<()>,
    /// How often a request came to be refused, and nobody has counted it yet.
    refused: AtomicU64,
}

impl QuarantineHandle {
    /// An empty one for the agent of that name.
    #[must_use]
    pub fn new(agent: &str, rule: Rule) -> Self {
        Self {
            inner: Arc::new(Inner {
                quarantine: Mutex::new(Quarantine::new(Instant::now(), agent, rule)),
                news: watch::channel(()).0,
                refused: AtomicU64::new(0),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Quarantine> {
        self.inner.quarantine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges by another rule from now on.
    pub fn set_rule(&self, rule: Rule) {
        self.lock().set_rule(rule);
        // What counts by the new rule is told anew.
        self.lock().tell_everybody();
        self.inner.news.send_replace(());
    }

    /// Whether a request may be put to a worker.
    ///
    /// # Errors
    /// [`Refusal::Quarantined`].
    pub fn check(&self, fingerprint: &str) -> Result<(), Refusal> {
        let checked = self.lock().check(Instant::now(), fingerprint);
        checked.map_err(|remaining| Refusal::Quarantined {
            fingerprint: fingerprint.to_owned(),
            seconds: u32::try_from(remaining.as_secs().saturating_add(1)).unwrap_or(u32::MAX),
        })
    }

    /// A request has killed its worker, or made it necessary to kill it. `request` gives its text without secrets.
    pub fn killed(&self, fingerprint: &str, project: &str, reason: &str, request: impl FnOnce() -> String) {
        let request = request();
        let culprit = Culprit {
            fingerprint: fingerprint.to_owned(),
            project: project.to_owned(),
            request: request.clone(),
            reason: reason.to_owned(),
        };
        let Some(verdict) = self.lock().killed(Instant::now(), culprit) else {
            return;
        };
        self.inner.news.send_replace(());
        let kills = verdict.kills;
        if verdict.refused {
            self.inner.refused.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                fingerprint,
                project,
                request,
                reason,
                kills,
                "a request has killed too many workers and is refused for a while; see docs/quarantine.md"
            );
        } else {
            tracing::warn!(
                fingerprint,
                project,
                request,
                reason,
                kills,
                "a request has killed a worker"
            );
        }
    }

    /// A worker has answered a request.
    pub fn succeeded(&self, fingerprint: &str) {
        if self.lock().succeeded(Instant::now(), fingerprint) {
            self.inner.news.send_replace(());
        }
    }

    /// What there is against anybody: the refused first, then the latest first.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        self.lock().list(Instant::now())
    }

    /// How many fingerprints are refused, and how many are suspected.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.lock().counts(Instant::now())
    }

    /// How often kills on this agent made a request refused since this was last asked.
    #[must_use]
    pub fn take_refused(&self) -> u64 {
        self.inner.refused.swap(0, Ordering::Relaxed)
    }

    /// Lets a fingerprint through again, or all when it is empty, here and in the fleet. Says how many entries there were.
    #[must_use]
    pub fn clear(&self, fingerprint: &str) -> usize {
        let cleared = self.lock().clear(Instant::now(), fingerprint);
        self.inner.news.send_replace(());
        tracing::info!(fingerprint, cleared, "the quarantine was cleared");
        cleared
    }

    /// The end for the link to the control plane at this place of the configuration.
    #[must_use]
    pub fn link(&self, place: Place) -> QuarantineLink {
        QuarantineLink {
            handle: self.clone(),
            place,
            news: self.inner.news.subscribe(),
        }
    }
}

/// The end for one link.
pub struct QuarantineLink {
    handle: QuarantineHandle,
    place: Place,
    news: watch::Receiver<()>,
}

impl QuarantineLink {
    /// A new stream begins: everything is to be told again.
    pub fn begin(&mut self) {
        self.handle.lock().tell_all(self.place);
        self.news.mark_changed();
    }

    /// The stream has ended.
    pub fn end(&self) {
        self.handle.lock().lost(self.place);
    }

    /// Waits until there is something to tell. May be woken for nothing.
    pub async fn changed(&mut self) {
        // The handle has the sender.
        let _ = self.news.changed().await;
    }

    /// What the control plane has not been told on this stream.
    #[must_use]
    pub fn updates(&self) -> Vec<Update> {
        let mut quarantine = self.handle.lock();
        let rule = quarantine.rule();
        let words = quarantine.words(Instant::now(), self.place).into_iter();
        words.map(|word| update(word, rule)).collect()
    }

    /// Takes what the control plane tells.
    pub fn take(&self, told: FleetQuarantine) {
        let told = fleet(told);
        // Another control plane may not know what was cleared at this one.
        let news = !told.cleared.is_empty();
        self.handle.lock().fleet(Instant::now(), self.place, told);
        if news {
            self.handle.inner.news.send_replace(());
        }
    }
}

fn update(word: Word, rule: Rule) -> Update {
    match word {
        Word::Killed(culprit, ages) => Update::Killed(WorkerKilled {
            fingerprint: culprit.fingerprint,
            project: culprit.project,
            request: culprit.request,
            reason: culprit.reason,
            ages_seconds: ages.iter().map(Duration::as_secs_f64).collect(),
            window_seconds: rule.window.as_secs_f64(),
            refuse_seconds: rule.duration.as_secs_f64(),
            limit: rule.limit,
        }),
        Word::Cleared(fingerprint, age) => Update::Cleared(QuarantineCleared {
            fingerprint,
            age_seconds: age.as_secs_f64(),
        }),
    }
}

/// What makes no sense as an age is left out.
fn fleet(told: FleetQuarantine) -> Fleet {
    let age = |seconds: f64| Duration::try_from_secs_f64(seconds).ok();
    let entries = told.entries.into_iter().map(|entry| {
        let agents = entry.agents.into_iter();
        let agents = agents.map(|(agent, kills)| (agent, kills.ages_seconds.into_iter().filter_map(age).collect()));
        let culprit = Culprit {
            fingerprint: entry.fingerprint,
            project: entry.project,
            request: entry.request,
            reason: entry.reason,
        };
        (culprit, agents.collect())
    });
    let cleared = told.cleared.into_iter();
    Fleet {
        entries: entries.collect(),
        cleared: cleared
            .filter_map(|cleared| Some((cleared.fingerprint, age(cleared.age_seconds)?)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule {
        limit: 2,
        window: Duration::from_secs(600),
        duration: Duration::from_secs(300),
    };

    /// What one agent tells another by way of a control plane that hands it on as it is.
    #[tokio::test]
    async fn a_kill_here_and_one_there_are_two() {
        let (here, there) = (QuarantineHandle::new("a", RULE), QuarantineHandle::new("b", RULE));
        let (mut up, down) = (here.link(0), there.link(0));
        here.killed("f", "/slow", "crash", || "GET /".to_owned());
        up.changed().await;
        let [Update::Killed(killed)] = &up.updates()[..] else {
            panic!("one word");
        };
        assert!(up.updates().is_empty());
        let kills = graticule_proto::v1::AgentKills {
            ages_seconds: killed.ages_seconds.iter().copied().chain([f64::NAN, -1.0]).collect(),
        };
        down.take(FleetQuarantine {
            entries: vec![graticule_proto::v1::QuarantineEntry {
                fingerprint: killed.fingerprint.clone(),
                agents: [("a".to_owned(), kills)].into(),
                ..Default::default()
            }],
            cleared: vec![],
        });
        assert!(there.check("f").is_ok());
        there.killed("f", "/slow", "crash", || "GET /".to_owned());
        let refusal = there.check("f").unwrap_err();
        assert!(matches!(refusal, Refusal::Quarantined { ref fingerprint, seconds: 590..=601 } if fingerprint == "f"));
        assert_eq!(
            (there.take_refused(), there.take_refused(), there.counts()),
            (1, 0, (1, 0))
        );
        assert_eq!(there.clear(""), 1);
        assert!(there.check("f").is_ok());
        assert!(matches!(&down.updates()[..], [Update::Cleared(cleared)] if cleared.fingerprint.is_empty()));
    }
}
