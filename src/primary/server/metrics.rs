//! `GET /metrics`: the text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write};
use std::sync::Arc;

use super::counts;
use super::shared::Entry;
use crate::wire::Head;

/// What the answer is.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The connections of a server.
#[derive(Clone, Copy)]
pub(super) struct Connections {
    pub(super) open: usize,
    pub(super) most: usize,
}

/// What there is to tell about a database.
struct Figures {
    name: String,
    head: Head,
    transactions: u64,
    followers: usize,
    waiting: usize,
    log_bytes: u64,
    leases: usize,
    writers: usize,
    counts: counts::Snapshot,
}

/// Everything about some databases. May block.
pub(super) fn text(databases: &[Arc<Entry>], connections: Connections) -> String {
    let all: Vec<_> = databases.iter().map(|entry| Figures::of(entry)).collect();
    let mut text = Text(String::with_capacity(8192));
    text.state(&all);
    text.traffic(&all);
    text.family("connections", "gauge", "Open connections of the address.");
    text.sample("connections", &[], connections.open);
    let help = "Connections the address may have open.";
    text.family("connections_limit", "gauge", help);
    text.sample("connections_limit", &[], connections.most);
    text.0
}

impl Figures {
    fn of(entry: &Entry) -> Self {
        let (followers, turns) = (entry.service.followers(), entry.service.turns());
        Self {
            name: entry.name.clone(),
            head: followers.newest.head(),
            transactions: followers.newest.transactions(),
            followers: followers.peers.connected(),
            waiting: followers.commits.waiting(),
            log_bytes: entry.service.log_bytes(),
            leases: turns.leases(),
            writers: turns.waiting(),
            counts: entry.counts.snapshot(),
        }
    }
}

/// The text as it is written.
struct Text(String);

impl Text {
    fn state(&mut self, all: &[Figures]) {
        let page_size = |figures: &Figures| u64::from(figures.head.page_size.get());
        self.gauges(
            all,
            "position_lsn",
            "The newest captured transaction.",
            |it| it.head.position.lsn.0,
        );
        self.gauges(
            all,
            "database_pages",
            "Size of the database in pages.",
            |it| it.head.database_size.into(),
        );
        self.gauges(all, "page_size_bytes", "Size of a page.", page_size);
        self.gauges(all, "log_bytes", "Size of the log's file.", |it| {
            it.log_bytes
        });
        self.gauges(
            all,
            "followers",
            "Replicas heard of in the last 90 seconds.",
            |it| it.followers as u64,
        );
        self.gauges(
            all,
            "followers_waiting",
            "Pulls that wait for something new.",
            |it| it.waiting as u64,
        );
        self.gauges(
            all,
            "lease_holders",
            "Replicas that hold a lease to write.",
            |it| it.leases as u64,
        );
        self.gauges(
            all,
            "writers_waiting",
            "Pushes and leases that wait for their turn.",
            |it| it.writers as u64,
        );
    }

    fn traffic(&mut self, all: &[Figures]) {
        let help = "Transactions captured since the database is served.";
        self.counters(all, "captured_transactions_total", help, |it| {
            it.transactions
        });
        let help = "Bytes of requests.";
        self.counters(all, "received_bytes_total", help, |it| it.counts.received);
        let help = "Bytes of answers.";
        self.counters(all, "sent_bytes_total", help, |it| it.counts.sent);
        let help = "Requests by kind and HTTP status.";
        self.family("requests_total", "counter", help);
        for figures in all {
            for ((kind, status), count) in &figures.counts.requests {
                let status = status.to_string();
                let labels = [
                    ("database", &*figures.name),
                    ("kind", *kind),
                    ("status", &*status),
                ];
                self.sample("requests_total", &labels, count);
            }
        }
        self.family("pushes_total", "counter", "Pushes by their outcome.");
        for figures in all {
            for (outcome, count) in &figures.counts.pushes {
                let labels = [("database", &*figures.name), ("outcome", *outcome)];
                self.sample("pushes_total", &labels, count);
            }
        }
    }

    fn gauges(&mut self, all: &[Figures], name: &str, help: &str, of: impl Fn(&Figures) -> u64) {
        self.family(name, "gauge", help);
        self.each(all, name, of);
    }

    fn counters(&mut self, all: &[Figures], name: &str, help: &str, of: impl Fn(&Figures) -> u64) {
        self.family(name, "counter", help);
        self.each(all, name, of);
    }

    fn each(&mut self, all: &[Figures], name: &str, of: impl Fn(&Figures) -> u64) {
        for figures in all {
            self.sample(name, &[("database", &*figures.name)], of(figures));
        }
    }

    /// Begins a family of samples. (Writing to a string does not fail.)
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(
            self.0,
            "# HELP replica_{name} {help}\n# TYPE replica_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.0, "replica_{name}");
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escaped(text));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}

#[cfg(test)]
mod tests;
