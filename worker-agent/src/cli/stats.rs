//! `stats`: workers, queue and pressure of agents, once or again and again.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use graticule_cli::{Ink, exit, say};
use graticule_proto::v1::StatsRequest;

use super::answer::{Answer, Outcome, all_as_json, under_name};
use super::ask::{ask, run, said};
use super::show;
use super::target::{Admin, Agents, Target};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  worker-agent stats --json\n  worker-agent stats --watch --every 5")]
pub(super) struct Stats {
    /// Go on, and show it again and again; with --json a line each time
    #[arg(short, long)]
    watch: bool,
    /// With --watch: how often, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    #[command(flatten)]
    target: Target,
}

impl Stats {
    pub(super) fn run(self) -> ExitCode {
        if self.watch {
            run(watch(&self.target, Duration::from_secs(self.every)))
        } else {
            ask(&self.target, "asking", stats)
        }
    }
}

pub(super) async fn stats(mut admin: Admin) -> anyhow::Result<Answer> {
    let stats = admin.stats(StatsRequest {}).await;
    let stats = stats.map_err(|status| said(&status))?.into_inner();
    Ok(Answer::new(
        show::stats(Ink::of_stdout(), &stats),
        show::stats_json(&stats),
    ))
}

/// Shows it until nobody reads it any more, or an agent goes away.
async fn watch(target: &Target, every: Duration) -> anyhow::Result<u8> {
    let agents = target.agents().await?;
    let screen = std::io::stdout().is_terminal();
    loop {
        let text = match &agents {
            Agents::One(one) => {
                let answer = stats(one.admin().await?).await?;
                if target.json {
                    format!("{}\n", answer.value)
                } else {
                    answer.text
                }
            }
            Agents::Fleet(fleet) => {
                let mut outcomes: Vec<Outcome> = Vec::new();
                for one in fleet {
                    outcomes.push((one.name.clone(), stats(one.admin().await?).await));
                }
                all(&outcomes, target.json)
            }
        };
        // On a terminal the tables stay in their place.
        let clear = if screen && !target.json { "\x1b[H\x1b[2J" } else { "" };
        if !say(&format!("{clear}{text}")) {
            return Ok(exit::DONE);
        }
        tokio::time::sleep(every).await;
    }
}

fn all(outcomes: &[Outcome], json: bool) -> String {
    if json {
        return format!("{}\n", all_as_json(outcomes));
    }
    let one = |(name, outcome): &Outcome| match outcome {
        Ok(answer) => under_name(name, &answer.text),
        Err(error) => under_name(name, &format!("{error:#}")),
    };
    outcomes.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_does_not_answer_says_why_among_the_others() {
        let outcomes: Vec<Outcome> = vec![
            ("a".into(), Ok(Answer::new("ready\nX  Y", json!({})))),
            ("b".into(), Err(anyhow::anyhow!("it went away"))),
        ];
        assert_eq!(all(&outcomes, false), "a:\nready\nX  Y\n\nb: it went away\n");
        assert_eq!(all(&outcomes, true).lines().count(), 1);
    }
}
