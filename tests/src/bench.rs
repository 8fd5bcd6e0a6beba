//! What benches share: clients in a closed loop that take the time of every answer, quantiles, and tables of figures with
//! ratios. Answers are judged, speeds never.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;

use crate::client::Client;
use crate::draw::Draw;
use crate::shots::Shot;

/// How many failures are shown of a cell.
const SHOWN: usize = 3;

/// Durations in their order.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Puts them in order.
    #[must_use]
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// What this part of them does not exceed, in milliseconds; nothing when there are none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place in a list that fits into memory"
        )]
        let at = (last as f64 * part).round() as usize;
        self.0.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }

    /// The median, in milliseconds.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// What 99 of 100 do not exceed, in milliseconds.
    #[must_use]
    pub fn p99(&self) -> f64 {
        self.quantile(0.99)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// So many clients, each of which sends its next request when it has the answer to its last.
#[derive(Debug, Clone, Copy)]
pub struct Loop {
    /// How many.
    pub clients: usize,
    /// For so long nothing is counted.
    pub warm_up: Duration,
    /// For so long everything is.
    pub measured: Duration,
}

/// What came of a loop while it was measured.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// From sending a request to the end of its answer, right answers alone.
    pub times: Times,
    /// How long it was measured.
    pub elapsed: Duration,
    /// Requests with a wrong answer or none.
    pub errors: usize,
    /// The first of these, in words.
    pub failures: Vec<String>,
}

impl Outcome {
    /// Right answers in a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        number(self.times.count()) / self.elapsed.as_secs_f64()
    }

    /// Adds another stretch of the same.
    pub fn add(&mut self, other: Self) {
        self.times.0.extend(other.times.0);
        self.times.0.sort_unstable();
        self.elapsed += other.elapsed;
        self.errors += other.errors;
        self.failures.extend(other.failures);
        self.failures.truncate(SHOWN);
    }

    /// Says on standard error what went wrong in `cell`.
    pub fn complain(&self, cell: &str) {
        for failure in &self.failures {
            eprintln!("{cell}: {failure}");
        }
    }
}

impl Loop {
    /// Runs it. Each client draws its requests from `seed` and its own number.
    ///
    /// # Panics
    /// When a client does.
    pub async fn run<F>(self, client: &Client, seed: u64, request: F) -> Outcome
    where
        F: Fn(&mut Draw) -> Shot + Send + Sync + 'static,
    {
        let request = Arc::new(request);
        let from = Instant::now() + self.warm_up;
        let until = from + self.measured;
        let clients: Vec<_> = (0..self.clients)
            .map(|number| {
                let (client, request) = (client.clone(), Arc::clone(&request));
                tokio::spawn(async move {
                    let mut draw = Draw::seeded(seed * 1000 + number as u64);
                    let (mut times, mut failures) = (Vec::new(), Vec::new());
                    while Instant::now() < until {
                        let sent = Instant::now();
                        let result = ask(&client, &request(&mut draw)).await;
                        // Counted where it ends, so that one that began before is no less a request.
                        if (from..until).contains(&Instant::now()) {
                            match result {
                                Ok(()) => times.push(sent.elapsed()),
                                Err(why) => failures.push(why),
                            }
                        }
                    }
                    (times, failures)
                })
            })
            .collect();
        let (mut times, mut failures) = (Vec::new(), Vec::new());
        for client in clients {
            let (more_times, more_failures) = client.await.unwrap();
            times.extend(more_times);
            failures.extend(more_failures);
        }
        let errors = failures.len();
        failures.truncate(SHOWN);
        Outcome {
            times: Times::new(times),
            elapsed: self.measured,
            errors,
            failures,
        }
    }
}

