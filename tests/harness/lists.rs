//! Histories of transactions that read and append to lists, and whether they are strictly serialisable.
//!
//! The idea is Elle's: every appended value is unique, so that a list that was read tells which transactions came before
//! it, and in which order. Between transactions that makes edges: who appended after whom (ww), who read what somebody
//! appended (wr), who read a list before somebody appended to it (rw). To these come the edges of time: among those that
//! write, and among all that use one file, whoever began after another one had ended comes after it. (A replica may lag:
//! its readers come after nobody elsewhere.) No order of the transactions explains a history whose edges make a cycle.

use std::collections::{BTreeMap, HashMap};

mod order;

use order::{Because, Graph};

/// A value; appended once in a history.
pub type Value = u64;

/// One step of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A list was read.
    Read(u64, Vec<Value>),
    /// A value was appended to a list.
    Append(u64, Value),
}

/// What became of a transaction, as its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Acknowledged.
    Committed,
    /// Rolled back.
    Failed,
    /// Nobody said.
    Unknown,
}

/// A transaction as it was seen from outside.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The client; several may use one file.
    pub client: usize,
    /// The file.
    pub file: usize,
    /// When it began, and when it had ended.
    pub time: (u64, u64),
    /// What it did.
    pub steps: Vec<Step>,
    /// What became of it.
    pub end: End,
}

impl Transaction {
    fn appends(&self) -> impl Iterator<Item = (u64, Value)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Append(list, value) => Some((*list, *value)),
            Step::Read(..) => None,
        })
    }

    fn writes(&self) -> bool {
        self.appends().next().is_some()
    }
}

/// What a history that was found in order holds.
#[derive(Debug)]
pub struct Found {
    /// Transactions that count: acknowledged, or seen by others.
    pub transactions: usize,
    /// Unknown outcomes that turned out to be committed.
    pub unknown_committed: usize,
    /// Edges between them, those of time not counted.
    pub edges: usize,
}

/// Why no order explains a history.
pub type Violation = String;

/// Looks for an order. `last` are the lists as they are in the end: what is not there was not committed.
pub fn check(
    history: &[Transaction],
    last: &BTreeMap<u64, Vec<Value>>,
) -> Result<Found, Violation> {
    let appended = appended(history)?;
    orders_fit(history, last)?;
    let counts = counting(history, last, &appended)?;
    for (index, transaction) in history.iter().enumerate() {
        if counts[index] {
            explains_itself(transaction)?;
        }
    }
    let mut graph = Graph::of(history, last, &appended, &counts)?;
    let edges = graph.edges.iter().map(Vec::len).sum();
    graph.add_time(history, &counts);
    match graph.cycle() {
        Some(cycle) => Err(shown(history, &cycle)),
        None => Ok(Found {
            transactions: counts.iter().filter(|counts| **counts).count(),
            unknown_committed: (0..history.len())
                .filter(|&index| counts[index] && history[index].end == End::Unknown)
                .count(),
            edges,
        }),
    }
}

/// Who appended what.
fn appended(history: &[Transaction]) -> Result<HashMap<(u64, Value), usize>, Violation> {
    let mut appended = HashMap::new();
    for (index, transaction) in history.iter().enumerate() {
        for append in transaction.appends() {
            if appended.insert(append, index).is_some() {
                return Err(format!("the history itself appends {append:?} twice"));
            }
        }
    }
    Ok(appended)
}

/// Every list that was read is a beginning of what it is in the end, but for what the reader has appended itself.
fn orders_fit(history: &[Transaction], last: &BTreeMap<u64, Vec<Value>>) -> Result<(), Violation> {
    for (list, values) in last {
        let mut sorted = values.clone();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("{} is in list {list} twice", twice[0]));
        }
    }
    for transaction in history {
        // One that failed may have read its own appends only.
        for step in outside(transaction) {
            let Step::Read(list, values) = step else {
                continue;
            };
            let end = last.get(&list).map_or(&[][..], Vec::as_slice);
            if !end.starts_with(&values) {
                let common = end.iter().zip(&values).take_while(|(a, b)| a == b).count();
                return Err(format!(
                    "list {list} was read as …{:?} behind {common} values, and is …{:?} in the end: {transaction:?}",
                    &values[common..],
                    &end[common..end.len().min(common + 5)]
                ));
            }
        }
    }
    Ok(())
}

