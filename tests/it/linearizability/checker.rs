//! Is there an order of the operations on one key that explains all answers and respects real time?
//!
//! The search is Wing and Gong's ("Testing and verifying concurrent objects", 1993) with Lowe's memory of what was tried
//! ("Testing for linearizability", 2017): take any operation that may come next, see whether its answer fits, go on; what
//! was tried with the same rest and the same state is not tried again. Keys are independent, so each is a search of its
//! own. On top of the register's rules the order must follow `ModifyIndex` wherever a read has shown it.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use super::history::{Action, History, Operation, StaleRead, Value, Version};

/// Situations that are remembered per key; histories of some hundred operations need a few thousand.
const SITUATIONS_MAX: usize = 3_000_000;
/// Operations around the trouble that are told.
const TOLD_MAX: usize = 25;

/// What is at the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Content {
    #[default]
    Nothing,
    /// A value that some read of the history shows.
    Seen(Value),
    /// One of those that no read ever shows: which one makes no difference.
    Unseen,
}

/// The key, and the highest index known to have been passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Register {
    content: Content,
    index: u64,
}

/// Checks the history of one key.
///
/// # Errors
/// What cannot be explained.
pub(super) fn check(history: &History) -> Result<(), String> {
    let indexes = Indexes::of(history)?;
    check_stale(history, &indexes)?;
    Search::new(history, &indexes).run()
}

/// Which value has which `ModifyIndex`, as far as reads have shown.
struct Indexes {
    of_value: HashMap<Value, u64>,
    of_index: HashMap<u64, Value>,
}

impl Indexes {
    fn of(history: &History) -> Result<Self, String> {
        let mut indexes = Self { of_value: HashMap::new(), of_index: HashMap::new() };
        let fresh = history.operations.iter().filter_map(|operation| match operation.action {
            Action::Get(found) => found,
            _ => None,
        });
        for Version { value, index } in fresh.chain(history.stale.iter().filter_map(|read| read.found)) {
            let (index_before, value_before) = (
                *indexes.of_value.entry(value).or_insert(index),
                *indexes.of_index.entry(index).or_insert(value),
            );
            if index_before != index {
                return Err(format!("value {value} was read with the indexes {index_before} and {index}"));
            }
            if value_before != value {
                return Err(format!("index {index} was read with the values {value_before} and {value}"));
            }
        }
        Ok(indexes)
    }

    fn seen(&self, action: Action) -> bool {
        action.value().is_some_and(|value| self.of_value.contains_key(&value))
    }
}

/// What stale reads promise: only what was written, and never backwards for one client at one server in one life.
fn check_stale(history: &History, indexes: &Indexes) -> Result<(), String> {
    let mut writes: HashMap<Value, &Operation> = HashMap::new();
    for operation in &history.operations {
        if let Some(value) = operation.action.value() {
            writes.insert(value, operation);
        }
    }
    for value in indexes.of_value.keys() {
        match writes.get(value).map(|operation| operation.action) {
            None => return Err(format!("value {value} was read, but nobody wrote it")),
            Some(Action::Cas { done: Some(false), .. }) => {
                return Err(format!("value {value} was read, but its write was refused"));
            }
            Some(_) => {}
        }
    }
    let mut last: HashMap<(usize, usize, u64), (&StaleRead, u64)> = HashMap::new();
    for read in &history.stale {
        if let Some(found) = read.found
            && writes[&found.value].invoked > read.returned
        {
            return Err(format!("read before it was written: {read:?}"));
        }
        let newest = read.found.map_or(0, |found| found.index);
        let place = (read.client, read.server, read.life);
        if let Some((before, seen)) = last.get(&place)
            && (read.index < before.index || (read.found.is_some() && newest < *seen))
        {
            return Err(format!("a stale read went backwards: {before:?}, then {read:?}"));
        }
        let seen = last.get(&place).map_or(0, |(_, seen)| *seen).max(newest);
        last.insert(place, (read, seen));
    }
    Ok(())
}

/// The operations that have their place already, one bit each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Placed(Box<[u64]>);

impl Placed {
    fn has(&self, number: usize) -> bool {
        self.0[number / 64] >> (number % 64) & 1 == 1
    }

    fn flip(&mut self, number: usize) {
        self.0[number / 64] ^= 1 << (number % 64);
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// One step of the search: how the register was before, and what else could be tried instead.
struct Step {
    taken: usize,
    before: Register,
    others: Vec<usize>,
}

struct Search<'a> {
    operations: Vec<Operation>,
    indexes: &'a Indexes,
    /// Must have a place in the order: it was answered, or somebody saw what it did.
    needed: Vec<bool>,
    placed: Placed,
    register: Register,
    steps: Vec<Step>,
    tried: HashSet<(Placed, Register)>,
}

impl<'a> Search<'a> {
    fn new(history: &History, indexes: &'a Indexes) -> Self {
        let mut operations = history.operations.clone();
        operations.sort_by_key(|operation| operation.invoked);
        let needed = operations
            .iter()
            .map(|operation| operation.returned.is_some() || indexes.seen(operation.action))
            .collect();
        let placed = Placed(vec![0; operations.len() / 64 + 1].into());
        Self {
            operations,
            indexes,
            needed,
            placed,
            register: Register::default(),
            steps: Vec::new(),
            tried: HashSet::new(),
        }
    }

