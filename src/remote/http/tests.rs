//! The remote against servers that misbehave, each a script over a plain socket.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use super::*;
use crate::page::{ContentDigest, PageSize};
use crate::position::{DatabaseId, HistoryId, Lsn, Position};
use crate::wire::{Head, PeerId, PullRequest};

fn head() -> Head {
    Head {
        database: DatabaseId([1; 16]),
        position: Position {
            lsn: Lsn(7),
            id: HistoryId([2; 16]),
        },
        page_size: PageSize::new(4096).unwrap(),
        database_size: 9,
        content: ContentDigest::default(),
    }
}

fn nothing_new() -> Request {
    Request::Pull(PullRequest {
        database: None,
        since: Some(head().position),
        after: None,
        deltas: false,
        wait_milliseconds: 0,
        peer: PeerId::UNKNOWN,
    })
}

/// Reads one request; gives its head.
pub(super) fn take(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0);
    }
    let lower = head.to_lowercase();
    let (_, length) = lower.split_once("content-length: ").unwrap();
    let length = length.lines().next().unwrap().parse().unwrap();
    reader.read_exact(&mut vec![0; length]).unwrap();
    head
}

pub(super) fn give(stream: &mut TcpStream, status: &str, body: &[u8]) {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(body).unwrap();
}

fn up_to_date() -> Vec<u8> {
    Response::UpToDate(head()).encode().unwrap()
}

fn access(token: Option<&str>, timeout: Duration) -> Access {
    Access {
        token: token.map(str::to_owned),
        timeout,
        ca_file: None,
    }
}

/// A remote whose server follows `script`; what the script gives comes with it.
pub(super) fn against<T: Send + 'static>(
    token: Option<&str>,
    script: impl FnOnce(TcpListener) -> T + Send + 'static,
) -> (HttpRemote, thread::JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/app/", listener.local_addr().unwrap());
    let remote = HttpRemote::new(&url, access(token, Duration::from_millis(400))).unwrap();
    (remote, thread::spawn(move || script(listener)))
}

#[test]
fn one_connection_serves_many_requests_and_refusals() {
    let (remote, server) = against(Some("a.token"), |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        let first = take(&mut stream);
        give(&mut stream, "200 OK", &up_to_date());
        take(&mut stream);
        give(&mut stream, "403 Forbidden", &[b'x'; 5000]);
        take(&mut stream);
        give(&mut stream, "200 OK", &up_to_date());
        first
    });
    remote.ask(&nothing_new()).unwrap();
    let error = remote.ask(&nothing_new()).unwrap_err();
    assert_eq!(error.code(), libsqlite3_sys::SQLITE_READONLY);
    let error = error.to_string();
    assert!(
        error.len() < 1200 && error.contains("xxx (HTTP 403)"),
        "{error}"
    );
    remote.ask(&nothing_new()).unwrap();
    let head = server.join().unwrap();
    assert!(head.starts_with("POST /app/v1/pull HTTP/1.1\r\n"), "{head}");
    assert!(
        head.to_lowercase()
            .contains("\r\nauthorization: bearer a.token\r\n"),
        "{head}"
    );
}

#[test]
fn a_kept_connection_that_ends_under_a_request_is_replaced() {
    let (remote, server) = against(None, |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        take(&mut stream);
        give(&mut stream, "200 OK", &up_to_date());
        take(&mut stream);
        drop(stream);
        let (mut stream, _) = listener.accept().unwrap();
        take(&mut stream);
        give(&mut stream, "200 OK", &up_to_date());
        take(&mut stream);
        give(&mut stream, "200 OK", &up_to_date());
    });
    for _ in 0..3 {
        remote.ask(&nothing_new()).unwrap();
    }
    server.join().unwrap();
}

#[test]
fn a_server_that_always_breaks_off_is_unreachable() {
    let (remote, server) = against(None, |listener| {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            take(&mut stream);
        }
    });
    let error = remote.ask(&nothing_new()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    server.join().unwrap();
}

#[test]
fn silence_is_broken_off() {
    let (remote, server) = against(None, |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        take(&mut stream);
        let (mut other, _) = listener.accept().unwrap();
        take(&mut other);
        let body = up_to_date();
        write!(
            other,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .unwrap();
        other.write_all(&body[..20]).unwrap();
        (stream, other, listener)
    });
    for _ in 0..2 {
        let start = Instant::now();
        let error = remote.ask(&nothing_new()).unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("no answer for 0.4 s"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(2));
    }
    drop(server.join().unwrap());
}

