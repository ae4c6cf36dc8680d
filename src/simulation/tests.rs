//! Seeds: many of them, the same one twice, and with each planted bug.

use super::plan::Plan;
use super::run::run;
use super::shrink::shrink;
use super::totals::Totals;
use crate::planted::Bug;

/// What a test run can spare.
const SEEDS: u64 = 400;

/// Seeds within which each planted bug is found.
const SEEDS_OF_A_BUG: u64 = 400;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Says how a plan fails.
fn report(plan: &Plan) -> String {
    let (small, outcome) = shrink(plan);
    let trace = outcome.lines.join("\n");
    let failure = outcome.failure.unwrap_or_default();
    format!(
        "seed {} fails; as {small:?} so:\n{trace}\n{failure}",
        plan.seed
    )
}

#[test]
fn invariants_hold() {
    hold(Plan::new);
}

#[test]
fn invariants_of_a_replica_that_is_written_offline_hold() {
    hold(Plan::offline);
}

#[test]
fn invariants_of_a_replica_that_rebases_hold() {
    hold(Plan::rebase);
}

fn hold(plan_of: fn(u64) -> Plan) {
    let (first, count) = match setting("REPLICA_SEED") {
        Some(seed) => (seed, 1),
        None => (
            setting("REPLICA_FIRST").unwrap_or(0),
            setting("REPLICA_SEEDS").unwrap_or(SEEDS),
        ),
    };
    let (mut totals, mut failed) = (Totals::default(), Vec::new());
    for seed in first..first + count {
        let mut plan = plan_of(seed);
        plan.traced = count == 1;
        let outcome = run(plan.clone());
        totals.add(&outcome);
        for line in &outcome.lines {
            println!("{line}");
        }
        if let Some(failure) = outcome.failure {
            println!("seed {seed} fails: {failure}");
            if failed.is_empty() {
                println!("{}", report(&plan));
            }
            failed.push(seed);
        }
    }
    println!();
    totals.lines().iter().for_each(|line| println!("{line}"));
    assert!(failed.is_empty(), "these seeds fail: {failed:?}");
}

/// Each stands for a bug of the engine, or of the simulation, that it has found.
#[test]
fn seeds_that_have_failed_hold() {
    for seed in [
        320, 1851, 2367, 2694, 3622, 6142, 9742, 11079, 13049, 22440, 30365, 33882, 35246, 35557,
        41969, 43100, 21869,
    ] {
        let outcome = run(Plan::new(seed));
        assert_eq!(outcome.failure, None, "seed {seed}");
    }
}

#[test]
fn a_seed_is_one_exact_run() {
    for seed in 0..20 {
        let [first, second] = [run(Plan::new(seed)), run(Plan::new(seed))];
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.steps, second.steps, "seed {seed}");
    }
}

/// The first seed that finds a bug.
fn finds(bug: Bug) -> Plan {
    let mut seeds = (0..SEEDS_OF_A_BUG).map(|seed| {
        let mut plan = match bug {
            Bug::ForgetTheNewBase => Plan::rebase(seed),
            _ => Plan::new(seed),
        };
        plan.bug = Some(bug);
        if bug == Bug::ApplyOverNewerContent {
            // It takes two processes to be in each other's way.
            plan.processes = 2;
        }
        plan
    });
    let found = seeds.find(|plan| run(plan.clone()).failure.is_some());
    found.unwrap_or_else(|| panic!("{bug:?} is not found"))
}

#[test]
fn a_primary_that_ignores_the_base_is_found() {
    finds(Bug::IgnoreTheBase);
}

#[test]
fn a_replica_that_forgets_its_intent_is_found() {
    finds(Bug::ForgetTheIntent);
}

#[test]
fn a_replica_that_resolves_by_asking_is_found() {
    finds(Bug::ResolveByAsking);
}

#[test]
fn a_replica_that_records_before_it_publishes_is_found() {
    finds(Bug::RecordBeforePublish);
}

#[test]
fn a_replica_that_applies_over_newer_content_is_found() {
    finds(Bug::ApplyOverNewerContent);
}

#[test]
fn a_replica_that_forgets_its_new_base_is_found() {
    println!("{:?}", finds(Bug::ForgetTheNewBase));
}

#[test]
fn a_failing_run_is_made_smaller() {
    let plan = finds(Bug::RecordBeforePublish);
    let (small, outcome) = shrink(&plan);
    assert!(outcome.failure.is_some());
    assert!(small.operations <= plan.operations && small.replicas <= plan.replicas);
    assert!(outcome.lines.len() < 100, "{}", outcome.lines.join("\n"));
}
