//! A primary among strangers: tokens, names, limits and TLS, in real hosts over real sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::{
    Certificates, Files, Host, Primary, Shell, assert_same, free_port, json, notes, number,
    side_file, uri, wait_for,
};

const SQLITE_READONLY: i32 = 8;
const SQLITE_CANTOPEN: i32 = 14;
const SQLITE_AUTH: i32 = 23;

/// A token just made, and its number.
struct Token {
    text: String,
    id: u64,
}

#[track_caller]
fn token(shell: &mut Shell, scope: &str, seconds: u32) -> Token {
    let answer = shell.sql(&format!("SELECT replica_token('{scope}', {seconds})"));
    assert_eq!(json(&answer, "$.scope"), scope);
    let text = json(&answer, "$.token");
    let id = number(&answer, "$.id");
    assert!(text.starts_with(&format!("r1_{id}_")), "{text}");
    assert_eq!(text.rsplit('_').next().expect("secret").len(), 64);
    assert!(number(&answer, "$.expires") > 1_600_000_000);
    Token { text, id }
}

/// What a server answers to raw bytes until it closes the connection, which it must within `seconds`.
#[track_caller]
fn raw(address: &str, request: &str, seconds: u64) -> String {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.write_all(request.as_bytes()).expect("send");
    rest(&mut stream, seconds)
}

/// What comes until the connection ends.
fn rest(stream: &mut TcpStream, seconds: u64) -> String {
    let timeout = Some(Duration::from_secs(seconds));
    stream.set_read_timeout(timeout).expect("time-out");
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the connection stays open for {seconds} s: {error}"),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of a request that carries a token.
#[track_caller]
fn ask(address: &str, method: &str, path: &str, token: Option<&str>) -> String {
    let authorization = token.map_or(String::new(), |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}Content-Length: 0\r\n\r\n"
    );
    raw(address, &request, 10)
}

#[track_caller]
fn status(answer: &str) -> &str {
    answer
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("no status in {answer:?}"))
}

#[track_caller]
fn assert_status(address: &str, path: &str, token: Option<&str>, expected: &str) {
    let answer = ask(address, "GET", path, token);
    assert_eq!(status(&answer), expected, "{path}: {answer}");
}

/// No file of the directory, and none of `texts`, holds the secret of a token.
#[track_caller]
fn assert_nowhere(token: &Token, directory: &Path, texts: &[&str]) {
    let secret = token.text.rsplit('_').next().expect("secret");
    for entry in std::fs::read_dir(directory).expect("directory") {
        let path = entry.expect("entry").path();
        let bytes = std::fs::read(&path).expect("read");
        let found = bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!found, "{path:?} holds a token");
    }
    for text in texts {
        assert!(!text.contains(secret), "a token is told: {text}");
    }
}

#[test]
fn the_first_token_closes_the_door() {
    let files = Files::new();
    let mut primary = files.primary();
    let address = primary.address().to_owned();
    let mut host = Host::python();
    host.open_replica(&files.copy, &format!("sync_url={}", primary.url()));
    host.sql("main", "SELECT replica_sync()");
    let token = token(primary.shell(), "read", 3600);
    // On the connection that is open already, too.
    let failure = host.refused("main", "SELECT replica_sync()");
    assert_eq!(failure.code, SQLITE_AUTH, "{failure:?}");
    let told = host.sql("main", "SELECT last_error FROM replica_status");
    assert!(
        told.contains("a token is needed") && told.contains("auth_token"),
        "{told}"
    );
    assert_eq!(host.sql("main", "SELECT count(*) FROM note"), "1000");
    host.close_connection("main");

    host.open_replica(&files.copy, "auth_token=r1_1_0000");
    let failure = host.refused("main", "SELECT replica_sync()");
    assert_eq!(failure.code, SQLITE_AUTH, "{failure:?}");
    assert!(failure.message.contains("not known"), "{failure:?}");
    host.close_connection("main");

    host.open_replica(&files.copy, &format!("auth_token={}", token.text));
    primary.sql("INSERT INTO note VALUES (2000, 'for the bearer', NULL)");
    host.sql("main", "SELECT replica_sync()");
    let row = host.sql("main", "SELECT * FROM replica_status");
    assert_same(&files.app, &files.copy, "with the token");
    let status_row = primary.sql("SELECT * FROM replica_status");
    assert_nowhere(&token, files.directory.path(), &[&row, &status_row]);

    assert_status(&address, "/app/v1/position", Some(&token.text), "200");
    assert_status(&address, "/health", None, "200");
    // A digit too many, one too few, another id, another case.
    let text = &token.text;
    for wrong in [
        format!("{text}0"),
        text[..text.len() - 1].to_owned(),
        text.replacen("r1_1_", "r1_2_", 1),
        text.replacen("r1_1_", "r1_01_", 1),
        text.replacen("r1_", "r2_", 1),
        text.to_uppercase(),
        "r1__".to_owned(),
        "x".repeat(8000),
    ] {
        assert_status(&address, "/app/v1/position", Some(&wrong), "401");
    }
}

