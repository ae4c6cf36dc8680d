//! Figures of many runs.

use super::faults::KINDS;
use super::run::Outcome;

/// Sums.
#[derive(Default)]
pub(super) struct Totals {
    seeds: u64,
    steps: u64,
    transactions: u64,
    messages: u64,
    merges: u64,
    gaps: u64,
    faults: [u64; KINDS.len()],
}

impl Totals {
    /// Adds a run.
    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps;
        self.transactions += outcome.transactions;
        self.messages += outcome.messages;
        self.merges += outcome.merges;
        self.gaps += outcome.gaps;
        for (total, count) in self.faults.iter_mut().zip(outcome.faults) {
            *total += count;
        }
    }

    /// A line for each figure.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut figures = vec![
            (self.seeds, "seeds"),
            (self.steps, "steps"),
            (self.transactions, "transactions committed"),
            (self.messages, "messages"),
            (self.merges, "merges of a rebase"),
            (self.gaps, "times the primary lost track of its history"),
        ];
        figures.extend(
            self.faults
                .iter()
                .zip(KINDS)
                .map(|(count, (_, name))| (*count, name)),
        );
        figures
            .iter()
            .map(|(count, name)| format!("total {count:>12} {name}"))
            .collect()
    }
}
