//! Seeds.

use std::time::Instant;

use super::plan::Plan;
use super::run::run;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn seeds() {
    let begun = Instant::now();
    let (first, count) = match number("REPLICA_SEED") {
        Some(seed) => (seed, 1),
        None => (
            number("REPLICA_FIRST").unwrap_or(0),
            number("REPLICA_SEEDS").unwrap_or(20),
        ),
    };
    for seed in first..first + count {
        let mut plan = Plan::new(seed);
        plan.traced = count == 1;
        let outcome = run(plan);
        for line in &outcome.lines {
            println!("{line}");
        }
        println!(
            "seed {seed}: {} steps, {} transactions, {} messages, {} gaps, faults {:?} of {}, hash {:016x}, {:?} {:?}",
            outcome.steps,
            outcome.transactions,
            outcome.messages,
            outcome.gaps,
            outcome.faults,
            outcome.drawn,
            outcome.hash,
            outcome.failure,
            begun.elapsed()
        );
    }
}
