//! The documents of the store as text: JSON that people can read and, at night, repair. Each says its format first, so that
//! a later version's is known for what it is.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use graticule_daemon::quarantine::{MAX_KILLS, Rule, is_fingerprint};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Kind, StoreError};
use crate::core::pins::{Desired, Key, Pin};
use crate::core::quarantine::{Entry, Quarantine};
use crate::core::settings::Settings;

/// The format that is written.
pub const FORMAT: u64 = 1;

/// One moment on both clocks: what is kept is in seconds since 1970, what counts is not moved when that clock is set.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The clock that decisions use.
    pub instant: Instant,
    /// Since 1970.
    pub wall: Duration,
}

impl Now {
    /// This moment, read from both.
    #[must_use]
    pub fn read() -> Self {
        Self {
            instant: Instant::now(),
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// Seconds since 1970, to the millisecond.
    fn seconds(&self, at: Instant) -> f64 {
        let wall = self.wall.saturating_sub(self.instant.saturating_duration_since(at));
        (wall.as_secs_f64() * 1000.0).round() / 1000.0
    }

    /// What lies in the future, because the clock was set back, is now.
    fn instant(&self, seconds: f64) -> Option<Instant> {
        let age = self.wall.saturating_sub(Duration::try_from_secs_f64(seconds).ok()?);
        Some(self.instant.checked_sub(age).unwrap_or(self.instant))
    }
}

/// What is kept as one document.
pub trait Document: Clone + Default + Send + Sync + 'static {
    /// Which one it is.
    const KIND: Kind;
    /// How it is written.
    type Form: Serialize + DeserializeOwned + Send;

    /// Its revision, where changes are counted.
    fn revision(&self) -> Option<u64>;
    /// Adds what another one knows; only where changes are not counted.
    fn add(&mut self, other: Self, now: Now);
    /// As it is written.
    fn form(&self, now: Now) -> Self::Form;
    /// As it was written.
    ///
    /// # Errors
    /// What does not add up.
    fn from_form(form: Self::Form, now: Now) -> Result<Self, String>;
}

/// The format alone, which every version of this program can read.
#[derive(Deserialize)]
struct Head {
    format: u64,
}

#[derive(Serialize, Deserialize)]
struct Whole<F> {
    format: u64,
    #[serde(flatten)]
    form: F,
}

/// A document's text.
pub fn text<D: Document>(document: &D, now: Now) -> String {
    let whole = Whole {
        format: FORMAT,
        form: document.form(now),
    };
    // A tree of texts and numbers always has one.
    let mut text = serde_json::to_string_pretty(&whole).unwrap_or_default();
    text.push('\n');
    text
}

/// Reads a document's text; `place` says where it was.
///
/// # Errors
/// When it is damaged, or of a later format.
pub fn parse<D: Document>(text: &str, now: Now, place: &str) -> Result<D, StoreError> {
    let damaged = |problem: String| StoreError::Damaged {
        place: place.to_owned(),
        kind: D::KIND,
        problem,
    };
    let Head { format: found } = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
    if found > FORMAT {
        let place = place.to_owned();
        return Err(StoreError::Later {
            place,
            found,
            known: FORMAT,
        });
    }
    // The format has been read, and what is left must be the form and nothing else.
    let mut fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
    fields.remove("format");
    let form = serde_json::from_value(Value::Object(fields)).map_err(|error| damaged(error.to_string()))?;
    D::from_form(form, now).map_err(damaged)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinsForm {
    revision: u64,
    pins: Vec<PinForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinForm {
    project: String,
    pool: String,
    since: u64,
    revision: u64,
    #[serde(default, skip_serializing_if = "is_open")]
    replicas: u32,
}

/// Not written where it was not said, so that versions that do not know of it can read such a store.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_open(replicas: &u32) -> bool {
    *replicas == 0
}

impl Document for Desired {
    const KIND: Kind = Kind::Pins;
    type Form = PinsForm;

    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }

    fn add(&mut self, other: Self, _: Now) {
        *self = other;
    }

    fn form(&self, _: Now) -> PinsForm {
        let pins = self.pins.iter().map(|(key, pin)| PinForm {
            project: key.project.clone(),
            pool: key.pool.clone(),
            since: pin.since,
            revision: pin.revision,
            replicas: pin.replicas,
        });
        PinsForm {
            revision: self.revision,
            pins: pins.collect(),
        }
    }

    fn from_form(form: PinsForm, _: Now) -> Result<Self, String> {
        let all = form.revision;
        let mut desired = Self {
            revision: all,
            ..Self::default()
        };
        for PinForm {
            project,
            pool,
            since,
            revision,
            replicas,
        } in form.pins
        {
            if !(1..=all).contains(&revision) {
                return Err(format!("the pin of {project} has revision {revision} of {all}"));
            }
            let key = Key { project, pool };
            if desired.pins.contains_key(&key) {
                return Err(format!("{} is in it twice", key.project));
            }
            let pin = Pin {
                since,
                revision,
                replicas,
            };
            desired.pins.insert(key, pin);
        }
        Ok(desired)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsForm {
    revision: u64,
    settings: Map<String, Value>,
}

impl Document for Settings {
    const KIND: Kind = Kind::Settings;
    type Form = SettingsForm;

    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }

    fn add(&mut self, other: Self, _: Now) {
        *self = other;
    }

    fn form(&self, _: Now) -> SettingsForm {
        SettingsForm {
            revision: self.revision,
            settings: self.tree.clone(),
        }
    }

    fn from_form(form: SettingsForm, _: Now) -> Result<Self, String> {
        Ok(Self {
            revision: form.revision,
            tree: form.settings,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuarantineForm {
    entries: Vec<EntryForm>,
    cleared: Vec<ClearForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryForm {
    fingerprint: String,
    project: String,
    request: String,
    reason: String,
    limit: u32,
    window_seconds: f64,
    refuse_seconds: f64,
    /// The times of the kills in seconds since 1970, by agent.
    agents: std::collections::BTreeMap<String, Vec<f64>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClearForm {
    fingerprint: String,
    at: f64,
}

impl Document for Quarantine {
    const KIND: Kind = Kind::Quarantine;
    type Form = QuarantineForm;

    fn revision(&self) -> Option<u64> {
        None
    }

    fn add(&mut self, other: Self, now: Now) {
        self.remember(now.instant, &other);
    }

    fn form(&self, now: Now) -> QuarantineForm {
        let entries = self.entries().map(|entry| EntryForm {
            fingerprint: entry.fingerprint.clone(),
            project: entry.project.clone(),
            request: entry.request.clone(),
            reason: entry.reason.clone(),
            limit: entry.rule.limit,
            window_seconds: entry.rule.window.as_secs_f64(),
            refuse_seconds: entry.rule.duration.as_secs_f64(),
            agents: entry
                .agents
                .iter()
                .map(|(agent, kills)| (agent.clone(), kills.iter().map(|kill| now.seconds(*kill)).collect()))
                .collect(),
        });
        let cleared = self.cleared().iter().map(|clear| ClearForm {
            fingerprint: clear.fingerprint.clone(),
            at: now.seconds(clear.at),
        });
        QuarantineForm {
            entries: entries.collect(),
            cleared: cleared.collect(),
        }
    }

    fn from_form(form: QuarantineForm, now: Now) -> Result<Self, String> {
        let time = |seconds: f64| now.instant(seconds).ok_or_else(|| format!("{seconds} is no time"));
        let span =
            |seconds: f64| Duration::try_from_secs_f64(seconds).map_err(|_| format!("{seconds} is no time span"));
        let mut found = Self::default();
        for entry in form.entries {
            if !is_fingerprint(&entry.fingerprint) {
                return Err(format!("`{}` is no fingerprint", entry.fingerprint));
            }
            if entry.limit == 0 || entry.limit as usize > MAX_KILLS {
                return Err(format!("{} has the limit {}", entry.fingerprint, entry.limit));
            }
            let mut agents = std::collections::BTreeMap::new();
            for (agent, kills) in entry.agents {
                let mut kills = kills.into_iter().map(time).collect::<Result<Vec<_>, _>>()?;
                kills.sort_unstable();
                agents.insert(agent, kills);
            }
            found.put(Entry {
                fingerprint: entry.fingerprint,
                project: entry.project,
                request: entry.request,
                reason: entry.reason,
                rule: Rule {
                    limit: entry.limit,
                    window: span(entry.window_seconds)?,
                    duration: span(entry.refuse_seconds)?,
                },
                agents,
            });
        }
        let mut cleared = Vec::new();
        for clear in form.cleared {
            cleared.push((clear.fingerprint, time(clear.at)?));
        }
        for (fingerprint, at) in cleared {
            found.clear(now.instant, &fingerprint, now.instant.saturating_duration_since(at));
        }
        Ok(found)
    }
}
