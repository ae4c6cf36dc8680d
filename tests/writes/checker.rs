//! The checker of histories finds what is planted, and nothing else.

use std::collections::BTreeMap;

use harness::lists::{End, Step, Transaction, Value, check};

fn read(list: u64, values: &[Value]) -> Step {
    Step::Read(list, values.to_vec())
}

fn append(list: u64, value: Value) -> Step {
    Step::Append(list, value)
}

/// A transaction of a client with a file of its own.
fn by(client: usize, time: (u64, u64), steps: &[Step]) -> Transaction {
    Transaction {
        client,
        file: client,
        time,
        steps: steps.to_vec(),
        end: End::Committed,
    }
}

fn ended(end: End, transaction: Transaction) -> Transaction {
    Transaction { end, ..transaction }
}

fn lists<const N: usize>(lists: [(u64, &[Value]); N]) -> BTreeMap<u64, Vec<Value>> {
    let owned = lists.map(|(list, values)| (list, values.to_vec()));
    owned.into_iter().collect()
}

#[track_caller]
fn assert_found(history: &[Transaction], last: BTreeMap<u64, Vec<Value>>, words: &str) {
    match check(history, &last) {
        Ok(found) => panic!("nothing was found: {found:?}"),
        Err(violation) => assert!(violation.contains(words), "{violation}"),
    }
}

#[test]
fn histories_in_order_are_found_so() {
    let history = [
        by(1, (0, 10), &[read(1, &[]), append(1, 1)]),
        by(
            2,
            (5, 20),
            &[
                read(1, &[1]),
                append(1, 2),
                append(1, 3),
                read(1, &[1, 2, 3]),
            ],
        ),
        by(
            1,
            (30, 40),
            &[read(1, &[1, 2, 3]), read(2, &[]), append(2, 4)],
        ),
        // Readers elsewhere may lag, and see a state that was.
        by(3, (50, 60), &[read(2, &[]), read(1, &[1])]),
        by(3, (61, 70), &[read(1, &[1, 2, 3]), read(2, &[])]),
        ended(
            End::Failed,
            by(3, (71, 80), &[read(1, &[1, 2, 3]), append(1, 5)]),
        ),
        // Committed long after its client had given up.
        ended(End::Unknown, by(4, (6, 7), &[append(2, 6)])),
        ended(End::Unknown, by(4, (8, 9), &[append(2, 7)])),
        // At the same time, and the later end comes first.
        by(5, (90, 100), &[append(3, 8)]),
        by(6, (91, 99), &[append(3, 9)]),
    ];
    let last = lists([(1, &[1, 2, 3]), (2, &[4, 6]), (3, &[8, 9])]);
    let found = check(&history, &last).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!((found.transactions, found.unknown_committed), (8, 1));
    assert!(found.edges >= 6, "{found:?}");
}

#[test]
fn a_lost_update_is_found() {
    let history = [
        by(1, (0, 10), &[read(1, &[]), append(1, 1)]),
        by(2, (0, 10), &[read(1, &[]), append(1, 2)]),
    ];
    assert_found(&history, lists([(1, &[1, 2])]), "Rw");
    // Overwritten altogether.
    assert_found(&history, lists([(1, &[2])]), "is lost");
}

#[test]
fn a_stale_read_of_a_writer_is_found() {
    let history = [
        by(1, (0, 10), &[append(1, 1)]),
        by(2, (20, 30), &[read(1, &[]), append(2, 2)]),
    ];
    let last = || lists([(1, &[1][..]), (2, &[2])]);
    assert_found(&history, last(), "Time");
    // Begun before the other one had ended: an order explains it.
    let mut early = history;
    early[1].time.0 = 9;
    assert!(check(&early, &last()).is_ok());
}

#[test]
fn a_write_skew_is_found() {
    let history = [
        by(1, (0, 10), &[read(1, &[]), append(2, 1)]),
        by(2, (0, 10), &[read(2, &[]), append(1, 2)]),
    ];
    assert_found(&history, lists([(1, &[2]), (2, &[1])]), "Rw");
}

#[test]
fn reordered_writes_are_found() {
    let history = [
        by(1, (0, 10), &[append(1, 1)]),
        by(2, (11, 20), &[append(1, 2)]),
    ];
    assert_found(&history, lists([(1, &[2, 1])]), "Time");
    assert!(check(&history, &lists([(1, &[1, 2])])).is_ok());
}

#[test]
fn a_fork_seen_by_readers_is_found() {
    let history = [
        by(1, (0, 10), &[append(1, 1)]),
        by(2, (0, 10), &[append(2, 2)]),
        by(3, (20, 30), &[read(1, &[1]), read(2, &[])]),
        by(4, (20, 30), &[read(1, &[]), read(2, &[2])]),
    ];
    assert_found(&history, lists([(1, &[1]), (2, &[2])]), "Wr");
}

#[test]
fn a_file_that_goes_back_is_found() {
    let mut history = [
        by(1, (0, 10), &[append(1, 1)]),
        by(2, (20, 30), &[read(1, &[1])]),
        by(3, (40, 50), &[read(1, &[])]),
    ];
    let last = || lists([(1, &[1][..])]);
    assert!(check(&history, &last()).is_ok(), "another replica may lag");
    history[2].file = 2;
    assert_found(&history, last(), "Time");
    // Its own commit is not seen.
    let history = [
        by(1, (0, 10), &[append(1, 1)]),
        by(1, (20, 30), &[read(1, &[])]),
    ];
    assert_found(&history, last(), "Time");
}

#[test]
fn wrong_outcomes_are_found() {
    let of = |end, steps: &[Step]| [ended(end, by(1, (0, 10), steps))];
    let two = [append(1, 1), append(2, 2)];
    assert_found(
        &of(End::Committed, &two),
        lists([(1, &[1]), (2, &[])]),
        "is lost",
    );
    assert_found(
        &of(End::Failed, &two),
        lists([(1, &[1]), (2, &[2])]),
        "rolled back",
    );
    assert_found(&of(End::Unknown, &two), lists([(1, &[1])]), "in part");
    assert_found(
        &of(End::Unknown, &two),
        lists([(1, &[1, 1]), (2, &[2])]),
        "twice",
    );
    assert_found(&of(End::Unknown, &two), lists([(1, &[3])]), "nobody");
}

#[test]
fn what_a_transaction_cannot_have_read_is_found() {
    let half = [
        by(1, (0, 10), &[append(1, 1), append(1, 2)]),
        by(2, (0, 10), &[read(1, &[1])]),
    ];
    assert_found(&half, lists([(1, &[1, 2])]), "half");
    let moving = [
        by(1, (0, 10), &[append(1, 1)]),
        by(2, (0, 10), &[read(1, &[]), append(2, 2), read(1, &[1])]),
    ];
    assert_found(&moving, lists([(1, &[1]), (2, &[2])]), "changed within");
    let another = [
        by(1, (0, 10), &[append(1, 1)]),
        by(2, (0, 10), &[append(1, 2)]),
        by(3, (0, 10), &[read(1, &[2])]),
    ];
    assert_found(&another, lists([(1, &[1, 2])]), "in the end");
}
