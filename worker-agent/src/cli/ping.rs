//! `ping`: whether an agent answers, and how long that takes. No worker is touched.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use graticule_cli::{exit, say};
use graticule_proto::v1::PingRequest;
use graticule_proto::v1::qgis_server_client::QgisServerClient;
use serde_json::json;

use super::answer::Answer;
use super::ask::{each, run, said};
use super::target::{One, Target};

/// An answer that has not come after this long does not come.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
It asks the agent's own gRPC port. Exits 1 when an answer is missing.

Example: worker-agent ping --count 3")]
pub(super) struct Ping {
    /// How often
    #[arg(short, long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// How long between two of them, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    every: f64,
    #[command(flatten)]
    target: Target,
}

impl Ping {
    pub(super) fn run(self) -> ExitCode {
        run(self.all())
    }

    async fn all(&self) -> anyhow::Result<u8> {
        let every = Duration::try_from_secs_f64(self.every)
            .map_err(|_| graticule_cli::Failure::Usage(format!("--every {}: expected seconds", self.every)))?;
        let json = self.target.json;
        // Its own lines show that it goes on.
        each(&self.target, "", async |one| {
            // People see one after the other; of many agents, only what has come of it.
            let live = !json && !one.of_fleet() && self.count > 1;
            ping(one, self.count, every, live).await
        })
        .await
    }
}

async fn ping(one: &One, count: u32, every: Duration, live: bool) -> anyhow::Result<Answer> {
    let mut client = QgisServerClient::new(one.own().await?);
    let mut times = Vec::new();
    for number in 1..=count {
        if number > 1 {
            tokio::time::sleep(every).await;
        }
        let mut request = tonic::Request::new(PingRequest {
            echo: number.to_string(),
        });
        request.set_timeout(PATIENCE);
        let sent = Instant::now();
        let answer = client.ping(request).await;
        let took = sent.elapsed();
        match answer {
            Ok(_) => times.push(took),
            Err(status) if times.is_empty() && number == count => return Err(said(&status)),
            Err(_) => {}
        }
        if live {
            say(&match times.len() {
                got if got == number as usize => format!("{number}: {:.3} ms\n", millis(took)),
                _ => format!("{number}: no answer\n"),
            });
        }
    }
    let answer = Answer::new(summary(&times, count), value(&times, count));
    Ok(if times.len() == count as usize {
        answer
    } else {
        answer.code(exit::REFUSED)
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn bounds(times: &[Duration]) -> (f64, f64, f64) {
    let (least, most) = (times.iter().min(), times.iter().max());
    let count = u32::try_from(times.len()).unwrap_or(u32::MAX).max(1);
    let mean = times.iter().sum::<Duration>() / count;
    (
        millis(least.copied().unwrap_or_default()),
        millis(mean),
        millis(most.copied().unwrap_or_default()),
    )
}

fn summary(times: &[Duration], count: u32) -> String {
    let (least, mean, most) = bounds(times);
    match (times.len(), count) {
        (1, 1) => format!("answers after {mean:.3} ms"),
        (got, count) => {
            format!("{got} of {count} answers; least {least:.3} ms, mean {mean:.3} ms, most {most:.3} ms")
        }
    }
}

fn value(times: &[Duration], count: u32) -> serde_json::Value {
    let all: Vec<f64> = times.iter().copied().map(millis).collect();
    let (least, mean, most) = bounds(times);
    json!({"asked": count, "answered": times.len(), "ms": all, "least_ms": least, "mean_ms": mean, "most_ms": most})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_up() {
        let times = [Duration::from_millis(1), Duration::from_millis(3)];
        assert_eq!(summary(&times[..1], 1), "answers after 1.000 ms");
        assert_eq!(
            summary(&times, 3),
            "2 of 3 answers; least 1.000 ms, mean 2.000 ms, most 3.000 ms"
        );
        assert_eq!(value(&times, 3)["answered"], 2);
        assert_eq!(bounds(&[]), (0.0, 0.0, 0.0));
    }
}
