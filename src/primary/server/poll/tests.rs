//! Pulls that wait, over real sockets.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::super::admission::{Admission, Gate, NOT_KNOWN};
use super::super::fake::{Fake, head, open};
use super::super::tests::{remote_of, start, start_with};
use super::super::{Database, Server};
use crate::error::{Error, Result};
use crate::position::{HistoryId, Lsn, Position};
use crate::primary::followers::Followers;
use crate::wire::{Head, PeerId, PullRequest, Request, Response};

/// Longer than any test takes.
const LONG: u32 = 60_000;

fn waiting(wait_milliseconds: u32) -> Request {
    Request::Pull(PullRequest {
        database: Some(head().database),
        since: Some(head().position),
        after: None,
        deltas: false,
        wait_milliseconds,
        peer: PeerId([7; 8]),
    })
}

fn newer() -> Head {
    Head {
        position: Position {
            lsn: Lsn(8),
            id: HistoryId([8; 16]),
        },
        ..head()
    }
}

fn serving() -> (Server, Arc<Followers>) {
    let server = start("127.0.0.1:0").unwrap();
    let fake = Fake::new();
    let followers = Arc::clone(&fake.followers);
    server.add("app", open(fake)).unwrap();
    (server, followers)
}

/// Asks on a thread of its own; how long the answer took.
fn ask(address: SocketAddr, request: Request) -> JoinHandle<(Result<Response>, Duration)> {
    let remote = remote_of(address, "/app");
    thread::spawn(move || {
        let begun = Instant::now();
        let answer = remote.ask(&request).map(|(answer, _)| answer);
        (answer, begun.elapsed())
    })
}

#[track_caller]
fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never came");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_wait_ends_in_time() {
    let (server, followers) = serving();
    let address = server.listening().address;
    let (answer, took) = ask(address, waiting(300)).join().unwrap();
    assert_eq!(answer.unwrap(), Response::UpToDate(head()));
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(!followers.commits.are_awaited());
}

#[test]
fn who_lacks_something_does_not_wait() {
    let (server, followers) = serving();
    followers.newest.set(newer());
    let (answer, took) = ask(server.listening().address, waiting(LONG))
        .join()
        .unwrap();
    answer.unwrap();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn something_new_wakes_all_who_wait() {
    let (server, followers) = serving();
    let address = server.listening().address;
    let asking: Vec<_> = (0..50).map(|_| ask(address, waiting(LONG))).collect();
    until(|| followers.commits.waiting() == 50);
    let begun = Instant::now();
    followers.newest.set(newer());
    for asking in asking {
        asking.join().unwrap().0.unwrap();
    }
    println!("50 were woken in {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(!followers.commits.are_awaited());
}

#[test]
fn what_is_served_no_longer_wakes_all_who_wait() {
    let (server, followers) = serving();
    let asking = ask(server.listening().address, waiting(LONG));
    until(|| followers.commits.are_awaited());
    assert!(server.remove("app"));
    let (answer, took) = asking.join().unwrap();
    assert!(matches!(answer, Err(Error::Busy(_))), "{answer:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(!followers.commits.are_awaited());
    // Nor is anything kept open for them.
    until(|| Arc::strong_count(&followers) == 1);
}

#[test]
fn a_server_stops_although_somebody_waits() {
    let (server, followers) = serving();
    let address = server.listening().address;
    let asking: Vec<_> = (0..10).map(|_| ask(address, waiting(LONG))).collect();
    until(|| followers.commits.waiting() == 10);
    let begun = Instant::now();
    server.stop();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    for asking in asking {
        // Told so, or cut off where the machine is slow.
        asking.join().unwrap().0.unwrap_err();
    }
}

#[test]
fn who_goes_away_waits_no_longer() {
    use std::io::Write;
    let (server, followers) = serving();
    let body = waiting(LONG).encode();
    let mut peer = TcpStream::connect(server.listening().address).unwrap();
    let length = body.len();
    write!(
        peer,
        "POST /app/v1/pull HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    )
    .unwrap();
    peer.write_all(&body).unwrap();
    until(|| followers.commits.are_awaited());
    drop(peer);
    until(|| !followers.commits.are_awaited());
}

#[test]
fn who_waits_makes_place_after_those_who_do_nothing() {
    let server = start_with("127.0.0.1:0", 8).unwrap();
    let fake = Fake::new();
    let followers = Arc::clone(&fake.followers);
    server.add("app", open(fake)).unwrap();
    let address = server.listening().address;
    let asking: Vec<_> = (0..6).map(|_| ask(address, waiting(LONG))).collect();
    until(|| followers.commits.waiting() == 6);
    for _ in 0..20 {
        let remote = remote_of(address, "/app");
        remote.ask(&waiting(0)).unwrap();
        drop(TcpStream::connect(address).unwrap());
    }
    assert_eq!(followers.commits.waiting(), 6);
    followers.newest.set(newer());
    for asking in asking {
        asking.join().unwrap().0.unwrap();
    }
}

/// With a refusal: whoever is cut off comes back at once, and takes the place of the next.
#[test]
fn where_all_wait_one_is_told_to_come_back_later() {
    let server = start_with("127.0.0.1:0", 4).unwrap();
    let fake = Fake::new();
    let followers = Arc::clone(&fake.followers);
    server.add("app", open(fake)).unwrap();
    let address = server.listening().address;
    let asking: Vec<_> = (0..4).map(|_| ask(address, waiting(LONG))).collect();
    until(|| followers.commits.waiting() == 4);
    let remote = remote_of(address, "/app");
    remote.ask(&waiting(0)).unwrap();
    until(|| asking.iter().filter(|asking| asking.is_finished()).count() == 1);
    assert_eq!(followers.commits.waiting(), 3);
    followers.newest.set(newer());
    let answers = asking.into_iter().map(|asking| asking.join().unwrap().0);
    let busy = |answer: &Result<Response>| matches!(answer, Err(Error::Busy(_)));
    assert_eq!(answers.filter(busy).count(), 1);
}

/// Lets everybody in until it is closed.
struct Closing(Arc<AtomicBool>);

impl Gate for Closing {
    fn is_current(&self) -> bool {
        true
    }

    fn refresh(&self) -> Result<()> {
        Ok(())
    }

    fn needs_token(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn admit(&self, _: &str) -> Admission {
        Admission::Refused(NOT_KNOWN)
    }
}

#[test]
fn who_may_ask_no_longer_is_told_nothing_new() {
    let server = start("127.0.0.1:0").unwrap();
    let fake = Fake::new();
    let followers = Arc::clone(&fake.followers);
    let closed = Arc::new(AtomicBool::new(false));
    let gate = Arc::new(Closing(Arc::clone(&closed)));
    server.add("app", Database { gate, ..open(fake) }).unwrap();
    let asking = ask(server.listening().address, waiting(LONG));
    until(|| followers.commits.are_awaited());
    closed.store(true, Ordering::SeqCst);
    followers.newest.set(newer());
    let (answer, _) = asking.join().unwrap();
    assert!(
        matches!(answer, Err(Error::Unauthorized { .. })),
        "{answer:?}"
    );
}
