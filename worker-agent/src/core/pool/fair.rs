//! A queue that shares by flow, such as a project: start-time fair queueing (Goyal, Vin and Cheng, 1996), where the cost
//! of an item is how long it kept a worker busy.
//!
//! Each flow has a tag: the virtual time at which its next item would start. The flow with the lowest tag goes next, and
//! its tag moves on by what the item is expected to cost, corrected once the true cost is known. A flow that had nothing
//! to do starts at the present virtual time: it has no credit for its rest, and no debt to the others' haste. So a
//! flow that asks for little never waits for one that asks for much.
//!
//! Virtual time is where the item taken last would start, and moves on with every item by an equal part of its cost for
//! each flow that has something to do, and one more. So a flow that had its turn waits for the others' turns and not
//! for ever newer flows, which all start at the present time; the one more keeps a newcomer before the next item of a
//! flow that was alone.
//!
//! It knows no workers and no clock; costs are plain numbers.

use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
struct Flow<T> {
    /// With the number of its arrival.
    waiting: VecDeque<(u64, T)>,
    /// Items that were taken and are not done.
    running: usize,
    tag: f64,
}

impl<T> Flow<T> {
    fn is_active(&self) -> bool {
        !self.waiting.is_empty() || self.running > 0
    }
}

/// A queue that shares by flow.
#[derive(Debug)]
pub struct FairQueue<T> {
    flows: BTreeMap<String, Flow<T>>,
    /// The virtual time.
    now: f64,
    arrivals: u64,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            flows: BTreeMap::new(),
            now: 0.0,
            arrivals: 0,
        }
    }
}

impl<T> FairQueue<T> {
    /// Adds an item at the end of its flow, or at its front when it comes back.
    pub fn push(&mut self, flow: &str, item: T, again: bool) {
        self.arrivals += 1;
        let now = self.now;
        let flow = self.flows.entry(flow.to_owned()).or_insert_with(|| Flow {
            waiting: VecDeque::new(),
            running: 0,
            tag: now,
        });
        if flow.waiting.is_empty() {
            flow.tag = flow.tag.max(now);
        }
        if again {
            flow.waiting.push_front((self.arrivals, item));
        } else {
            flow.waiting.push_back((self.arrivals, item));
        }
    }

    /// The flow to take from next, of those whose first item may go.
    pub fn next(&self, may_go: impl Fn(&T) -> bool) -> Option<&str> {
        self.flows
            .iter()
            .filter_map(|(name, flow)| {
                let (arrival, item) = flow.waiting.front()?;
                may_go(item).then_some((flow.tag, *arrival, name))
            })
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
            .map(|(_, _, name)| name.as_str())
    }

    /// The first item of a flow.
    pub fn first(&self, flow: &str) -> Option<&T> {
        self.flows.get(flow)?.waiting.front().map(|(_, item)| item)
    }

    /// Takes the first item of a flow, which is expected to cost so much.
    pub fn take(&mut self, flow: &str, cost: f64) -> Option<T> {
        let active = self.flows.values().filter(|flow| flow.is_active()).count();
        let flow = self.flows.get_mut(flow)?;
        let (_, item) = flow.waiting.pop_front()?;
        #[allow(clippy::cast_precision_loss, reason = "a number of flows is small")]
        let share = cost / (active + 1) as f64;
        self.now = self.now.max(flow.tag) + share;
        flow.tag += cost;
        flow.running += 1;
        Some(item)
    }

    /// An item of this flow is done and has cost so much more than expected; less when negative.
    pub fn done(&mut self, flow: &str, more: f64) {
        if let Some(flow) = self.flows.get_mut(flow) {
            flow.running = flow.running.saturating_sub(1);
            flow.tag += more;
        }
        self.forget();
    }

    /// Who has nothing to do and no debt is as good as new.
    fn forget(&mut self) {
        let now = self.now;
        self.flows
            .retain(|_, flow| !flow.waiting.is_empty() || flow.running > 0 || flow.tag > now);
        if self
            .flows
            .values()
            .all(|flow| flow.waiting.is_empty() && flow.running == 0)
        {
            self.flows.clear();
        }
    }

    /// The name and length of the longest flow; of equals, the one that `newest` came to last.
    pub fn longest(&self) -> Option<(&str, usize)> {
        self.flows
            .iter()
            .filter_map(|(name, flow)| Some((flow.waiting.len(), flow.waiting.back()?.0, name)))
            .max()
            .map(|(length, _, name)| (name.as_str(), length))
    }

