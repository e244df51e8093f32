//! Questions that wait because more come than can be answered: each client gets its turn, so that one who floods us
//! waits for itself and not the others for it.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// Questions that wait at most. Beyond, whoever has most of them loses some; as many as are answered within 25 ms.
const WAITING_MAX: usize = 4096;

/// What waits, by client, answered in turns.
pub(super) struct Backlog<Question> {
    of: HashMap<IpAddr, VecDeque<Question>>,
    /// Clients that have something waiting, the next one first.
    turns: VecDeque<IpAddr>,
    count: usize,
}

impl<Question> Default for Backlog<Question> {
    fn default() -> Self {
        Self { of: HashMap::new(), turns: VecDeque::new(), count: 0 }
    }
}

impl<Question> Backlog<Question> {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Lets a question wait. False when one was lost for it: this one, if its client has most, else one of who has.
    pub(super) fn push(&mut self, client: IpAddr, question: Question) -> bool {
        let full = self.count >= WAITING_MAX;
        if full {
            let own = self.of.get(&client).map_or(0, VecDeque::len);
            // More than an equal share: cheap to see, and true for whoever floods us.
            if own > WAITING_MAX / self.turns.len().max(1) || !self.drop_one_of_the_largest(own) {
                return false;
            }
        }
        let waiting = self.of.entry(client).or_default();
        if waiting.is_empty() {
            self.turns.push_back(client);
        }
        waiting.push_back(question);
        self.count += 1;
        !full
    }

    /// The next question: one of each client, then again.
    pub(super) fn pop(&mut self) -> Option<Question> {
        let client = self.turns.pop_front()?;
        let waiting = self.of.get_mut(&client)?;
        let question = waiting.pop_front();
        self.count -= 1;
        if waiting.is_empty() {
            self.of.remove(&client);
        } else {
            self.turns.push_back(client);
        }
        question
    }

    fn drop_one_of_the_largest(&mut self, more_than: usize) -> bool {
        let largest = self.of.values_mut().max_by_key(|waiting| waiting.len());
        let Some(waiting) = largest.filter(|waiting| waiting.len() > more_than.max(1)) else { return false };
        waiting.pop_back();
        self.count -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Backlog, WAITING_MAX};

    fn client(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    #[test]
    fn clients_take_turns_whatever_they_have_waiting() {
        let mut backlog = Backlog::default();
        for question in 0..100 {
            assert!(backlog.push(client(1), (1, question)));
        }
        assert!(backlog.push(client(2), (2, 0)));
        assert!(backlog.push(client(2), (2, 1)));
        assert!(backlog.push(client(3), (3, 0)));
        let first: Vec<_> = (0..6).map(|_| backlog.pop().unwrap()).collect();
        assert_eq!(first, [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2)]);
        let rest = std::iter::from_fn(|| backlog.pop()).count();
        assert_eq!(rest, 103 - 6);
        assert!(backlog.is_empty() && backlog.of.is_empty() && backlog.turns.is_empty());
    }

    #[test]
    fn who_floods_loses_its_own_questions_and_others_lose_none() {
        let mut backlog = Backlog::default();
        let mut lost = 0;
        for question in 0..3 * WAITING_MAX {
            lost += usize::from(!backlog.push(client(1), question));
        }
        assert_eq!(lost, 2 * WAITING_MAX);
        for number in 2..50 {
            for question in 0..10 {
                backlog.push(client(number), question);
            }
        }
        assert_eq!(backlog.count, WAITING_MAX);
        let of = |number| backlog.of[&client(number)].len();
        assert!((2..50).all(|number| of(number) == 10), "nobody else lost anything");
        assert_eq!(of(1), WAITING_MAX - 48 * 10);
    }

    #[test]
    fn with_a_client_for_each_question_the_backlog_keeps_its_limit() {
        let mut backlog = Backlog::default();
        for number in 0..2 * WAITING_MAX {
            let [_, high, low, _] = u32::try_from(number * 256).unwrap().to_be_bytes();
            backlog.push(IpAddr::from([10, high, low, 1]), number);
        }
        assert_eq!(backlog.count, WAITING_MAX);
        assert_eq!(std::iter::from_fn(|| backlog.pop()).count(), WAITING_MAX);
    }
}