#[test]
fn tokens_end() {
    let files = Files::new();
    let mut primary = files.primary();
    let address = primary.address().to_owned();
    let short = token(primary.shell(), "read", 2);
    let long = token(primary.shell(), "write", 3600);
    let position = "/app/v1/position";
    assert_status(&address, position, Some(&short.text), "200");
    assert_status(&address, position, Some(&long.text), "200");
    wait_for("the token to expire", || {
        status(&ask(&address, "GET", position, Some(&short.text))) == "401"
    });
    let answer = ask(&address, "GET", position, Some(&short.text));
    assert!(answer.contains("has expired"), "{answer}");

    // Revoked in the serving process: at once, and for a replica under way.
    let mut host = Host::bundled();
    let url = format!("sync_url={}&auth_token={}", primary.url(), long.text);
    host.open_replica(&files.copy, &url);
    host.sql("main", "SELECT replica_sync()");
    primary.sql(&format!("SELECT replica_revoke({})", long.id));
    let failure = host.refused("main", "SELECT replica_sync()");
    assert_eq!(failure.code, SQLITE_AUTH, "{failure:?}");
    assert!(failure.message.contains("was revoked"), "{failure:?}");
    // The last one is gone, and the door stays closed.
    assert_status(&address, position, None, "401");
    for wrong in [
        format!("SELECT replica_revoke({})", long.id),
        "SELECT replica_revoke(77)".to_owned(),
        "SELECT replica_revoke(-1)".to_owned(),
        "SELECT replica_token('read', 0)".to_owned(),
        "SELECT replica_token('read', -5)".to_owned(),
        "SELECT replica_token('admin', 60)".to_owned(),
        "SELECT replica_token(NULL, 60)".to_owned(),
        "BEGIN IMMEDIATE; SELECT replica_token('read', 60)".to_owned(),
    ] {
        primary.shell().refused(&wrong);
    }
    primary.sql("ROLLBACK");

    // Another process makes and revokes: known within a second or so.
    let mut other = Shell::with_extension();
    other.open(&uri(&files.app, ""));
    let third = token(&mut other, "read", 3600);
    wait_for("the token of another process", || {
        status(&ask(&address, "GET", position, Some(&third.text))) == "200"
    });
    other.sql(&format!("SELECT replica_revoke({})", third.id));
    let revoked = Instant::now();
    wait_for("its end", || {
        status(&ask(&address, "GET", position, Some(&third.text))) == "401"
    });
    assert!(
        revoked.elapsed() < Duration::from_secs(4),
        "{:?}",
        revoked.elapsed()
    );

    // Tokens outlive the server; a replica has none to give.
    let fourth = token(primary.shell(), "read", 3600);
    primary.close();
    let primary = Primary::start(&files.app);
    assert_status(primary.address(), position, Some(&fourth.text), "200");
    assert_status(primary.address(), position, None, "401");
    host.refused("main", "SELECT replica_token('read', 60)");
}

