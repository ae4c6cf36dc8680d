//! The server and the remote that asks it, over real sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::fake::{Failing, Fake, PAGES, guarded, head, open, page};
use super::*;
use crate::page::PageNumber;
use crate::position::Position;
use crate::remote::{self, Access, Remote};
use crate::wire::{HashesRequest, PagesRequest, PeerId, PullRequest};

fn fake() -> Fake {
    Fake::new()
}

pub(super) fn start_with(address: &str, connections: usize) -> Result<Server> {
    Server::start(Listening {
        address: address::parse(address)?,
        tls: None,
        connections,
    })
}

pub(super) fn start(address: &str) -> Result<Server> {
    start_with(address, 512)
}

fn serving() -> (Server, Box<dyn Remote>) {
    let server = start("127.0.0.1:0").unwrap();
    server.add("app", open(fake())).unwrap();
    let remote = remote_of(server.listening().address, "/app");
    (server, remote)
}

pub(super) fn remote_of(address: SocketAddr, path: &str) -> Box<dyn Remote> {
    let access = Access {
        token: None,
        timeout: Duration::from_secs(5),
        ca_file: None,
    };
    remote::connect(&format!("http://{address}{path}"), access).unwrap()
}

fn pull(since: Option<Position>, after: Option<PageNumber>) -> Request {
    Request::Pull(PullRequest {
        database: None,
        since,
        after,
        deltas: false,
        wait_milliseconds: 0,
        peer: PeerId::UNKNOWN,
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

pub(super) fn get(address: SocketAddr, path: &str) -> String {
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
    let address = server.listening().address;
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
    let root = remote_of(server.listening().address, "/");
    root.ask(&nothing_new()).unwrap();
    assert!(
        server
            .add("app", open(fake()))
            .unwrap_err()
            .to_string()
            .contains("already")
    );
    server.add("a b", open(fake())).unwrap();
    remote_of(server.listening().address, "/a%20b")
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
        let error = remote_of(server.listening().address, path)
            .ask(&nothing_new())
            .unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{path}: {error:?}");
        assert!(error.to_string().contains("404"), "{path}: {error}");
    }
}

#[test]
fn errors_become_refusals() {
    let server = start("localhost:0").unwrap();
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
        server.add(&name, open(failing)).unwrap();
        let remote = remote_of(server.listening().address, &format!("/{name}"));
        let error = remote.ask(&nothing_new()).unwrap_err();
        let is_busy = matches!(error, Error::Busy(_));
        assert_eq!(is_busy, status == "503", "{error:?}");
        assert!(error.to_string().contains(status), "{error}");
    }
    server.add("app", open(fake())).unwrap();
    remote_of(server.listening().address, "/app")
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
        raw(server.listening().address, &format!("{head}{body}"))
    };
    let answer = post("/app/v1/pull", "what is this?");
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("the request is not valid"),
        "{answer}"
    );
    assert!(post("/app/v1/push", "").starts_with("HTTP/1.1 400"));
    assert!(post("/app/v1/pushes", "").starts_with("HTTP/1.1 404"));
    let head = "POST /app/v1/pull HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n";
    assert!(raw(server.listening().address, head).starts_with("HTTP/1.1 413"));
}

