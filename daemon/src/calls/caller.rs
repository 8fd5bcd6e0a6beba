//! The end of a stream that calls: which calls are open, and what is still to be said of them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use tonic::Code;

use super::{Answer, Ask, End, MOST_CALLS, MOST_MESSAGE, MOST_REQUEST, WINDOW, weight};

/// What the one who waits for a call is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A message of the answer. When it has been read, [`Caller::taken`] has to hear of it.
    Message(u64, Bytes),
    /// It is over, and there is nothing more.
    End(u64, End),
}

/// Why a call is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There are too many.
    #[error("{MOST_CALLS} calls of this agent are open already; wait until some have ended")]
    TooMany,
    /// The request is too large.
    #[error("the request has {0} bytes; at most {MOST_REQUEST} reach an agent")]
    TooLarge(usize),
}

/// The calls of one stream.
#[derive(Debug, Default)]
pub struct Caller {
    last: u64,
    open: BTreeMap<u64, Open>,
    /// To be said, in this order. Of a call there is at most one of each kind, and nothing before its beginning.
    out: VecDeque<Ask>,
}

#[derive(Debug)]
struct Open {
    deadline: Instant,
    /// What was handed on and nobody has said to be taken, by weight.
    unread: usize,
}

impl Caller {
    /// Begins a call that is to be over by `deadline`, and says its id.
    ///
    /// # Errors
    /// When there are too many already, or the request is too large.
    pub fn begin(&mut self, now: Instant, method: String, request: Bytes, deadline: Instant) -> Result<u64, Refused> {
        if request.len() > MOST_REQUEST {
            return Err(Refused::TooLarge(request.len()));
        }
        if self.open.len() >= MOST_CALLS {
            return Err(Refused::TooMany);
        }
        self.last += 1;
        let id = self.last;
        self.open.insert(id, Open { deadline, unread: 0 });
        let patience = deadline.saturating_duration_since(now);
        self.out.push_back(Ask::Call {
            id,
            method,
            request,
            patience,
        });
        Ok(id)
    }

    /// Hears the callee. What concerns a call that is over is passed over: its end and a cancelling cross on their way.
    pub fn hear(&mut self, answer: Answer) -> Option<Told> {
        match answer {
            Answer::Message(id, message) => {
                let open = self.open.get_mut(&id)?;
                let ahead = open.unread.saturating_add(weight(&message));
                let fits = message.len() <= MOST_MESSAGE && (open.unread == 0 || ahead <= WINDOW);
                if !fits {
                    self.cancel(id);
                    let text = "the agent sent more than it may; is its version that of the control plane?";
                    return Some(Told::End(id, End::failed(Code::Internal, text)));
                }
                open.unread = ahead;
                Some(Told::Message(id, message))
            }
            Answer::End(id, end) => {
                self.open.remove(&id)?;
                self.forget(id);
                Some(Told::End(id, end))
            }
        }
    }

    /// So much of a call's messages has been read, by weight.
    pub fn taken(&mut self, id: u64, bytes: usize) {
        let Some(open) = self.open.get_mut(&id) else { return };
        let bytes = bytes.min(open.unread);
        open.unread -= bytes;
        if bytes == 0 {
            return;
        }
        let said = self.out.iter_mut().find_map(|ask| match ask {
            Ask::Taken(of, said) if *of == id => Some(said),
            _ => None,
        });
        match said {
            Some(said) => *said += bytes,
            None => self.out.push_back(Ask::Taken(id, bytes)),
        }
    }

    /// Nobody waits for a call any more.
    pub fn cancel(&mut self, id: u64) {
        if self.open.remove(&id).is_none() {
            return;
        }
        // One that has not been told of needs no cancelling.
        if !self.forget(id) {
            self.out.push_back(Ask::Cancel(id));
        }
    }

    /// Drops what was to be said of a call. True when it had not even begun.
    fn forget(&mut self, id: u64) -> bool {
        let mut begun = true;
        self.out.retain(|ask| match ask {
            Ask::Call { id: of, .. } if *of == id => {
                begun = false;
                false
            }
            Ask::Taken(of, _) => *of != id,
            _ => true,
        });
        !begun
    }

    /// Lets time pass: calls whose deadline is over have ended.
    pub fn tick(&mut self, now: Instant) -> Vec<Told> {
        let late = self.open.iter().filter(|(_, open)| now >= open.deadline);
        let late: Vec<u64> = late.map(|(id, _)| *id).collect();
        let ended = late.into_iter().map(|id| {
            self.cancel(id);
            let text = "the agent did not answer in time";
            Told::End(id, End::failed(Code::DeadlineExceeded, text))
        });
        ended.collect()
    }

