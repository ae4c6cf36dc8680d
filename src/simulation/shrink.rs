//! From a run that fails to a smaller one that fails: fewer who take part, less to do, fewer faults.

use super::plan::Plan;
use super::run::{Outcome, run};

/// Runs that are tried.
const MOST_RUNS: usize = 2000;

/// Runs that differ in nothing but chance.
const VARIATIONS: u64 = 8;

/// The smallest plan that was found, and its run with a trace.
pub(super) fn shrink(plan: &Plan) -> (Plan, Outcome) {
    let mut search = Search {
        best: plan.clone(),
        drawn: run(plan.clone()).drawn,
        left: MOST_RUNS,
    };
    while search.left > 0 && search.round() {}
    let mut best = search.best;
    best.traced = true;
    let outcome = run(best.clone());
    (best, outcome)
}

struct Search {
    best: Plan,
    /// Faults of the best run.
    drawn: u64,
    left: usize,
}

impl Search {
    /// Tries everything once; whether anything helped.
    fn round(&mut self) -> bool {
        let mut helped = false;
        for reduce in REDUCTIONS {
            while self.attempt(reduce) {
                helped = true;
            }
        }
        for part in [2, 4, 8] {
            let fewer = self.drawn.min(self.best.faults) * (part - 1) / part;
            helped |= self.attempt(|plan| plan.faults = fewer);
        }
        for number in (0..self.drawn.min(self.best.faults)).rev() {
            helped |= self.attempt(|plan| {
                plan.skipped.insert(number);
            });
        }
        helped
    }

    /// Whether a smaller plan fails as well: then it is the best one. Whoever takes part, or does not,
    /// changes all that follows: so it is tried with more than one chance.
    fn attempt(&mut self, reduce: impl Fn(&mut Plan)) -> bool {
        let mut plan = self.best.clone();
        reduce(&mut plan);
        if plan == self.best {
            return false;
        }
        let first = plan.variation;
        for variation in first..first + VARIATIONS {
            plan.variation = variation;
            if self.left == 0 {
                return false;
            }
            self.left -= 1;
            let outcome = run(plan.clone());
            if outcome.failure.is_some() {
                (self.best, self.drawn) = (plan, outcome.drawn);
                return true;
            }
        }
        false
    }
}

const REDUCTIONS: [fn(&mut Plan); 12] = [
    |plan| plan.replicas = 1,
    |plan| plan.replicas = (plan.replicas - 1).max(1),
    |plan| plan.processes = 1,
    |plan| plan.writers = plan.writers.saturating_sub(1),
    |plan| plan.operations = (plan.operations / 2).max(1),
    |plan| plan.operations = (plan.operations - 1).max(1),
    |plan| plan.network = 0,
    |plan| plan.disk = 0,
    |plan| plan.memory = 0,
    |plan| plan.crash = 0,
    |plan| plan.power = 0,
    |plan| plan.switch = (plan.switch * 2).min(1000),
];
