//! The server and the remote that asks it, over real sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::fake::{Failing, Fake, PAGES, head, page};
use super::*;
use crate::page::PageNumber;
use crate::position::Position;
use crate::remote::{self, Remote};
use crate::wire::{HashesRequest, PagesRequest, PullRequest};

fn fake() -> Arc<Fake> {
    Arc::new(Fake {
        delay: Duration::ZERO,
    })
}

fn serving() -> (Server, Box<dyn Remote>) {
    let server = Server::start("127.0.0.1:0").unwrap();
    server.add("app", fake()).unwrap();
    let remote = remote_of(server.local_address(), "/app");
    (server, remote)
}

fn remote_of(address: SocketAddr, path: &str) -> Box<dyn Remote> {
    remote::connect(
        &format!("http://{address}{path}"),
        None,
        Duration::from_secs(5),
    )
    .unwrap()
}

fn pull(since: Option<Position>, after: Option<PageNumber>) -> Request {
    Request::Pull(PullRequest {
        database: None,
        since,
        after,
        deltas: false,
    })
}

fn nothing_new() -> Request {
    pull(Some(head().position), None)
}

/// One raw HTTP exchange on a connection of its own.
fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: SocketAddr, path: &str) -> String {
    raw(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    )
}

#[test]
fn every_request_is_answered() {
    let (_server, remote) = serving();
    let (answer, traffic) = remote.ask(&nothing_new()).unwrap();
    assert_eq!(answer, Response::UpToDate(head()));
    assert_eq!(traffic.sent, nothing_new().encode().len() as u64);
    assert_eq!(traffic.received, answer.encode().unwrap().len() as u64);

    let mut pages = 0;
    let mut after = None;
    loop {
        let (answer, _) = remote.ask(&pull(None, after)).unwrap();
        let Response::Pages {
            pages: part, next, ..
        } = answer
        else {
            panic!("{answer:?}")
        };
        pages += part.len();
        match next {
            Some(_) => after = next,
            None => break,
        }
    }
    assert_eq!(pages, PAGES as usize);

    let hashes = Request::Hashes(HashesRequest {
        database: None,
        after: None,
    });
    let (answer, _) = remote.ask(&hashes).unwrap();
    assert!(matches!(answer, Response::Hashes { hashes, .. } if hashes.len() == PAGES as usize));

    let some = vec![page(3).number, page(9).number];
    let some = Request::Pages(PagesRequest {
        database: None,
        pages: some,
    });
    let (answer, _) = remote.ask(&some).unwrap();
    assert!(matches!(answer, Response::Pages { pages, .. } if pages == [page(3), page(9)]));
}

#[test]
fn plain_paths_answer() {
    let (server, _) = serving();
    let address = server.local_address();
    assert!(get(address, "/health").ends_with("\r\n\r\nok"));
    for path in ["/app/v1/position", "/v1/position"] {
        let answer = get(address, path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(
            answer.ends_with(&format!("\r\n\r\n{}\n", head().position)),
            "{answer}"
        );
    }
    assert!(get(address, "/app/v1/pull").starts_with("HTTP/1.1 405"));
    for path in [
        "/nothing",
        "/%2e%2e/v1/position",
        "//v1/position",
        "/app/v1/position/",
    ] {
        assert!(get(address, path).starts_with("HTTP/1.1 404"), "{path}");
    }
}

#[test]
fn the_root_is_the_only_database() {
    let (server, _) = serving();
    let root = remote_of(server.local_address(), "/");
    root.ask(&nothing_new()).unwrap();
    assert!(
        server
            .add("app", fake())
            .unwrap_err()
            .to_string()
            .contains("already")
    );
    server.add("a b", fake()).unwrap();
    remote_of(server.local_address(), "/a%20b")
        .ask(&nothing_new())
        .unwrap();
    let error = root.ask(&nothing_new()).unwrap_err().to_string();
    assert!(
        error.contains("name the database") && !error.contains("app"),
        "{error}"
    );
    assert!(server.remove("app") && !server.remove("app") && !server.is_empty());
    root.ask(&nothing_new()).unwrap();
    assert!(server.remove("a b") && server.is_empty());
}

#[test]
fn other_names_are_not_served() {
    let (server, _) = serving();
    for path in ["/App", "/ap", "/app/x", "/app%00"] {
        let error = remote_of(server.local_address(), path)
            .ask(&nothing_new())
            .unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{path}: {error:?}");
        assert!(error.to_string().contains("404"), "{path}: {error}");
    }
}

#[test]
fn errors_become_refusals() {
    let server = Server::start("localhost:0").unwrap();
    let failures = [
        ("400", Failing(|| Error::Misuse("not now".into()))),
        ("503", Failing(|| Error::Busy("not now".into()))),
        ("500", Failing(|| Error::Corrupt("not now".into()))),
        (
            "500",
            Failing(|| panic!("a service that panics, on purpose")),
        ),
    ];
    for (index, (status, failing)) in failures.into_iter().enumerate() {
        let name = format!("failing{index}");
        server.add(&name, Arc::new(failing)).unwrap();
        let remote = remote_of(server.local_address(), &format!("/{name}"));
        let error = remote.ask(&nothing_new()).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(status), "{error}");
    }
    server.add("app", fake()).unwrap();
    remote_of(server.local_address(), "/app")
        .ask(&nothing_new())
        .unwrap();
}