    fn run(mut self) -> Result<(), String> {
        let mut furthest = (0, self.placed.clone(), self.register);
        loop {
            self.take_what_changes_nothing();
            if self.is_done() {
                return Ok(());
            }
            if self.placed.count() > furthest.0 {
                furthest = (self.placed.count(), self.placed.clone(), self.register);
            }
            let new = self.tried.insert((self.placed.clone(), self.register));
            let mut candidates = if new { self.choices() } else { Vec::new() };
            if self.tried.len() > SITUATIONS_MAX {
                let told = self.tell(&furthest.1, furthest.2);
                return Err(format!("no answer after {SITUATIONS_MAX} situations; {told}"));
            }
            while !self.take_one_of(candidates) {
                // Back to the last choice.
                let Some(step) = self.steps.pop() else { return Err(self.tell(&furthest.1, furthest.2)) };
                self.placed.flip(step.taken);
                self.register = step.before;
                candidates = step.others;
            }
        }
    }

    fn is_done(&self) -> bool {
        self.needed.iter().enumerate().all(|(number, needed)| !needed || self.placed.has(number))
    }

    /// Operations that may be next: they began before any of those without a place had ended.
    fn candidates(&self) -> Vec<usize> {
        let mut first_end = u64::MAX;
        let mut candidates = Vec::new();
        for (number, operation) in self.operations.iter().enumerate() {
            if operation.invoked > first_end {
                break;
            }
            if !self.placed.has(number) {
                first_end = first_end.min(operation.returned.unwrap_or(u64::MAX));
                candidates.push(number);
            }
        }
        candidates
    }

    /// What is worth trying next; the last one is tried first.
    ///
    /// A write that nobody needs is tried at last, and only if it makes an answer possible that is not possible now:
    /// anywhere else the order would be as good without it.
    fn choices(&self) -> Vec<usize> {
        let (mut choices, spare): (Vec<usize>, Vec<usize>) =
            self.candidates().into_iter().partition(|number| self.needed[*number]);
        choices
            .sort_by_key(|number| std::cmp::Reverse(self.operations[*number].returned.unwrap_or(u64::MAX)));
        let helps = |number: &usize| {
            let Some(then) = self.after(*number, self.register) else { return false };
            choices.iter().any(|other| {
                self.after(*other, self.register).is_none() && self.after(*other, then).is_some()
            })
        };
        let mut helpers: Vec<usize> = spare.into_iter().filter(helps).collect();
        // Of two that lead to the same, one is enough: the other one remains.
        helpers.dedup_by_key(|number| self.after(*number, self.register));
        helpers.extend(choices);
        helpers
    }

    /// Gives a place to answers that may be next, fit and change nothing wherever they are: if they fit anywhere, they
    /// may as well be here.
    fn take_what_changes_nothing(&mut self) {
        loop {
            let harmless = self.candidates().into_iter().find(|number| {
                let only_asks = matches!(
                    self.operations[*number].action,
                    Action::Get(_) | Action::Cas { done: Some(false), .. }
                );
                only_asks && self.after(*number, self.register).is_some()
            });
            let Some(number) = harmless else { return };
            self.steps.push(Step { taken: number, before: self.register, others: Vec::new() });
            self.placed.flip(number);
        }
    }

    fn take_one_of(&mut self, mut candidates: Vec<usize>) -> bool {
        while let Some(number) = candidates.pop() {
            if let Some(after) = self.after(number, self.register) {
                self.steps.push(Step { taken: number, before: self.register, others: candidates });
                self.placed.flip(number);
                self.register = after;
                return true;
            }
        }
        false
    }

    /// The register after an operation; None if its answer does not fit, or if it is unanswered and did nothing.
    fn after(&self, number: usize, now: Register) -> Option<Register> {
        let action = self.operations[number].action;
        match action {
            Action::Put(value) => self.written(value, now),
            Action::Delete => Some(Register { content: Content::Nothing, ..now }),
            Action::Get(None) => (now.content == Content::Nothing).then_some(now),
            Action::Get(Some(found)) => (now.content == Content::Seen(found.value)).then_some(now),
            Action::Cas { expected, value, done } => {
                let holds = match now.content {
                    Content::Nothing => expected == 0,
                    Content::Unseen => false,
                    Content::Seen(value) => self.indexes.of_index.get(&expected) == Some(&value),
                };
                match done {
                    Some(false) => (!holds).then_some(now),
                    Some(true) | None if holds => self.written(value, now),
                    Some(true) | None => None,
                }
            }
        }
    }

    /// The register after a write, unless the write's index says that it was earlier.
    fn written(&self, value: Value, now: Register) -> Option<Register> {
        match self.indexes.of_value.get(&value) {
            Some(index) if *index <= now.index => None,
            Some(index) => Some(Register { content: Content::Seen(value), index: *index }),
            None => Some(Register { content: Content::Unseen, ..now }),
        }
    }

    /// The operations around the point that no order gets past.
    fn tell(&self, placed: &Placed, register: Register) -> String {
        let mut text =
            format!("no order of the operations explains this; at best the key is {register:?} and then:\n");
        let (before, after): (Vec<usize>, Vec<usize>) =
            (0..self.operations.len()).partition(|number| placed.has(*number));
        for number in before.iter().rev().take(TOLD_MAX).rev() {
            writeln!(text, "  explained: {}", self.operations[*number]).unwrap();
        }
        for number in after.iter().take(TOLD_MAX) {
            writeln!(text, "  not explained: {}", self.operations[*number]).unwrap();
        }
        text
    }
}