#[test]
fn a_request_must_fit_its_path() {
    let (server, _) = serving();
    let body = nothing_new().encode();
    let mut stream = TcpStream::connect(server.listening().address).unwrap();
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
    let address = server.listening().address;
    for _ in 0..5 {
        remote.ask(&nothing_new()).unwrap();
        server.stop();
        let error = remote.ask(&nothing_new()).unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        server = start(&address.to_string()).unwrap();
        server.add("app", open(fake())).unwrap();
        remote.ask(&nothing_new()).unwrap();
        remote.ask(&nothing_new()).unwrap();
        server.stop();
        server = start(&address.to_string()).unwrap();
        server.add("app", open(fake())).unwrap();
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

/// Whoever was about to commit would take a refusal for good.
#[test]
fn what_is_served_no_longer_when_a_request_has_arrived_may_be_back() {
    let requests = [
        ("/app/v1/pull", nothing_new().encode()),
        (
            "/app/v2/pipeline",
            br#"{"baton":null,"requests":[]}"#.to_vec(),
        ),
    ];
    for (path, body) in requests {
        let (server, _) = serving();
        server.add("other", open(fake())).unwrap();
        let mut peer = TcpStream::connect(server.listening().address).unwrap();
        let (length, (start, rest)) = (body.len(), body.split_at(1));
        write!(
            peer,
            "POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        )
        .unwrap();
        peer.write_all(start).unwrap();
        thread::sleep(Duration::from_millis(50));
        server.remove("app");
        peer.write_all(rest).unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{path}: {answer}");
    }
}

#[test]
fn stopping_is_prompt() {
    let (server, remote) = serving();
    let address = server.listening().address;
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
    let server = start("127.0.0.1:0").unwrap();
    server
        .add(
            "app",
            open(Fake {
                delay: Duration::from_secs(3),
                ..fake()
            }),
        )
        .unwrap();
    let remote = remote_of(server.listening().address, "/app");
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
fn an_address_in_use_is_refused() {
    let server = start("127.0.0.1:0").unwrap();
    let error = start(&server.listening().address.to_string())
        .err()
        .unwrap();
    assert!(
        matches!(&error, Error::CannotOpen(text) if text.contains("cannot serve on")),
        "{error:?}"
    );
}

/// A request with a token, on a connection of its own.
pub(super) fn with_token(address: SocketAddr, method: &str, path: &str, token: &str) -> String {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    let request = format!("{head}Authorization: bearer {token}\r\nContent-Length: 5\r\n\r\nwhat?");
    raw(address, &request)
}

#[test]
fn a_database_with_tokens_wants_one_and_tells_strangers_nothing() {
    let server = start("127.0.0.1:0").unwrap();
    let address = server.listening().address;
    server.add("app", guarded(fake())).unwrap();
    server.add("other", guarded(fake())).unwrap();
    let strangers = [
        "/app/v1/position",
        "/nothing/v1/position",
        "/v1/position",
        "/",
        "/app",
        "/..%2fapp/v1/position",
        "//app/v1/position",
        "/%ff/v1/position",
        "/app/v1/pull",
        "/app/v1/nothing",
    ];
    let answers = |ask: &dyn Fn(&str) -> String| {
        let mut answers: Vec<_> = strangers.iter().map(|path| ask(path)).collect();
        assert!(
            answers[0].starts_with("HTTP/1.1 401")
                && answers[0].contains("www-authenticate: Bearer")
        );
        let told = |line: &&str| !line.starts_with("date") && !line.starts_with("allow");
        answers.dedup_by_key(|answer| answer.lines().filter(told).collect::<String>());
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    };
    assert!(answers(&|path| get(address, path)).contains("a token is needed"));
    for method in ["GET", "POST", "DELETE"] {
        let answer = answers(&|path| with_token(address, method, path, "wrong"));
        assert!(
            answer.contains("not known") && !answer.contains("wrong"),
            "{answer}"
        );
    }
    assert!(get(address, "/health").ends_with("\r\n\r\nok"));
    let answer = with_token(address, "GET", "/app/v1/position", "good");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(with_token(address, "GET", "/nothing/v1/position", "good").starts_with("HTTP/1.1 401"));
    assert!(with_token(address, "POST", "/app/v1/push", "good").starts_with("HTTP/1.1 403"));
    assert!(with_token(address, "POST", "/app/v1/push", "writer").starts_with("HTTP/1.1 400"));
    assert!(with_token(address, "POST", "/app/v1/pull", "writer").starts_with("HTTP/1.1 400"));
}

#[test]
fn an_open_database_beside_one_with_tokens_stays_open() {
    let server = start("127.0.0.1:0").unwrap();
    let address = server.listening().address;
    server.add("app", guarded(fake())).unwrap();
    server.add("open", open(fake())).unwrap();
    assert!(get(address, "/open/v1/position").starts_with("HTTP/1.1 200"));
    assert!(with_token(address, "GET", "/open/v1/position", "what").starts_with("HTTP/1.1 200"));
    assert!(get(address, "/nothing/v1/position").starts_with("HTTP/1.1 401"));
}

#[test]
fn a_refusal_arrives_although_a_body_is_on_its_way() {
    let server = start("127.0.0.1:0").unwrap();
    server.add("app", guarded(fake())).unwrap();
    let address = server.listening().address;
    let head = "POST /app/v1/pull HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n";
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(5));
        stream.write_all(&[b'x'; 1000]).unwrap();
    }
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 401") && answer.ends_with("ok"),
        "{answer}"
    );
    // Whoever sends nothing is told within a second or so.
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn too_many_requests_are_told_so() {
    let server = start("127.0.0.1:0").unwrap();
    let address = server.listening().address;
    let slow = |database| Database {
        requests_per_second: 2,
        ..database
    };
    server.add("open", slow(open(fake()))).unwrap();
    server.add("app", slow(guarded(fake()))).unwrap();
    let statuses = |ask: &dyn Fn() -> String| {
        let answers: Vec<_> = (0..10).map(|_| ask()).collect();
        let limited = answers
            .iter()
            .filter(|answer| answer.starts_with("HTTP/1.1 429"));
        limited.count()
    };
    assert!(statuses(&|| get(address, "/open/v1/position")) >= 5);
    assert!(statuses(&|| with_token(address, "GET", "/app/v1/position", "good")) >= 5);
    assert_eq!(statuses(&|| get(address, "/app/v1/position")), 0);
    assert!(with_token(address, "GET", "/app/v1/position", "writer").starts_with("HTTP/1.1 200"));
}

#[test]
fn idle_connections_make_place() {
    let server = start_with("127.0.0.1:0", 8).unwrap();
    server.add("app", open(fake())).unwrap();
    let address = server.listening().address;
    let remote = remote_of(address, "/app");
    remote.ask(&nothing_new()).unwrap();
    let idle: Vec<_> = (0..50)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    for _ in 0..5 {
        remote.ask(&nothing_new()).unwrap();
        assert!(get(address, "/health").ends_with("ok"));
    }
    let mut first = &idle[0];
    first
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    assert!(matches!(first.read(&mut [0]), Ok(0) | Err(_)));
}
