//! What goes wrong, numbered in the order in which it does, so that each can be left out.

use super::plan::Plan;
use super::random::Random;

/// A kind of fault.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Kill,
    Power,
    Disk,
    Memory,
    Lost,
    Delayed,
    Twice,
    AnswerLost,
}

/// How many kinds there are.
pub(super) const KINDS: [(Fault, &str); 8] = [
    (Fault::Kill, "processes killed"),
    (Fault::Power, "power losses"),
    (Fault::Disk, "failures of a disk"),
    (Fault::Memory, "commits without memory"),
    (Fault::Lost, "requests lost"),
    (Fault::Delayed, "messages late"),
    (Fault::Twice, "requests sent twice"),
    (Fault::AnswerLost, "answers lost"),
];

/// The faults of a run.
pub(super) struct Faults {
    pub(super) random: Random,
    /// How many there were, those that were left out among them.
    pub(super) drawn: u64,
    pub(super) counts: [u64; KINDS.len()],
}

impl Faults {
    pub(super) fn new(random: Random) -> Self {
        Self {
            random,
            drawn: 0,
            counts: [0; KINDS.len()],
        }
    }

    /// Whether the next fault happens now; its number.
    pub(super) fn happens(&mut self, plan: &Plan, once_in: u64) -> Option<u64> {
        if !self.random.once_in(once_in) {
            return None;
        }
        let number = self.drawn;
        self.drawn += 1;
        (number < plan.faults && !plan.skipped.contains(&number)).then_some(number)
    }

    /// Counts one.
    pub(super) fn count(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
    }
}