#[test]
fn an_answer_may_be_as_late_as_a_pull_waits() {
    let (remote, server) = against(None, |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        take(&mut stream);
        thread::sleep(Duration::from_millis(700));
        give(&mut stream, "200 OK", &up_to_date());
        // And not later: this one has no answer.
        take(&mut stream);
        (stream, listener)
    });
    let waiting = |wait_milliseconds| match nothing_new() {
        Request::Pull(pull) => Request::Pull(PullRequest {
            wait_milliseconds,
            ..pull
        }),
        other => other,
    };
    remote.ask(&waiting(3000)).unwrap();
    let start = Instant::now();
    let error = remote.ask(&waiting(300)).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let elapsed = start.elapsed();
    assert!(elapsed > Duration::from_millis(690), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    drop(server.join().unwrap());
}

#[test]
fn a_slow_but_steady_answer_arrives() {
    let (remote, server) = against(None, |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        take(&mut stream);
        let body = up_to_date();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .unwrap();
        for part in body.chunks(20) {
            thread::sleep(Duration::from_millis(150));
            stream.write_all(part).unwrap();
        }
    });
    remote.ask(&nothing_new()).unwrap();
    server.join().unwrap();
}

#[test]
fn a_cut_answer_is_a_broken_connection_and_a_wrong_one_is_not() {
    let (remote, server) = against(None, |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        take(&mut stream);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nsqrp")
            .unwrap();
        drop(stream);
        for body in [
            &b"<html>log in to the network</html>"[..],
            &up_to_date()[..20],
            b"",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            take(&mut stream);
            give(&mut stream, "200 OK", body);
        }
        let (mut stream, _) = listener.accept().unwrap();
        take(&mut stream);
        stream.write_all(b"SSH-2.0-what\r\n\r\n").unwrap();
    });
    let error = remote.ask(&nothing_new()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    for _ in 0..3 {
        let error = remote.ask(&nothing_new()).unwrap_err();
        assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    }
    // Somebody else is there, for now: who asks again may find the primary.
    let error = remote.ask(&nothing_new()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    server.join().unwrap();
}

#[test]
fn an_endless_answer_is_broken_off() {
    let (remote, server) = against(None, |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        take(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let mut body = up_to_date();
        body[6] = 0x82;
        body.truncate(7 + 64);
        // A zstd frame of empty blocks: it decompresses to nothing, for ever.
        body.extend_from_slice(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x00]);
        stream.write_all(&body).unwrap();
        let empty = [0; 3 << 12];
        let mut sent = 0_usize;
        while stream.write_all(&empty).is_ok() {
            sent += empty.len();
        }
        sent
    });
    let request = Request::Pull(PullRequest {
        database: None,
        since: None,
        after: None,
        deltas: false,
        wait_milliseconds: 0,
        peer: PeerId::UNKNOWN,
    });
    let error = remote.ask(&request).unwrap_err();
    assert!(
        matches!(&error, Error::Protocol(text) if text.contains("longer than a part")),
        "{error:?}"
    );
    assert!(server.join().unwrap() < 64 << 20);
}

#[test]
fn what_a_refusal_says_is_cleaned() {
    let (remote, server) = against(Some("top-secret"), |listener| {
        for (status, body) in [
            (
                "401 Unauthorized",
                &b"token \x1b[31mtop-secret\r\nis not \xff known\n"[..],
            ),
            ("302 Found", b""),
            ("204 No Content", b""),
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            take(&mut stream);
            write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\nLocation: /x\r\n"
            )
            .unwrap();
            match status.starts_with("204") {
                true => write!(stream, "\r\n").unwrap(),
                false => write!(stream, "Content-Length: {}\r\n\r\n", body.len()).unwrap(),
            }
            stream.write_all(body).unwrap();
        }
    });
    let texts = [(); 3].map(|()| match remote.ask(&nothing_new()).unwrap_err() {
        Error::Unauthorized { reason, .. } | Error::Refused { reason, .. } => reason,
        error => panic!("{error:?}"),
    });
    assert_eq!(texts[0], "token  [31m…  is not \u{fffd} known (HTTP 401)");
    assert_eq!(texts[1], "HTTP 302 Found");
    assert_eq!(texts[2], "HTTP 204 No Content");
    server.join().unwrap();
}

#[test]
fn nobody_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/app", listener.local_addr().unwrap());
    drop(listener);
    let remote = HttpRemote::new(&url, access(None, Duration::from_secs(2))).unwrap();
    let error = remote.ask(&nothing_new()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(
        error.to_string().starts_with(&format!("remote {url}: ")),
        "{error}"
    );
    let url = "http://no-such-host.invalid/app";
    let remote = HttpRemote::new(url, access(None, Duration::from_secs(2))).unwrap();
    let error = remote.ask(&nothing_new()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[test]
fn tokens_that_no_header_carries_are_refused() {
    for token in ["", "two words", "line\nbreak", "umläut"] {
        let error = HttpRemote::new(
            "http://host/app",
            access(Some(token), Duration::from_secs(1)),
        );
        let error = error.err().unwrap().to_string();
        assert!(error.contains("auth_token") && (token.is_empty() || !error.contains(token)));
    }
}
