//! What is known about a statement after each thing that can go wrong.

use std::net::TcpListener;

use super::super::tests::{against, give, take};
use super::*;
use crate::wire::hrana::Value;

fn stmt() -> Stmt {
    Stmt {
        sql: Some("SELECT ?".to_owned()),
        args: vec![Value::Float(f64::INFINITY)],
        ..Stmt::default()
    }
}

fn done(results: &str) -> Vec<u8> {
    format!(r#"{{"baton":null,"base_url":null,"results":[{results}],"position":"7-02020202020202020202020202020202"}}"#)
        .into_bytes()
}

const RAN: &str = r#"{"type":"ok","response":{"type":"execute","result":{"cols":[{"name":"a"}],"rows":[[{"type":"float","value":1e999}]],"affected_row_count":0,"last_insert_rowid":"0"}}},{"type":"ok","response":{"type":"get_autocommit","is_autocommit":true}}"#;

/// The error where the server answers with this status and body.
fn answered(status: &'static str, body: Vec<u8>) -> Result<Executed> {
    let (remote, server) = against(Some("secret"), move |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        take(&mut stream);
        give(&mut stream, status, &body);
    });
    let executed = remote.execute(&stmt());
    server.join().unwrap();
    executed
}

use crate::remote::Remote;

#[test]
fn a_result_is_understood() {
    let executed = answered("200 OK", done(RAN)).unwrap();
    assert_eq!(executed.result.rows, [[Value::Float(f64::INFINITY)]]);
    assert_eq!(executed.position.unwrap().lsn.0, 7);
    assert!(executed.traffic.sent > 50 && executed.traffic.received > 50);
}

#[test]
fn errors_of_the_statement_keep_their_code() {
    for (error, code) in [
        (
            r#"{"message":"no","code":"SQLITE_CONSTRAINT","extended_code":2067}"#,
            2067,
        ),
        (r#"{"message":"no","code":"SQLITE_BUSY"}"#, 5),
        (r#"{"message":"no","code":"ARGS_INVALID"}"#, 1),
        (
            r#"{"message":"no","code":"SQLITE_BUSY","extended_code":0}"#,
            5,
        ),
        (r#"{"message":"no"}"#, 1),
    ] {
        let results = format!(r#"{{"type":"error","error":{error}}}"#);
        let failed = answered("200 OK", done(&results)).unwrap_err();
        assert!(matches!(failed, Error::Statement { .. }), "{failed:?}");
        assert_eq!(failed.code(), code, "{error}");
    }
}

#[test]
fn refusals_say_that_nothing_ran() {
    for status in [
        "400 No", "401 No", "403 No", "404 No", "408 No", "413 No", "429 No", "503 No",
    ] {
        let body = br#"{"message":"because secret","code":"X"}"#.to_vec();
        let error = answered(status, body).unwrap_err();
        assert!(
            !matches!(error, Error::OutcomeUnknown { .. }),
            "{status}: {error:?}"
        );
        let text = error.to_string();
        assert!(text.contains("because …"), "{status}: {text}");
    }
}

#[test]
fn what_is_not_known_is_not_known() {
    for (status, body) in [
        ("500 No", b"x".to_vec()),
        ("502 No", b"x".to_vec()),
        ("504 No", b"x".to_vec()),
        ("200 OK", b"no JSON".to_vec()),
        ("200 OK", b"{}".to_vec()),
        ("200 OK", done("")),
    ] {
        let error = answered(status, body).unwrap_err();
        assert!(
            matches!(error, Error::OutcomeUnknown { .. }),
            "{status}: {error:?}"
        );
    }
    // A transaction that is left open is rolled back with its stream.
    let open = RAN.replace("true", "false");
    let error = answered("200 OK", done(&open)).unwrap_err();
    assert!(matches!(error, Error::Misuse(_)), "{error:?}");
    // Taken, and never answered; answered, and cut off.
    for cut in [
        None,
        Some(&b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"results"[..]),
    ] {
        let (remote, server) = against(None, move |listener| {
            let (mut stream, _) = listener.accept().unwrap();
            take(&mut stream);
            if let Some(bytes) = cut {
                std::io::Write::write_all(&mut stream, bytes).unwrap();
            }
        });
        let error = remote.execute(&stmt()).unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
        server.join().unwrap();
    }
    // No answer in time; and it is sent once.
    let (remote, server) = against(None, |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        take(&mut stream);
        std::thread::sleep(std::time::Duration::from_millis(600));
        listener.set_nonblocking(true).unwrap();
        listener.accept().is_err()
    });
    let error = remote.execute(&stmt()).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error:?}");
    assert!(server.join().unwrap(), "it was sent again");
}

#[test]
fn nothing_was_sent_where_nobody_listens() {
    let (remote, server) = against(None, |listener: TcpListener| drop(listener));
    server.join().unwrap();
    let error = remote.execute(&stmt()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert_eq!(error.code(), libsqlite3_sys::SQLITE_BUSY);
}

/// A kept connection may be dead without being known to be.
#[test]
fn every_statement_has_a_connection_of_its_own() {
    let (remote, server) = against(None, |listener| {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            take(&mut stream);
            give(&mut stream, "200 OK", &done(RAN));
        }
    });
    for _ in 0..2 {
        remote.execute(&stmt()).unwrap();
    }
    server.join().unwrap();
}
