//! Puts one request to a worker, and to another one when the first dies with it: what is safe to repeat is lost only
//! when nothing can be done about it. Why there is no answer becomes a [`Refusal`] here.

use std::time::{Duration, Instant};

use crate::adapters::exchange::{self, Answer, Failure, Job};
use crate::adapters::quarantine::QuarantineHandle;
use crate::adapters::supervisor::{NoLease, Supervisor, Wanted};
use crate::core::message::ErrorKind;
use crate::core::ogc::Refusal;
use crate::core::pool::Refused;

/// How many workers a request may have in all. One that kills workers is refused before (quarantine); this is for
/// one that was unlucky.
const ATTEMPTS: u32 = 3;

/// A request that is ready for a worker.
#[derive(Debug, Clone)]
pub struct Work {
    /// What it asks of the pool.
    pub wanted: Wanted,
    /// What QGIS is asked.
    pub job: Job,
    /// Whether it may be repeated.
    pub safe: bool,
    /// How long it was given, for the refusal.
    pub timeout: Duration,
}

/// Who rendered, and from what.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// The last worker that had the request; 0 when there was none.
    pub worker: u64,
    /// How many workers had it.
    pub attempts: u32,
    /// The version of the project that it was rendered from.
    pub version: Option<String>,
    /// How long it waited for workers; none when it got its answer without one.
    pub waited: Option<Duration>,
    /// How long workers took.
    pub cost: Duration,
}

/// Renders; says how it went in either case. Dropping the future means that nobody waits any more.
///
/// # Errors
/// Why there is no answer.
pub async fn render(
    supervisor: &Supervisor,
    quarantine: &QuarantineHandle,
    mut work: Work,
) -> (Result<Answer, Refusal>, Served) {
    let mut served = Served::default();
    loop {
        if let Err(refusal) = quarantine.check(&work.wanted.fingerprint) {
            return (Err(refusal), served);
        }
        let waiting = Instant::now();
        let lease = supervisor.lease(work.wanted.clone()).await;
        *served.waited.get_or_insert_default() += waiting.elapsed();
        let lease = match lease {
            Ok(lease) => lease,
            Err(why) => return (Err(no_lease(why, &work, supervisor)), served),
        };
        // While it waited, others of its kind may have killed. The worker goes back unused.
        if let Err(refusal) = quarantine.check(&work.wanted.fingerprint) {
            return (Err(refusal), served);
        }
        served.worker = lease.worker;
        served.attempts += 1;
        served.version = Some(lease.project.version.clone());
        let working = Instant::now();
        let answer = exchange::run(lease, work.job.clone()).await;
        served.cost += working.elapsed();
        match answer {
            Ok(answer) => return (Ok(answer), served),
            Err(Failure::Died(..)) if work.safe && served.attempts < ATTEMPTS => work.wanted.again = true,
            Err(failure) => return (Err(failed(failure, &work)), served),
        }
    }
}

fn no_lease(why: NoLease, work: &Work, supervisor: &Supervisor) -> Refusal {
    match why {
        NoLease::Refused(Refused::QueueFull { retry_after }) => Refusal::QueueFull {
            waiting: supervisor.status().view.waiting,
            retry_after: u32::try_from(retry_after.as_secs()).unwrap_or(u32::MAX),
        },
        NoLease::Refused(Refused::Deadline) => too_late(work),
        NoLease::Refused(Refused::NotLoaded) => Refusal::ProjectNotLoaded {
            project: work.wanted.name.clone(),
        },
        NoLease::Refused(Refused::Closing) | NoLease::Ended => Refusal::Draining,
    }
}

fn too_late(work: &Work) -> Refusal {
    Refusal::deadline(work.timeout)
}

fn failed(failure: Failure, work: &Work) -> Refusal {
    let project = || work.wanted.name.clone();
    let error = match failure {
        Failure::Deadline => return too_late(work),
        Failure::Died(error, reason) => {
            return Refusal::WorkerDied {
                safe: work.safe,
                verdict: reason.map_or_else(|| error.to_string(), |reason| reason.to_string()),
            };
        }
        Failure::Worker(error) => error,
    };
    match error.kind {
        ErrorKind::ProjectMissing => Refusal::UnknownProject { project: project() },
        ErrorKind::ProjectBroken => Refusal::ProjectBroken {
            project: project(),
            message: error.message,
            layers: Vec::new(),
        },
        ErrorKind::Cancelled => too_late(work),
        ErrorKind::Internal => Refusal::Internal { message: error.message },
    }
}