#[test]
fn bad_requests_are_told_so() {
    let (server, _) = serving();
    let post = |path: &str, body: &str| {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        raw(server.local_address(), &format!("{head}{body}"))
    };
    let answer = post("/app/v1/pull", "what is this?");
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("the request is not valid"),
        "{answer}"
    );
    assert!(post("/app/v1/push", "").starts_with("HTTP/1.1 404"));
    let head = "POST /app/v1/pull HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n";
    assert!(raw(server.local_address(), head).starts_with("HTTP/1.1 413"));
}

#[test]
fn a_request_must_fit_its_path() {
    let (server, _) = serving();
    let body = nothing_new().encode();
    let mut stream = TcpStream::connect(server.local_address()).unwrap();
    let head = "POST /app/v1/hashes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len()).unwrap();
    stream.write_all(&body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("a 'pull' request at 'hashes'"), "{answer}");
}

#[test]
fn a_restart_on_the_same_port_goes_unnoticed() {
    let (mut server, remote) = serving();
    let address = server.local_address();
    for _ in 0..5 {
        remote.ask(&nothing_new()).unwrap();
        server.stop();
        let error = remote.ask(&nothing_new()).unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        server = Server::start(&address.to_string()).unwrap();
        server.add("app", fake()).unwrap();
        remote.ask(&nothing_new()).unwrap();
        remote.ask(&nothing_new()).unwrap();
        server.stop();
        server = Server::start(&address.to_string()).unwrap();
        server.add("app", fake()).unwrap();
        remote.ask(&nothing_new()).unwrap();
    }
}

#[test]
fn asking_for_nothing_is_quick() {
    let (_server, remote) = serving();
    remote.ask(&nothing_new()).unwrap();
    let start = Instant::now();
    for _ in 0..100 {
        remote.ask(&nothing_new()).unwrap();
    }
    println!("mean of 100 no-op asks: {:?}", start.elapsed() / 100);
}

#[test]
fn many_threads_ask_at_once() {
    let (_server, remote) = serving();
    let answers = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let (answer, _) = remote.ask(&pull(None, None)).unwrap();
                    assert!(matches!(answer, Response::Pages { .. }));
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(answers.into_inner(), 36);
}

#[test]
fn stopping_is_prompt() {
    let (server, remote) = serving();
    let address = server.local_address();
    remote.ask(&nothing_new()).unwrap();
    let idle = TcpStream::connect(address).unwrap();
    let mut half = TcpStream::connect(address).unwrap();
    half.write_all(b"POST /app/v1/pull HTTP/1.1\r\nContent-Length: 10\r\n\r\n123")
        .unwrap();
    thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    server.stop();
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert!(TcpStream::connect(address).is_err());
    drop(idle);
}

#[test]
fn stopping_does_not_wait_for_a_slow_answer() {
    let server = Server::start("127.0.0.1:0").unwrap();
    server
        .add(
            "app",
            Arc::new(Fake {
                delay: Duration::from_secs(3),
            }),
        )
        .unwrap();
    let remote = remote_of(server.local_address(), "/app");
    let asking = thread::spawn(move || remote.ask(&nothing_new()));
    thread::sleep(Duration::from_millis(200));
    let start = Instant::now();
    server.stop();
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    let error = asking.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[test]
fn only_loopback_is_served() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80", "example.org:80"] {
        let error = Server::start(address).err().unwrap();
        assert!(
            matches!(&error, Error::Misuse(text) if text.contains("tokens")),
            "{error:?}"
        );
    }
    for address in [
        "",
        "localhost",
        "127.0.0.1",
        "localhost:x",
        "127.0.0.1:70000",
        "[::1",
        ":80",
    ] {
        let error = Server::start(address).err().unwrap();
        assert!(
            matches!(&error, Error::Misuse(text) if text.contains("host:port")),
            "{error:?}"
        );
    }
    let server = Server::start("127.0.0.1:0").unwrap();
    let error = Server::start(&server.local_address().to_string())
        .err()
        .unwrap();
    assert!(
        matches!(&error, Error::CannotOpen(text) if text.contains("cannot serve on")),
        "{error:?}"
    );
}
