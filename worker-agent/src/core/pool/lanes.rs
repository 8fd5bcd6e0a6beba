//! What waits for a worker, and who goes next: lanes with their shares of the workers, and within a lane a fair queue by
//! project.
//!
//! A lane below its guarantee goes first. Above the guarantees, lanes take turns by the worker time they have had,
//! weighted by the most that they may have. Requests that workers themselves make (the inner lane) go before all
//! others and may use workers beyond the configured number, one more for each step of depth: the request at the end of
//! such a chain waits for nobody, so each chain comes to its end.

use std::time::{Duration, Instant};

use super::costs::Costs;
use super::fair::FairQueue;
use super::overload::hopeless_from;
use super::{LaneView, Policy, Share, Ticket};
use crate::core::lane::Lane;

/// A request without a worker.
#[derive(Debug)]
pub(super) struct Waiting {
    pub ticket: Ticket,
    pub project: String,
    pub lane: Lane,
    /// How many requests of this server led to this one.
    pub depth: u32,
    pub since: Instant,
    pub deadline: Instant,
}

/// A request that was given to a worker, for the accounts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Charged {
    pub project: String,
    pub lane: Lane,
    flow: String,
    /// Seconds of a worker's time that it was expected to take.
    expected: f64,
}

/// The queues of all lanes.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    queues: [FairQueue<Waiting>; 3],
    running: [usize; 3],
    /// Worker time had, over weight; of interactive and heavy.
    tags: [f64; 2],
    pub costs: Costs,
}

impl Lanes {
    pub fn push(&mut self, waiting: Waiting, again: bool) {
        let lane = waiting.lane.index();
        // As for projects: a rest gives no credit.
        if lane < 2 && self.queues[lane].is_empty() && self.running[lane] == 0 {
            self.tags[lane] = self.tags[lane].max(self.tags[1 - lane]);
        }
        // The steps of depth do not stand in each other's way: the deeper ones have to come through.
        let flow = match waiting.depth {
            0 => waiting.project.clone(),
            depth => format!("{depth} {}", waiting.project),
        };
        self.queues[lane].push(&flow, waiting, again);
    }

    /// The lane and flow to take from next, when `serving` requests have a worker and one more worker is free.
    /// `holds_off` says which requests would rather wait.
    pub fn pick(
        &self,
        policy: &Policy,
        serving: usize,
        holds_off: impl Fn(&Waiting) -> bool,
    ) -> Option<(Lane, String)> {
        let may_go = |waiting: &Waiting| !holds_off(waiting);
        let within_depth = |waiting: &Waiting| serving < policy.workers + waiting.depth as usize && may_go(waiting);
        if let Some(flow) = self.queues[Lane::Inner.index()].next(within_depth) {
            return Some((Lane::Inner, flow.to_owned()));
        }
        let mut lanes = [Lane::Interactive, Lane::Heavy];
        lanes.sort_by(|a, b| {
            let unmet = |lane: Lane| self.running[lane.index()] < policy.share(lane).guaranteed(policy.workers);
            let tag = |lane: Lane| self.tags[lane.index()];
            unmet(*b).cmp(&unmet(*a)).then(tag(*a).total_cmp(&tag(*b)))
        });
        lanes.into_iter().find_map(|lane| {
            let flow = self.queues[lane.index()].next(may_go)?;
            self.may_run(policy, lane, serving).then(|| (lane, flow.to_owned()))
        })
    }

    fn may_run(&self, policy: &Policy, lane: Lane, serving: usize) -> bool {
        let (other, at) = match lane {
            Lane::Interactive => (Lane::Heavy, 0),
            Lane::Heavy => (Lane::Interactive, 1),
            Lane::Inner => return true,
        };
        let kept = policy.share(other).guaranteed(policy.workers);
        let kept = kept.saturating_sub(self.running[1 - at]);
        self.running[at] < policy.share(lane).maximum(policy.workers) && serving + kept < policy.workers
    }

    /// Takes the first request of a flow, which has a worker from now on.
    pub fn give(&mut self, policy: &Policy, lane: Lane, flow: &str) -> Option<(Waiting, Charged)> {
        let queue = &mut self.queues[lane.index()];
        let expected = self.costs.busy(&queue.first(flow)?.project, lane);
        let waiting = queue.take(flow, expected)?;
        self.running[lane.index()] += 1;
        self.charge(policy, lane, expected);
        let charged = Charged {
            project: waiting.project.clone(),
            lane,
            flow: flow.to_owned(),
            expected,
        };
        Some((waiting, charged))
    }

    /// The request's worker is free again, or gone, after so long.
    pub fn done(&mut self, policy: &Policy, charged: &Charged, took: Duration) {
        let more = took.as_secs_f64() - charged.expected;
        self.running[charged.lane.index()] -= 1;
        self.queues[charged.lane.index()].done(&charged.flow, more);
        self.charge(policy, charged.lane, more);
    }