/// Sends so many requests from eight clients, numbered from 0, for as long as it takes but not longer than `at_most`;
/// their answers do not matter.
///
/// # Panics
/// When a client does.
pub async fn warm<F>(client: &Client, requests: usize, at_most: Duration, request: F)
where
    F: Fn(usize) -> Shot + Send + Sync + 'static,
{
    let (request, next) = (Arc::new(request), Arc::new(AtomicUsize::new(0)));
    let until = Instant::now() + at_most;
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (client, request, next) = (client.clone(), Arc::clone(&request), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= requests || Instant::now() > until {
                        break;
                    }
                    let _ = ask(&client, &request(number)).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

/// Sends a request and judges the answer.
///
/// # Errors
/// What is wrong with it, or why there is none.
pub async fn ask(client: &Client, shot: &Shot) -> Result<(), String> {
    let answer = client.ask(Method::GET, &shot.target, &[], "").await;
    let judged = answer
        .map_err(|error| format!("{error:#}"))
        .and_then(|answer| shot.judge(&answer));
    judged.map_err(|why| format!("{}: {why}", shot.target))
}

/// How long a phase lasts: `usual` seconds, or what GRATICULE_BENCH_SECONDS says for all that are measured.
///
/// # Panics
/// When that is no number.
#[must_use]
pub fn seconds(usual: f64) -> Duration {
    let seconds = std::env::var("GRATICULE_BENCH_SECONDS").map_or(usual, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("GRATICULE_BENCH_SECONDS is {text}, set it to a number of seconds"))
    });
    Duration::from_secs_f64(seconds)
}

/// A title, and what the machine has to do besides.
pub fn announce(title: &str) {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    println!("\n{title}\n  {processors} processors, load {load} in the last minute");
}

/// A count as a number with a fraction, to divide it.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "to show, not to count")]
pub fn number(count: usize) -> f64 {
    count as f64
}

/// Bytes as millions of bytes.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "to show, not to count")]
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// How many times `other` the figure is.
#[must_use]
pub fn times(figure: f64, other: f64) -> String {
    let ratio = figure / other;
    if !ratio.is_finite() {
        return "-".to_owned();
    }
    if ratio < 9.95 {
        format!("{ratio:.2}×")
    } else {
        format!("{ratio:.0}×")
    }
}

/// Lines of cells under a head; the first column stands left, figures right.
#[derive(Debug, Clone)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// With these columns.
    #[must_use]
    pub fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(|name| (*name).to_owned()).collect()])
    }

    /// One line more.
    pub fn line(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }

    /// Prints it.
    pub fn print(&self) {
        print!("{}", self.text());
    }

    fn text(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for line in &self.0 {
            for (column, cell) in line.iter().enumerate() {
                let width = widths[column];
                text += &match column {
                    0 => format!("  {cell:<width$}"),
                    _ => format!("   {cell:>width$}"),
                };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_ordered_times() {
        let times = Times::new((1..=101).rev().map(Duration::from_millis).collect());
        let figures = [0.0, 0.5, 0.99, 1.0].map(|part| times.quantile(part).round());
        assert_eq!(figures, [1.0, 51.0, 100.0, 101.0]);
        assert!(Times::default().median().is_nan());
    }

    #[test]
    fn tables_stand_in_columns() {
        let mut table = Table::new(&["what", "ms"]);
        table.line(["a long name".to_owned(), times(30.0, 3.0)]);
        table.line(["b".to_owned(), times(1.0, 0.0)]);
        assert_eq!(
            table.text(),
            "  what           ms\n  a long name   10×\n  b               -\n"
        );
    }

    /// Nobody listens there: the loop ends in time all the same, and every request is an error.
    #[tokio::test]
    async fn what_fails_is_an_error_and_not_a_time() {
        let closed = crate::ports::Port::reserve();
        let short = Duration::from_millis(50);
        let run = Loop {
            clients: 2,
            warm_up: short,
            measured: short,
        };
        let outcome = run
            .run(&Client::new(closed.address()), 1, |_| crate::towns::capabilities("/x"))
            .await;
        assert!(outcome.errors > 0 && outcome.times.count() == 0, "{outcome:?}");
        assert!((1..=SHOWN).contains(&outcome.failures.len()), "{outcome:?}");
    }
}