    /// Removes the item of a flow that came last.
    pub fn drop_newest(&mut self, flow: &str) -> Option<T> {
        let dropped = self.flows.get_mut(flow)?.waiting.pop_back();
        self.forget();
        dropped.map(|(_, item)| item)
    }

    /// Removes the items for which `stays` does not hold.
    pub fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) {
        for flow in self.flows.values_mut() {
            flow.waiting.retain(|(_, item)| stays(item));
        }
        self.forget();
    }

    /// Every item that waits.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.flows
            .values()
            .flat_map(|flow| flow.waiting.iter().map(|(_, item)| item))
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.values().map(|flow| flow.waiting.len()).sum()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.values().all(|flow| flow.waiting.is_empty())
    }

    /// How many were taken and are not done.
    #[must_use]
    #[cfg(test)]
    pub fn running(&self) -> usize {
        self.flows.values().map(|flow| flow.running).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(queue: &mut FairQueue<u32>, cost: impl Fn(&str) -> f64) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some(flow) = queue.next(|_| true).map(str::to_owned) {
            order.extend(queue.take(&flow, cost(&flow)));
        }
        order
    }

    #[test]
    fn flows_take_turns_whatever_they_send() {
        let mut queue = FairQueue::default();
        for n in 0..4 {
            queue.push("flood", n, false);
        }
        queue.push("other", 10, false);
        queue.push("other", 11, false);
        assert_eq!(order(&mut queue, |_| 1.0), [0, 10, 1, 11, 2, 3]);
    }

    #[test]
    fn cheap_items_go_more_often() {
        let mut queue = FairQueue::default();
        for n in 0..3 {
            queue.push("dear", n, false);
            queue.push("cheap", 10 + n, false);
        }
        let cost = |flow: &str| if flow == "dear" { 3.0 } else { 1.0 };
        assert_eq!(order(&mut queue, cost), [0, 10, 11, 12, 1, 2]);
    }

    #[test]
    fn a_rest_gives_no_credit() {
        let mut queue = FairQueue::default();
        for n in 0..10 {
            queue.push("steady", n, false);
        }
        for _ in 0..5 {
            queue.take("steady", 1.0);
        }
        queue.push("late", 100, false);
        queue.push("late", 101, false);
        let order = order(&mut queue, |_| 1.0);
        assert_eq!(
            order[..4],
            [100, 5, 101, 6],
            "it does not catch up on what it did not ask for"
        );
    }

    #[test]
    fn who_had_a_turn_waits_for_others_and_not_for_ever_newer_ones() {
        let mut queue = FairQueue::default();
        queue.push("again", 0, false);
        queue.take("again", 1.0);
        queue.push("again", 0, false);
        // There are always three others that were never seen before.
        for n in 1..4 {
            queue.push(&format!("new {n}"), n, false);
        }
        let before = (4..100).take_while(|n| {
            let flow = queue.next(|_| true).map(str::to_owned).expect("some wait");
            let taken = queue.take(&flow, 1.0);
            queue.done(&flow, 0.0);
            queue.push(&format!("new {n}"), *n, false);
            taken != Some(0)
        });
        assert!(before.count() < 8);
    }

    #[test]
    fn what_comes_back_goes_first_in_its_flow() {
        let mut queue = FairQueue::default();
        queue.push("a", 1, false);
        queue.push("a", 2, false);
        let again = queue.take("a", 1.0).unwrap();
        queue.done("a", 0.0);
        queue.push("a", again, true);
        assert_eq!(order(&mut queue, |_| 1.0), [1, 2]);
    }

    #[test]
    fn the_true_cost_counts() {
        let mut queue = FairQueue::default();
        for n in 0..3 {
            queue.push("dear", n, false);
            queue.push("cheap", 10 + n, false);
        }
        queue.take("dear", 0.1);
        queue.done("dear", 9.9);
        assert_eq!(order(&mut queue, |_| 0.1), [10, 11, 12, 1, 2]);
    }

    #[test]
    fn nothing_is_remembered_of_flows_that_are_done() {
        let mut queue = FairQueue::default();
        for n in 0..1000 {
            let flow = format!("flow {n}");
            queue.push(&flow, n, false);
            queue.take(&flow, 1.0);
            queue.done(&flow, 0.0);
        }
        assert!(queue.flows.is_empty());
    }
}