#[test]
fn a_read_token_reads_and_a_refused_one_makes_no_replica() {
    let files = Files::new();
    let mut primary = files.primary();
    let address = primary.address().to_owned();
    let reader = token(primary.shell(), "read", 3600);
    let writer = token(primary.shell(), "write", 3600);
    for (token, expected) in [(&reader, "403"), (&writer, "400")] {
        let answer = ask(&address, "POST", "/app/v1/push", Some(&token.text));
        assert_eq!(status(&answer), expected, "{answer}");
    }
    let mut host = Host::python();
    let name = uri(&files.copy, &format!("sync_url={}", primary.url()));
    let failure = host.refused_at_open_or("main", &name, "SELECT count(*) FROM note");
    assert_eq!(failure.code, SQLITE_AUTH, "{failure:?}");
    assert!(!files.copy.exists());
    for token in [&reader, &writer] {
        let copy = files.path(&format!("copy{}.db", token.id));
        let name = format!("sync_url={}&auth_token={}", primary.url(), token.text);
        host.open_replica(&copy, &name);
        host.sql("main", "SELECT replica_sync()");
        assert_same(&files.app, &copy, "by token");
        let delete = host.try_sql("main", "DELETE FROM note WHERE id = 1");
        match token.id == reader.id {
            true => assert_eq!(delete.unwrap_err().code & 0xff, SQLITE_READONLY),
            false => assert_eq!(delete.expect("written"), ""),
        }
        host.close_connection("main");
    }
    // The environment carries a token as well.
    let mut shell = Shell::in_environment(&[("REPLICA_AUTH_TOKEN", &reader.text)]);
    shell.open(&name);
    assert_eq!(shell.sql("SELECT count(*) FROM note"), "999");
}

#[test]
fn a_network_is_served_only_with_tokens() {
    let files = Files::new();
    let mut shell = Shell::with_extension();
    shell.open(&uri(&files.app, ""));
    let port = free_port();
    let serve = format!("SELECT replica_serve('0.0.0.0:{port}'");
    let told = shell.refused(&format!("{serve})"));
    assert!(
        told.contains("replica_token") && told.contains("insecure"),
        "{told}"
    );
    assert!(
        !side_file(&files.app, "-replica").exists(),
        "something was kept"
    );
    let token = token(&mut shell, "read", 3600);
    assert_eq!(json(&shell.sql(&format!("{serve})")), "$.database"), "app");
    let address = format!("127.0.0.1:{port}");
    assert_status(&address, "/app/v1/position", None, "401");
    assert_status(&address, "/app/v1/position", Some(&token.text), "200");
    shell.sql("SELECT replica_stop()");
    shell.sql(&format!("SELECT replica_revoke({})", token.id));
    shell.refused(&format!("{serve})"));

    let open = files.path("open.db");
    notes(&open);
    let mut shell = Shell::with_extension();
    shell.open(&uri(&open, ""));
    shell.sql(&format!("{serve}, '{{\"insecure\": true}}')"));
    assert_status(&address, "/open/v1/position", None, "200");
}

#[test]
fn names_lead_nowhere_else() {
    let files = Files::new();
    notes(&files.path("secret.db"));
    let mut primary = files.primary();
    let address = primary.address().to_owned();
    let paths = [
        "/..%2f/v1/position",
        "/%2e%2e/v1/position",
        "/../v1/position",
        "/../../etc/passwd",
        "//v1/position",
        "//app/v1/position",
        "/app//v1/position",
        "/app%2f/v1/position",
        "/%2fapp/v1/position",
        "/app%00/v1/position",
        "/app.db/v1/position",
        "/secret/v1/position",
        "/..%2fsecret/v1/position",
        "/app%2f..%2fsecret/v1/position",
        "/%ff%fe/v1/position",
        "/app/v1/..%2f..%2fposition",
        "/app/v1/position/../position",
        "/app/v2/position",
        "/",
        "/*",
        "/app",
    ];
    for token_made in [false, true] {
        let expected: &[&str] = if token_made {
            &["401"]
        } else {
            &["404", "405"]
        };
        let mut answers = Vec::new();
        for path in paths {
            let answer = ask(&address, "GET", path, None);
            assert!(expected.contains(&status(&answer)), "{path}: {answer}");
            assert!(
                !answer.contains("secret") && !answer.contains("root:"),
                "{answer}"
            );
            answers.push(answer.rsplit("\r\n\r\n").next().expect("body").to_owned());
        }
        if token_made {
            answers.dedup();
            assert_eq!(
                answers.len(),
                1,
                "strangers can tell names apart: {answers:?}"
            );
        } else {
            token(primary.shell(), "read", 3600);
        }
    }
    // Not HTTP at all.
    for nonsense in ["\0\0\0\0", "GET\r\n\r\n", "\x16\x03\x01\x02\x00\x01"] {
        let answer = raw(&address, &format!("{nonsense}{}", "x".repeat(40_000)), 30);
        assert!(
            answer.is_empty() || status(&answer).starts_with('4'),
            "{answer}"
        );
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(30_000));
    assert!(raw(&address, &long, 30).starts_with("HTTP/1.1 4"));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(2000));
    assert!(raw(&address, &many, 30).starts_with("HTTP/1.1 4"));
    assert_status(&address, "/health", None, "200");
}

