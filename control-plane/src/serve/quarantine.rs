//! The quarantine in the words of the contract: what agents report of it is checked, and what is known of it becomes
//! messages. Times are ages on the way, because clocks differ.

use std::time::{Duration, Instant};

use graticule_daemon::quarantine::{MAX_KILLS, Rule, is_fingerprint};
use graticule_proto::v1::{
    AgentIntent, AgentKills, FleetQuarantine, QuarantineCleared, QuarantineEntry, WorkerKilled, agent_intent,
};

use crate::core::quarantine::{Entry, Quarantine, Report};

/// The longest window, duration or age, in seconds: a day, as in the agents' configuration, and one more to have passed.
const LONGEST: f64 = 2.0 * 86_400.0;

/// What an agent reports, checked.
pub fn report(killed: WorkerKilled) -> Result<Report, String> {
    if !is_fingerprint(&killed.fingerprint) {
        return Err(wrong_fingerprint("killed.fingerprint", &killed.fingerprint));
    }
    if killed.limit == 0 || killed.limit as usize > MAX_KILLS {
        return Err(format!("killed.limit {}: expected 1 to {MAX_KILLS}", killed.limit));
    }
    let rule = Rule {
        limit: killed.limit,
        window: seconds("killed.window_seconds", killed.window_seconds)?,
        duration: seconds("killed.refuse_seconds", killed.refuse_seconds)?,
    };
    let ages = killed.ages_seconds.into_iter().take(MAX_KILLS);
    Ok(Report {
        fingerprint: killed.fingerprint,
        project: killed.project,
        request: killed.request,
        reason: killed.reason,
        ages: ages
            .map(|age| seconds("killed.ages_seconds", age))
            .collect::<Result<_, _>>()?,
        rule,
    })
}

/// What an agent says was cleared there, checked, and how long ago.
pub fn cleared(cleared: QuarantineCleared) -> Result<(String, Duration), String> {
    let age = seconds("cleared.age_seconds", cleared.age_seconds)?;
    Ok((fingerprint_or_all(cleared.fingerprint)?, age))
}

/// A fingerprint, or nothing for all of them.
pub fn fingerprint_or_all(fingerprint: String) -> Result<String, String> {
    if fingerprint.is_empty() || is_fingerprint(&fingerprint) {
        Ok(fingerprint)
    } else {
        Err(wrong_fingerprint("fingerprint", &fingerprint))
    }
}

fn wrong_fingerprint(field: &str, value: &str) -> String {
    let start: String = value.chars().take(40).collect();
    format!("{field} `{start}`: expected 16 hexadecimal digits in small letters")
}

fn seconds(field: &str, value: f64) -> Result<Duration, String> {
    if (0.0..=LONGEST).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(format!("{field} {value}: expected 0 to {LONGEST} seconds"))
    }
}

/// What agents are told.
#[must_use]
pub fn intent(quarantine: &Quarantine) -> AgentIntent {
    let now = Instant::now();
    let cleared = quarantine.cleared().iter().map(|clear| QuarantineCleared {
        fingerprint: clear.fingerprint.clone(),
        age_seconds: age(now, clear.at),
    });
    let told = FleetQuarantine {
        entries: quarantine.entries().map(|entry| message(now, entry)).collect(),
        cleared: cleared.collect(),
    };
    AgentIntent {
        intent: Some(agent_intent::Intent::Quarantine(told)),
    }
}

/// What operators are shown: the refused first, then by the last kill, the latest first.
#[must_use]
pub fn entries(quarantine: &Quarantine) -> Vec<QuarantineEntry> {
    let now = Instant::now();
    let mut entries: Vec<&Entry> = quarantine.entries().collect();
    entries.sort_by_cached_key(|entry| {
        (
            !entry.standing(now).refused(),
            std::cmp::Reverse(entry.kills().last().copied()),
        )
    });
    entries.into_iter().map(|entry| message(now, entry)).collect()
}

fn message(now: Instant, entry: &Entry) -> QuarantineEntry {
    let standing = entry.standing(now);
    let agents = entry.agents.iter().map(|(agent, kills)| {
        let ages_seconds = kills.iter().map(|kill| age(now, *kill)).collect();
        (agent.clone(), AgentKills { ages_seconds })
    });
    QuarantineEntry {
        fingerprint: entry.fingerprint.clone(),
        project: entry.project.clone(),
        request: entry.request.clone(),
        kills: u32::try_from(entry.kills().len()).unwrap_or(u32::MAX),
        reason: entry.reason.clone(),
        refused: standing.refused(),
        remaining_seconds: standing.remaining(now).as_secs_f64(),
        agents: agents.collect(),
    }
}

fn age(now: Instant, then: Instant) -> f64 {
    now.saturating_duration_since(then).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn killed() -> WorkerKilled {
        WorkerKilled {
            fingerprint: "0123456789abcdef".to_owned(),
            project: "/slow".to_owned(),
            request: "GET /ows/slow".to_owned(),
            reason: "crash".to_owned(),
            ages_seconds: vec![0.5],
            window_seconds: 600.0,
            refuse_seconds: 300.0,
            limit: 1,
        }
    }

    #[test]
    fn a_report_is_checked_and_the_refusal_says_what_was_expected() {
        assert!(report(killed()).is_ok());
        let wrong = |change: fn(&mut WorkerKilled)| {
            let mut killed = killed();
            change(&mut killed);
            report(killed).unwrap_err()
        };
        assert!(wrong(|k| k.fingerprint = "x".repeat(1000)).contains("expected 16 hexadecimal digits"));
        assert!(wrong(|k| k.limit = 0).starts_with("killed.limit 0: expected 1 to"));
        assert!(wrong(|k| k.window_seconds = f64::NAN).starts_with("killed.window_seconds NaN"));
        assert!(wrong(|k| k.refuse_seconds = f64::INFINITY).starts_with("killed.refuse_seconds inf"));
        assert!(wrong(|k| k.ages_seconds = vec![-1.0]).starts_with("killed.ages_seconds -1"));
        let many = WorkerKilled {
            ages_seconds: vec![0.0; 100_000],
            ..killed()
        };
        assert_eq!(report(many).unwrap().ages.len(), MAX_KILLS);
        assert!(fingerprint_or_all(String::new()).is_ok() && fingerprint_or_all("all".to_owned()).is_err());
    }

    #[test]
    fn what_is_reported_is_told() {
        let mut quarantine = Quarantine::default();
        quarantine.report(Instant::now(), "a", report(killed()).unwrap());
        let listed = entries(&quarantine);
        let Some(agent_intent::Intent::Quarantine(told)) = intent(&quarantine).intent else {
            panic!("no quarantine");
        };
        assert_eq!((told.entries.len(), listed.len()), (1, 1));
        let entry = &told.entries[0];
        assert!(entry.refused && entry.kills == 1 && entry.request == "GET /ows/slow");
        assert!((0.5..60.0).contains(&entry.agents["a"].ages_seconds[0]));
        assert!((540.0..600.0).contains(&entry.remaining_seconds));
    }
}
