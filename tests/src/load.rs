//! A steady load of safe requests from several clients, every answer of which is judged and counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::shots::Shot;

/// No load runs longer than this.
const LONGEST: Duration = Duration::from_secs(120);

/// No client sends more than this.
const MOST: u64 = 20_000;

/// Between a client's answer and its next request.
const PAUSE: Duration = Duration::from_millis(15);

/// How many failures are kept with their texts.
const KEPT: usize = 12;

/// A running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

/// What came of a load. Every request that was sent is in exactly one of the counts.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Answers that were right, by the name of their shot.
    pub right: BTreeMap<&'static str, u64>,
    /// Answers that were not, by HTTP status.
    pub wrong: BTreeMap<u16, u64>,
    /// Requests that got no whole answer.
    pub lost: u64,
    /// Right answers by the agent that gave them.
    pub agents: BTreeMap<String, u64>,
    /// The first failures, in words.
    pub failures: Vec<String>,
    /// The longest time that an answer took.
    pub slowest: Duration,
}

impl Load {
    /// Sets `clients` clients to work; each goes round `shots` from a place of its own.
    #[must_use]
    pub fn start(client: &Client, clients: usize, shots: &[Shot]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let run = |number: usize| {
            let (client, stop, mut shots) = (client.clone(), Arc::clone(&stop), shots.to_vec());
            let turn = number * shots.len() / clients;
            shots.rotate_left(turn);
            tokio::spawn(async move { fire(&client, &shots, &stop).await })
        };
        Self {
            clients: (0..clients).map(run).collect(),
            stop,
        }
    }

    /// Ends it: requests that were sent are answered first.
    pub async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        for client in self.clients {
            tally.add(client.await.unwrap());
        }
        tally
    }
}

async fn fire(client: &Client, shots: &[Shot], stop: &AtomicBool) -> Tally {
    let (mut tally, started) = (Tally::default(), Instant::now());
    for (shot, _) in shots.iter().cycle().zip(0..MOST) {
        if stop.load(Ordering::Relaxed) || started.elapsed() > LONGEST {
            break;
        }
        let sent = Instant::now();
        let answer = client.ask(Method::GET, &shot.target, &[], "").await;
        tally.slowest = tally.slowest.max(sent.elapsed());
        match answer {
            Ok(answer) => match shot.judge(&answer) {
                Ok(()) => {
                    *tally.right.entry(shot.name).or_default() += 1;
                    *tally.agents.entry(answer.agent().to_owned()).or_default() += 1;
                }
                Err(why) => {
                    *tally.wrong.entry(answer.status).or_default() += 1;
                    let at = started.elapsed().as_secs_f64();
                    tally
                        .failures
                        .push(format!("{at:.2} s, {}, {}: {why}", shot.target, answer.agent()));
                }
            },
            Err(error) => {
                tally.lost += 1;
                tally.failures.push(format!(
                    "{:.2} s, {}: {error:#}",
                    started.elapsed().as_secs_f64(),
                    shot.target
                ));
            }
        }
        tally.failures.truncate(KEPT);
        tokio::time::sleep(PAUSE).await;
    }
    tally
}

impl Tally {
    fn add(&mut self, other: Self) {
        for (name, count) in other.right {
            *self.right.entry(name).or_default() += count;
        }
        for (status, count) in other.wrong {
            *self.wrong.entry(status).or_default() += count;
        }
        for (agent, count) in other.agents {
            *self.agents.entry(agent).or_default() += count;
        }
        self.lost += other.lost;
        self.failures.extend(other.failures);
        self.slowest = self.slowest.max(other.slowest);
    }

    /// How many requests were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.answered() + self.wrong.values().sum::<u64>() + self.lost
    }

    /// How many were answered rightly.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.right.values().sum()
    }

    /// Checks that nothing failed, and that there was a load worth the name: `least` requests, and each shot answered.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn expect_no_failure(&self, least: u64, shots: &[Shot]) {
        println!("{self}");
        assert_eq!(self.answered(), self.sent(), "{self}");
        assert!(self.sent() >= least, "too few to mean anything: {self}");
        for shot in shots {
            assert!(
                self.right.contains_key(shot.name),
                "{} was never asked: {self}",
                shot.name
            );
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sent, right, lost) = (self.sent(), self.answered(), self.lost);
        writeln!(
            f,
            "{sent} sent, {right} right, {:?} wrong by status, {lost} lost",
            self.wrong
        )?;
        writeln!(
            f,
            "by agent {:?}, slowest {:.2} s, {:?}",
            self.agents,
            self.slowest.as_secs_f64(),
            self.right
        )?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "  {failure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody listens there: every request is lost, counted, and held against the load.
    #[tokio::test]
    async fn what_gets_no_answer_is_lost_and_not_forgiven() {
        let shots = crate::shots::mix();
        let closed = crate::ports::Port::reserve();
        let load = Load::start(&Client::new(closed.address()), 2, &shots);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let tally = load.stop().await;
        assert!(tally.lost > 2 && tally.answered() == 0, "{tally}");
        assert_eq!(tally.sent(), tally.lost);
        assert!(std::panic::catch_unwind(|| tally.expect_no_failure(0, &[])).is_err());
    }

    #[test]
    fn answers_are_judged_by_more_than_their_status() {
        let shot = &crate::shots::mix()[1];
        let answer = |status, media_type, body: &'static str| {
            let headers = [(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media_type))]
                .into_iter()
                .collect();
            crate::client::Answer {
                status,
                headers,
                body: body.into(),
            }
        };
        assert_eq!(
            shot.judge(&answer(200, "text/xml; charset=utf-8", "<WMS_Capabilities/>")),
            Ok(())
        );
        for wrong in [
            answer(503, "text/xml", "<WMS_Capabilities/>"),
            answer(200, "text/html", "<WMS_Capabilities/>"),
            answer(200, "text/xml", "<ServiceExceptionReport/>"),
        ] {
            assert!(shot.judge(&wrong).is_err(), "{wrong:?}");
        }
    }
}