/// Open files of a process.
fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd"))
        .expect("proc")
        .count()
}

/// Open sockets of a process.
fn sockets(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd"))
        .expect("proc")
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Resident memory of a process in KiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("proc");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("VmRSS");
    line.split_whitespace()
        .nth(1)
        .expect("size")
        .parse()
        .expect("number")
}

/// As many descriptors as the system allows this process.
fn most_descriptors() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: plain structures on the stack.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    limit.rlim_cur
}

#[test]
fn ten_thousand_idle_connections_hurt_nobody() {
    let files = Files::new();
    let mut primary = Shell::replica(&files.app, "");
    let serve = r#"SELECT replica_serve('127.0.0.1:0', '{"connections": 512}')"#;
    let url = json(&primary.sql(serve), "$.url");
    let mut replica = files.replica(&url);
    let process = primary.process().pid();
    let before = resident(process);
    let idle = most_descriptors().saturating_sub(300).min(10_000);
    let address = url.split('/').nth(2).expect("an address");
    let address: std::net::SocketAddr = address.parse().expect("address");
    let mut connections = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..idle {
        let connection = TcpStream::connect_timeout(&address, Duration::from_secs(10));
        connections.push(connection.expect("accepted, or closed again"));
        if number % 500 == 0 {
            let begun = Instant::now();
            primary.sql(&format!(
                "INSERT INTO note VALUES ({}, 'meanwhile', NULL)",
                5000 + number
            ));
            replica.sync();
            slowest = slowest.max(begun.elapsed());
        }
    }
    let begun = Instant::now();
    files_follow(&files, &url);
    let grown = resident(process).saturating_sub(before);
    println!(
        "{idle} idle connections: slowest write and sync {slowest:?}, a new replica {:?}, {} descriptors, {grown} KiB more",
        begun.elapsed(),
        descriptors(process)
    );
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(descriptors(process) < 700);
    assert!(grown < 64 << 10, "{grown} KiB");
    drop(connections);
    assert_same(&files.app, &files.copy, "among idle connections");
}

/// One more replica is made.
fn files_follow(files: &Files, url: &str) {
    let copy = files.path("another.db");
    Shell::replica(&copy, &format!("sync_url={url}")).sync();
    assert_same(&files.app, &copy, "a new replica");
}

#[test]
fn slow_heads_and_bodies_are_given_up() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut replica = files.replica(primary.url());
    let address = primary.address().to_owned();
    let open = |text: &str| {
        let mut stream = TcpStream::connect(&address).expect("connect");
        stream.write_all(text.as_bytes()).expect("send");
        stream
    };
    let mut slow: Vec<_> = (0..200)
        .map(|number| match number % 2 {
            0 => open("GET /app/v1/position HTTP/1.1\r\nHost: x\r\n"),
            _ => open("POST /app/v1/pull HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"),
        })
        .collect();
    let begun = Instant::now();
    let (mut heads, mut bodies) = (None, None);
    while heads.is_none() || bodies.is_none() {
        let mut ended = [0, 0];
        for (number, stream) in slow.iter_mut().enumerate() {
            // One byte now and then is not silence.
            let text = if number % 2 == 0 { "a" } else { "b" };
            if stream.write_all(text.as_bytes()).is_err() {
                ended[number % 2] += 1;
            }
        }
        let now = Some(begun.elapsed());
        heads = heads.or(now.filter(|_| ended[0] == 100));
        bodies = bodies.or(now.filter(|_| ended[1] == 100));
        let asked = Instant::now();
        primary.sql("INSERT INTO note(text) VALUES ('meanwhile')");
        replica.sync();
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "heads {heads:?}, bodies {bodies:?}"
        );
        sleep(Duration::from_millis(500));
    }
    println!("slow heads ended after {heads:?}, slow bodies after {bodies:?}");
    assert_same(&files.app, &files.copy, "among slow connections");
}

