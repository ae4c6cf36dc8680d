//! What is told about a server, and to whom.

use std::sync::Arc;

use super::super::fake::{Fake, guarded, head, open};
use super::super::tests::{get, remote_of, start, with_token};
use super::Text;
use crate::wire::{PeerId, PullRequest, Request};

#[test]
fn samples_are_written_as_prometheus_reads_them() {
    let mut text = Text(String::new());
    text.family("things_total", "counter", "Things.");
    text.sample("things_total", &[], 3);
    let labels = [("database", "a\"b\\c\nd"), ("kind", "pull")];
    text.sample("things_total", &labels, 4);
    let expected = "# HELP replica_things_total Things.\n\
        # TYPE replica_things_total counter\n\
        replica_things_total 3\n\
        replica_things_total{database=\"a\\\"b\\\\c\\nd\",kind=\"pull\"} 4\n";
    assert_eq!(text.0, expected);
}

fn pull(peer: PeerId) -> Request {
    Request::Pull(PullRequest {
        database: None,
        since: Some(head().position),
        after: None,
        deltas: false,
        wait_milliseconds: 0,
        peer,
    })
}

#[track_caller]
fn has(answer: &str, sample: &str) {
    assert!(
        answer.lines().any(|line| line == sample),
        "no {sample} in {answer}"
    );
}

#[test]
fn what_was_asked_is_counted() {
    let server = start("127.0.0.1:0").unwrap();
    let address = server.listening().address;
    let fake = Fake::new();
    let followers = Arc::clone(&fake.followers);
    server.add("app", open(fake)).unwrap();
    let remote = remote_of(address, "/app");
    let (request, mut received) = (pull(PeerId([7; 8])), 0);
    for _ in 0..3 {
        received += remote.ask(&request).unwrap().1.received;
    }
    let three = "replica_requests_total{database=\"app\",kind=\"pull\",status=\"200\"} 3";
    let answer = get(address, "/metrics");
    has(&answer, three);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("text/plain; version=0.0.4"));
    for sample in [
        "# TYPE replica_requests_total counter",
        "replica_position_lsn{database=\"app\"} 7",
        "replica_database_pages{database=\"app\"} 300",
        "replica_log_bytes{database=\"app\"} 4152",
        "replica_followers{database=\"app\"} 1",
        "replica_followers_waiting{database=\"app\"} 0",
        "replica_lease_holders{database=\"app\"} 0",
        "replica_connections_limit 512",
        &format!("replica_sent_bytes_total{{database=\"app\"}} {received}"),
    ] {
        has(&answer, sample);
    }
    let peers = followers.peers.list();
    let (id, peer) = peers[0];
    assert_eq!((peers.len(), id), (1, PeerId([7; 8])));
    assert_eq!(peer.position, Some(head().position));
    assert_eq!((peer.sent, peer.origin.token), (received, None));
    assert_eq!(peer.received, 3 * request.encode().len() as u64);
}

#[test]
fn all_databases_are_told_of_at_the_root_and_one_below_its_name() {
    let server = start("127.0.0.1:0").unwrap();
    let address = server.listening().address;
    server.add("a", open(Fake::new())).unwrap();
    server.add("b", open(Fake::new())).unwrap();
    let lsn = |name| format!("replica_position_lsn{{database=\"{name}\"}} 7");
    let both = get(address, "/metrics");
    has(&both, &lsn("a"));
    has(&both, &lsn("b"));
    let one = get(address, "/b/metrics");
    has(&one, &lsn("b"));
    assert!(!one.contains(&lsn("a")), "{one}");
    assert!(get(address, "/c/metrics").starts_with("HTTP/1.1 404"));
}

#[test]
fn figures_need_a_token_where_the_database_does() {
    let server = start("127.0.0.1:0").unwrap();
    let address = server.listening().address;
    server.add("app", guarded(Fake::new())).unwrap();
    for path in ["/metrics", "/app/metrics", "/other/metrics"] {
        assert!(get(address, path).starts_with("HTTP/1.1 401"), "{path}");
    }
    for path in ["/metrics", "/app/metrics"] {
        let answer = with_token(address, "GET", path, "good");
        has(&answer, "replica_position_lsn{database=\"app\"} 7");
        assert!(answer.contains("status=\"401\""), "{answer}");
    }
    server.add("open", open(Fake::new())).unwrap();
    assert!(get(address, "/metrics").starts_with("HTTP/1.1 401"));
    assert!(get(address, "/open/metrics").starts_with("HTTP/1.1 200"));
}