    fn charge(&mut self, policy: &Policy, lane: Lane, seconds: f64) {
        if let Some(tag) = self.tags.get_mut(lane.index()) {
            *tag += seconds / policy.share(lane).maximum.max(0.01);
        }
    }

    /// Removes requests for which `stays` does not hold.
    pub fn retain(&mut self, mut stays: impl FnMut(&Waiting) -> bool) {
        self.queues.iter_mut().for_each(|queue| queue.retain(&mut stays));
    }

    /// Removes requests that could not be answered in time even if they had a worker now.
    pub fn drop_hopeless(&mut self, now: Instant) -> Vec<Ticket> {
        let mut dropped = Vec::new();
        let costs = &self.costs;
        for queue in &mut self.queues {
            queue.retain(|waiting| {
                let stays = hopeless_from(waiting, costs).is_none_or(|from| now < from);
                if !stays {
                    dropped.push(waiting.ticket);
                }
                stays
            });
        }
        dropped
    }

    /// While more wait than may, the newest of the longest flow is removed: who floods the queue is refused, not who
    /// happens to come then. Inner requests have a bound of their own, as others wait for them.
    pub fn overflow(&mut self, max_waiting: usize) -> Option<Waiting> {
        let [interactive, heavy, inner] = &mut self.queues;
        if inner.len() > max_waiting {
            let flow = inner.longest()?.0.to_owned();
            return inner.drop_newest(&flow);
        }
        if interactive.len() + heavy.len() <= max_waiting {
            return None;
        }
        let length = |queue: &FairQueue<Waiting>| queue.longest().map_or(0, |(_, length)| length);
        let queue = if length(heavy) >= length(interactive) {
            heavy
        } else {
            interactive
        };
        let flow = queue.longest()?.0.to_owned();
        queue.drop_newest(&flow)
    }

    /// How many workers beyond the configured ones inner requests need now, when `free` are idle or on their way and
    /// `serving` have a request.
    pub fn needed_beyond(&self, policy: &Policy, serving: usize, free: usize) -> usize {
        let deepest = self.queues[Lane::Inner.index()]
            .iter()
            .map(|waiting| waiting.depth)
            .max();
        match deepest {
            Some(depth) if free == 0 => {
                let wanted = (serving + 1).min(policy.workers + depth as usize);
                wanted.saturating_sub(policy.workers)
            }
            _ => 0,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.queues.iter().flat_map(FairQueue::iter)
    }

    pub fn len(&self) -> usize {
        self.queues.iter().map(FairQueue::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(FairQueue::is_empty)
    }

    /// Whether inner requests wait or run.
    pub fn has_inner(&self) -> bool {
        let inner = Lane::Inner.index();
        self.running[inner] > 0 || !self.queues[inner].is_empty()
    }

    /// When a client that is refused now should come back: once what waits has been served.
    pub fn retry_after(&self, workers: usize) -> Duration {
        let work: f64 = self
            .iter()
            .map(|waiting| self.costs.busy(&waiting.project, waiting.lane))
            .sum();
        #[allow(clippy::cast_precision_loss, reason = "a number of workers is small")]
        let seconds = work / workers.max(1) as f64;
        Duration::from_secs_f64(seconds.clamp(1.0, 30.0).ceil())
    }

    pub fn view(&self, policy: &Policy) -> Vec<LaneView> {
        let view = |lane: Lane| {
            let inner = lane == Lane::Inner;
            let share = policy.share(lane);
            LaneView {
                lane,
                running: self.running[lane.index()],
                waiting: self.queues[lane.index()].len(),
                guaranteed: if inner { 0 } else { share.guaranteed(policy.workers) },
                maximum: share.maximum(policy.workers) + if inner { policy.max_depth as usize } else { 0 },
            }
        };
        Lane::ALL.map(view).to_vec()
    }

    #[cfg(test)]
    pub fn check_invariants(&self, policy: &Policy, charged: &[&Charged]) {
        for lane in Lane::ALL {
            let at = lane.index();
            let given = charged.iter().filter(|charged| charged.lane == lane).count();
            assert_eq!(self.running[at], given, "the accounts of {lane:?} add up");
            assert_eq!(self.queues[at].running(), given, "those of its projects, too");
        }
        assert!(
            self.queues[Lane::Inner.index()].len() <= policy.max_waiting,
            "the inner bound holds"
        );
        let others = self.queues[0].len() + self.queues[1].len();
        assert!(others <= policy.max_waiting, "the queue keeps its bound");
    }
}

impl Share {
    /// Workers that no other lane may take.
    #[must_use]
    pub fn guaranteed(self, workers: usize) -> usize {
        part(self.guaranteed, workers)
    }

    /// The most workers it may take: at least one.
    #[must_use]
    pub fn maximum(self, workers: usize) -> usize {
        part(self.maximum, workers).max(1)
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part, from 0 to 1, of a small number"
)]
fn part(part: f64, of: usize) -> usize {
    // A hair more, so that three quarters of four are three whatever the floating point says.
    (part.clamp(0.0, 1.0) * of as f64 + 1e-9).floor() as usize
}