#[test]
fn bodies_over_the_limit_and_bodies_of_strangers_are_not_read() {
    let files = Files::new();
    let mut primary = files.primary();
    let address = primary.address().to_owned();
    let post = "POST /app/v1/pull HTTP/1.1\r\nHost: x\r\n";
    let long = format!("{post}Content-Length: 1048577\r\n\r\n");
    assert_eq!(status(&raw(&address, &long, 10)), "413");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut stream = TcpStream::connect(&address).expect("connect");
    write!(stream, "{post}Transfer-Encoding: chunked\r\n\r\n").expect("send");
    let sent = (0..1000)
        .take_while(|_| stream.write_all(chunk.as_bytes()).is_ok())
        .count();
    assert!(sent < 1000, "64 MB of a body were taken");
    token(primary.shell(), "read", 3600);
    let begun = Instant::now();
    let answer = raw(&address, &format!("{post}Content-Length: 100\r\n\r\n"), 10);
    assert_eq!(status(&answer), "401", "{answer}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let answer = raw(&address, &format!("{long}{}", "x".repeat(1000)), 10);
    assert_eq!(status(&answer), "401", "{answer}");
}

#[test]
fn slow_readers_hold_up_only_themselves_and_are_dropped() {
    let files = Files::new();
    let mut primary = files.primary();
    // More than the kernel takes for a reader.
    primary.sql(
        "WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < 20000)
           INSERT INTO note(text, extra) SELECT 'more', randomblob(1000) FROM counter",
    );
    let slow = token(primary.shell(), "read", 3600);
    let quick = token(primary.shell(), "read", 3600);
    let request = recorded_request(&files, &slow);
    let process = primary.shell().process().pid();
    let before = sockets(process);
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(primary.address()).expect("connect");
            stream.write_all(&request).expect("send");
            stream
        })
        .collect();
    sleep(Duration::from_millis(500));
    let begun = Instant::now();
    let follow = format!("sync_url={}&auth_token={}", primary.url(), quick.text);
    Shell::replica(&files.copy, &follow).sync();
    let served = begun.elapsed();
    assert!(served < Duration::from_secs(8), "{served:?}");
    assert_same(&files.app, &files.copy, "beside slow readers");
    wait_for("the readers to be dropped", || sockets(process) <= before);
    println!(
        "a replica made beside 20 readers that take nothing in {served:?}; they were dropped after {:?}",
        begun.elapsed()
    );
    drop(readers);
}

/// The bytes with which a new replica asks for everything.
fn recorded_request(files: &Files, token: &Token) -> Vec<u8> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let url = format!("http://{}/app", listener.local_addr().expect("bound"));
    let copy = files.path("recorded.db");
    let mut shell = Shell::replica(
        &copy,
        &format!("sync_url={url}&sync_timeout=1&auth_token={}", token.text),
    );
    let recorder = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let timeout = Some(Duration::from_millis(500));
        stream.set_read_timeout(timeout).expect("time-out");
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut part) {
            bytes.extend_from_slice(&part[..count]);
        }
        bytes
    });
    shell.refused("SELECT count(*) FROM note");
    let bytes = recorder.join().expect("recorded");
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("/app/v1/pull"), "{text}");
    bytes
}

#[test]
fn too_many_requests_are_refused_by_bearer() {
    let files = Files::new();
    let mut shell = Shell::with_extension();
    shell.open(&uri(&files.app, ""));
    let answer = shell.sql(
        "SELECT replica_serve('127.0.0.1:0', '{\"requests_per_second\": 3, \"connections\": 100}')",
    );
    let url = json(&answer, "$.url");
    let address = url
        .strip_prefix("http://")
        .and_then(|url| url.strip_suffix("/app"));
    let address = address.expect("url");
    let (one, two) = (token(&mut shell, "read", 60), token(&mut shell, "read", 60));
    let limited = (0..20)
        .filter(|_| status(&ask(address, "GET", "/app/v1/position", Some(&one.text))) == "429")
        .count();
    assert!(limited >= 10, "{limited} of 20 were refused");
    assert_status(address, "/app/v1/position", Some(&two.text), "200");
    assert_status(address, "/app/v1/position", Some("wrong"), "401");
    for wrong in [
        "\"requests_per_second\": 0",
        "\"connections\": 0",
        "\"key\": \"x\"",
        "\"certificate\": \"/nothing\", \"key\": \"/nothing\"",
    ] {
        let mut other = Shell::with_extension();
        let path = files.path("other.db");
        notes(&path);
        other.open(&uri(&path, ""));
        other.refused(&format!(
            "SELECT replica_serve('127.0.0.1:0', '{{{wrong}}}')"
        ));
        other.close();
        std::fs::remove_file(&path).expect("remove");
    }
}