/// The first read of each list, before own appends to it.
fn outside(transaction: &Transaction) -> Vec<Step> {
    let mut touched = Vec::new();
    let mut reads = Vec::new();
    for step in &transaction.steps {
        let (Step::Read(list, _) | Step::Append(list, _)) = step;
        if touched.contains(list) {
            continue;
        }
        touched.push(*list);
        if let Step::Read(..) = step {
            reads.push(step.clone());
        }
    }
    reads
}

/// Which transactions are part of the order. All appends of one are there, or none.
fn counting(
    history: &[Transaction],
    last: &BTreeMap<u64, Vec<Value>>,
    appended: &HashMap<(u64, Value), usize>,
) -> Result<Vec<bool>, Violation> {
    let mut there = vec![0; history.len()];
    for (list, values) in last {
        for value in values {
            match appended.get(&(*list, *value)) {
                Some(&index) => there[index] += 1,
                None => return Err(format!("nobody has appended {value} to list {list}")),
            }
        }
    }
    let mut counts = Vec::new();
    for (transaction, there) in history.iter().zip(there) {
        let all = transaction.appends().count();
        let wrong = match transaction.end {
            End::Committed if there < all => Some("an acknowledged transaction is lost"),
            End::Failed if there > 0 => Some("a transaction that was rolled back is there"),
            End::Unknown if there > 0 && there < all => Some("a transaction is there in part"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            return Err(format!(
                "{wrong}: {there} of {all} appends: {transaction:?}"
            ));
        }
        counts.push(match transaction.end {
            End::Committed => true,
            End::Failed => false,
            End::Unknown => there > 0,
        });
    }
    Ok(counts)
}

/// Reads within a transaction agree with each other and with its own appends.
fn explains_itself(transaction: &Transaction) -> Result<(), Violation> {
    let mut lists: HashMap<u64, (Option<Vec<Value>>, Vec<Value>)> = HashMap::new();
    for step in &transaction.steps {
        match step {
            Step::Append(list, value) => lists.entry(*list).or_default().1.push(*value),
            Step::Read(list, values) => {
                let (before, own) = lists.entry(*list).or_default();
                let agrees = match before {
                    Some(before) => *values == [before.as_slice(), own].concat(),
                    None => values.ends_with(own),
                };
                if !agrees {
                    return Err(format!(
                        "list {list} changed within a transaction: {transaction:?}"
                    ));
                }
                *before = Some(values[..values.len() - own.len()].to_vec());
            }
        }
    }
    Ok(())
}

fn shown(history: &[Transaction], cycle: &[(usize, Because)]) -> String {
    let mut text = "these transactions are in no order:".to_string();
    for (node, because) in cycle {
        // Moments are passed over.
        if let Some(transaction) = history.get(*node) {
            let steps: Vec<String> = transaction.steps.iter().map(short).collect();
            text += &format!(
                "\n  client {} on file {} from {} to {}, {:?}: {} → {because:?}",
                transaction.client,
                transaction.file,
                transaction.time.0,
                transaction.time.1,
                transaction.end,
                steps.join(", ")
            );
        }
    }
    text
}

fn short(step: &Step) -> String {
    match step {
        Step::Append(list, value) => format!("append {list} {value}"),
        Step::Read(list, values) => {
            let from = values.len().saturating_sub(3);
            format!("read {list} ({}: …{:?})", values.len(), &values[from..])
        }
    }
}
