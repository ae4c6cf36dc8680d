//! What has to come before what in a history, and whether that goes in a circle.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::{End, Step, Transaction, Value, Violation, outside};

/// Why one transaction comes after another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Because {
    /// It appended later.
    Ww,
    /// It read what the other one appended.
    Wr,
    /// The other one appended after what it read.
    Rw,
    /// It began after the other one had ended.
    Time,
}

/// Transactions are nodes by their place in the history; behind them come the moments in time.
pub struct Graph {
    /// From each node: where to, and why.
    pub edges: Vec<Vec<(usize, Because)>>,
}

impl Graph {
    /// The graph of a history, without time.
    pub fn of(
        history: &[Transaction],
        last: &BTreeMap<u64, Vec<Value>>,
        appended: &HashMap<(u64, Value), usize>,
        counts: &[bool],
    ) -> Result<Graph, Violation> {
        let mut graph = Graph {
            edges: vec![Vec::new(); history.len()],
        };
        for (list, values) in last {
            for pair in values.windows(2) {
                let (one, other) = (appended[&(*list, pair[0])], appended[&(*list, pair[1])]);
                graph.add(one, other, Because::Ww);
            }
        }
        for (index, transaction) in history.iter().enumerate() {
            if !counts[index] {
                continue;
            }
            for step in outside(transaction) {
                let Step::Read(list, values) = step else {
                    continue;
                };
                let end = last.get(&list).map_or(&[][..], Vec::as_slice);
                if let Some(value) = values.last() {
                    let writer = appended[&(list, *value)];
                    graph.add(writer, index, Because::Wr);
                    // Nobody sees a transaction between its own appends.
                    let of_writer = history[writer].appends().filter(|append| append.0 == list);
                    if writer != index && of_writer.last() != Some((list, *value)) {
                        return Err(format!("half of a transaction was read: {transaction:?}"));
                    }
                }
                if let Some(value) = end.get(values.len()) {
                    graph.add(index, appended[&(list, *value)], Because::Rw);
                }
            }
        }
        Ok(graph)
    }

    fn add(&mut self, from: usize, to: usize, because: Because) {
        if from != to && !self.edges[from].contains(&(to, because)) {
            self.edges[from].push((to, because));
        }
    }

    /// Adds what time says.
    pub fn add_time(&mut self, history: &[Transaction], counts: &[bool]) {
        let files = history.iter().map(|transaction| transaction.file);
        let files: BTreeSet<usize> = files.collect();
        let among = |belongs: &dyn Fn(&Transaction) -> bool| -> Vec<usize> {
            (0..history.len())
                .filter(|&index| counts[index] && belongs(&history[index]))
                .collect()
        };
        self.add_times(history, &among(&Transaction::writes));
        for file in files {
            self.add_times(history, &among(&|transaction| transaction.file == file));
        }
    }

    /// A node for each moment at which one ended, each before the next: whoever began later comes after it.
    fn add_times(&mut self, history: &[Transaction], among: &[usize]) {
        let mut ends: Vec<(u64, usize)> = among
            .iter()
            // An unknown outcome may have come about at any later time.
            .filter(|&&index| history[index].end == End::Committed)
            .map(|&index| (history[index].time.1, index))
            .collect();
        ends.sort_unstable();
        let first = self.edges.len();
        for (place, (_, index)) in ends.iter().enumerate() {
            let moment = self.edges.len();
            self.edges.push(Vec::new());
            self.add(*index, moment, Because::Time);
            if place > 0 {
                self.add(moment - 1, moment, Because::Time);
            }
        }
        for &index in among {
            let before = ends.partition_point(|(end, _)| *end < history[index].time.0);
            if before > 0 {
                self.add(first + before - 1, index, Because::Time);
            }
        }
    }

    /// A shortest cycle through some node that is on one.
    pub fn cycle(&self) -> Option<Vec<(usize, Because)>> {
        // Whoever is not before or after a cycle can be peeled off from both ends.
        let mut inward = vec![0; self.edges.len()];
        for (to, _) in self.edges.iter().flatten() {
            inward[*to] += 1;
        }
        let mut free: Vec<usize> = (0..inward.len())
            .filter(|&node| inward[node] == 0)
            .collect();
        let mut left = inward.len();
        while let Some(node) = free.pop() {
            left -= 1;
            for (to, _) in &self.edges[node] {
                inward[*to] -= 1;
                if inward[*to] == 0 {
                    free.push(*to);
                }
            }
        }
        if left == 0 {
            return None;
        }
        let rest = (0..inward.len()).filter(|&node| inward[node] > 0);
        rest.filter_map(|node| self.shortest(node))
            .min_by_key(Vec::len)
    }

    fn shortest(&self, start: usize) -> Option<Vec<(usize, Because)>> {
        let mut came: HashMap<usize, (usize, Because)> = HashMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for &(to, because) in &self.edges[node] {
                if came.contains_key(&to) {
                    continue;
                }
                came.insert(to, (node, because));
                if to == start {
                    let mut cycle = Vec::new();
                    let mut at = start;
                    loop {
                        let (before, because) = came[&at];
                        cycle.push((before, because));
                        at = before;
                        if at == start {
                            cycle.reverse();
                            return Some(cycle);
                        }
                    }
                }
                queue.push_back(to);
            }
        }
        None
    }
}