#[test]
fn tls_with_an_own_authority() {
    let certificates = Certificates::new();
    let files = Files::new();
    let mut primary = Shell::with_extension();
    primary.open(&uri(&files.app, ""));
    let port = free_port();
    let serve = |options: String| format!("SELECT replica_serve('127.0.0.1:{port}', '{options}')");
    primary.refused(&serve(certificates.options("server.pem", "ca.key")));
    primary.refused(&serve(certificates.options("server.key", "server.key")));
    let answer = primary.sql(&serve(certificates.options("server.pem", "server.key")));
    let url = format!("https://127.0.0.1:{port}/app");
    assert_eq!(json(&answer, "$.url"), url);
    let token = token(&mut primary, "read", 3600);

    let mut host = Host::bundled();
    let refused = |host: &mut Host, parameters: &str| {
        let name = uri(
            &files.copy,
            &format!("{parameters}&auth_token={}", token.text),
        );
        let failure = host.refused_at_open_or("main", &name, "SELECT count(*) FROM note");
        let told = host.sql("memory", "SELECT replica_last_error()");
        assert!(!told.contains(&token.text), "{told}");
        assert!(!files.copy.exists());
        (failure.code & 0xff, told)
    };
    for authority in [
        format!("&ca_file={}", certificates.text("other.pem")),
        String::new(),
    ] {
        let (code, told) = refused(&mut host, &format!("sync_url={url}{authority}"));
        assert_eq!(code, SQLITE_CANTOPEN);
        assert!(
            told.contains("not trusted") && told.contains("ca_file"),
            "{told}"
        );
    }
    for wrong in ["/nothing", &certificates.text("server.key")] {
        let (_, told) = refused(&mut host, &format!("sync_url={url}&ca_file={wrong}"));
        assert!(told.contains("ca_file"), "{told}");
    }
    let (_, told) = refused(&mut host, &format!("sync_url=http://127.0.0.1:{port}/app"));
    assert!(told.contains("the URL is https://"), "{told}");
    let other_name = format!(
        "sync_url=https://127.0.0.2:{port}/app&ca_file={}",
        certificates.text("ca.pem")
    );
    refused(&mut host, &other_name);

    let trusted = format!(
        "sync_url={url}&ca_file={}&auth_token={}",
        certificates.text("ca.pem"),
        token.text
    );
    host.open_replica(&files.copy, &trusted);
    host.sql("main", "SELECT replica_sync()");
    host.close_connection("main");
    primary.sql("INSERT INTO note VALUES (2000, 'over TLS', NULL)");
    // The authority is remembered, the token is not.
    host.open_replica(&files.copy, &format!("auth_token={}", token.text));
    host.sql("main", "SELECT replica_sync()");
    assert_eq!(host.sql("main", "SELECT remote FROM replica_status"), url);
    assert_same(&files.app, &files.copy, "over TLS");
    host.close_connection("main");
    assert_nowhere(&token, files.directory.path(), &[]);

    // As one of the system's authorities.
    let authority = certificates.text("ca.pem");
    let mut shell = Shell::in_environment(&[("SSL_CERT_FILE", &authority), ("SSL_CERT_DIR", "")]);
    let copy = files.path("second.db");
    shell.open(&uri(
        &copy,
        &format!("sync_url={url}&auth_token={}", token.text),
    ));
    assert_eq!(shell.sql("SELECT count(*) FROM note"), "1001");
}

#[test]
fn tls_where_there_is_none_says_so() {
    let certificates = Certificates::new();
    let files = Files::new();
    let primary = files.primary();
    let url = primary.url().replacen("http://", "https://", 1);
    let name = uri(
        &files.copy,
        &format!("sync_url={url}&ca_file={}", certificates.text("ca.pem")),
    );
    let mut host = Host::python();
    host.refused_at_open_or("main", &name, "SELECT count(*) FROM note");
    let told = host.sql("memory", "SELECT replica_last_error()");
    assert!(told.contains("does not speak TLS"), "{told}");
}