    /// When [`Caller::tick`] will have something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.open.values().map(|open| open.deadline).min()
    }

    /// The stream is gone: every call has ended, and there is nothing more to say.
    pub fn lost(&mut self) -> Vec<Told> {
        self.out.clear();
        let open = std::mem::take(&mut self.open).into_keys();
        let text = "the agent's stream ended during the call; what it did may or may not be done";
        open.map(|id| Told::End(id, End::failed(Code::Unavailable, text)))
            .collect()
    }

    /// Takes what is to be said next.
    pub fn next_ask(&mut self) -> Option<Ask> {
        self.out.pop_front()
    }

    /// Whether there is something to say.
    #[must_use]
    pub fn has_ask(&self) -> bool {
        !self.out.is_empty()
    }

    /// Calls that are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether no call is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Bytes that a call's reader has not taken yet, and all that is still to be said, for the simulation.
    #[cfg(test)]
    pub(super) fn books(&self) -> (usize, usize) {
        let unread = self.open.values().map(|open| open.unread).max().unwrap_or(0);
        (unread, self.out.len())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn begun(caller: &mut Caller, now: Instant) -> u64 {
        caller
            .begin(now, "/x/Y".to_owned(), Bytes::new(), now + Duration::from_secs(1))
            .unwrap()
    }

    #[test]
    fn a_call_is_told_message_by_message_and_its_reader_makes_room() {
        let (mut caller, now) = (Caller::default(), Instant::now());
        let id = begun(&mut caller, now);
        assert!(matches!(caller.next_ask(), Some(Ask::Call { .. })));
        let message = Bytes::from_static(b"abc");
        let told = caller.hear(Answer::Message(id, message.clone()));
        assert_eq!(told, Some(Told::Message(id, message.clone())));
        caller.hear(Answer::Message(id, message));
        caller.taken(id, 35);
        caller.taken(id, 99);
        assert_eq!(
            caller.next_ask(),
            Some(Ask::Taken(id, 70)),
            "added up, and no more than there was"
        );
        assert_eq!(
            caller.hear(Answer::End(id, End::well())),
            Some(Told::End(id, End::well()))
        );
        assert_eq!(caller.hear(Answer::End(id, End::well())), None);
        assert!(caller.is_empty() && !caller.has_ask());
    }

    #[test]
    fn one_that_was_not_told_of_is_forgotten_and_another_is_cancelled() {
        let (mut caller, now) = (Caller::default(), Instant::now());
        let first = begun(&mut caller, now);
        caller.cancel(first);
        assert!(!caller.has_ask());
        let second = begun(&mut caller, now);
        caller.next_ask();
        caller.cancel(second);
        caller.cancel(second);
        assert_eq!(caller.next_ask(), Some(Ask::Cancel(second)));
        assert!(!caller.has_ask());
        assert_eq!(caller.hear(Answer::Message(second, Bytes::new())), None);
    }

    #[test]
    fn calls_are_bounded_in_number_size_and_time() {
        let (mut caller, now) = (Caller::default(), Instant::now());
        let large = Bytes::from(vec![0; MOST_REQUEST + 1]);
        assert_eq!(
            caller.begin(now, String::new(), large, now),
            Err(Refused::TooLarge(MOST_REQUEST + 1))
        );
        for _ in 0..MOST_CALLS {
            begun(&mut caller, now);
        }
        assert_eq!(
            caller.begin(now, String::new(), Bytes::new(), now),
            Err(Refused::TooMany)
        );
        assert_eq!(caller.next_deadline(), Some(now + Duration::from_secs(1)));
        assert!(caller.tick(now).is_empty());
        let late = caller.tick(now + Duration::from_secs(1));
        assert_eq!(late.len(), MOST_CALLS);
        assert!(matches!(&late[0], Told::End(_, end) if end.code == i32::from(Code::DeadlineExceeded)));
    }

    #[test]
    fn a_callee_that_sends_too_much_is_cut_off() {
        let (mut caller, now) = (Caller::default(), Instant::now());
        let id = begun(&mut caller, now);
        caller.next_ask();
        let whole = Bytes::from(vec![0; WINDOW]);
        assert!(matches!(
            caller.hear(Answer::Message(id, whole)),
            Some(Told::Message(..))
        ));
        let more = caller.hear(Answer::Message(id, Bytes::from_static(b"x")));
        assert!(matches!(more, Some(Told::End(_, end)) if end.code == i32::from(Code::Internal)));
        assert_eq!(caller.next_ask(), Some(Ask::Cancel(id)));
    }

    #[test]
    fn a_lost_stream_ends_everything() {
        let (mut caller, now) = (Caller::default(), Instant::now());
        begun(&mut caller, now);
        begun(&mut caller, now);
        let ended = caller.lost();
        assert_eq!(ended.len(), 2);
        assert!(matches!(&ended[0], Told::End(1, end) if end.code == i32::from(Code::Unavailable)));
        assert!(caller.is_empty() && !caller.has_ask());
    }
}
