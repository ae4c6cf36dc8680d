//! Replicas without files.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::{Files, Host, Shell, assert_same, directory, json, library, uri, wait_for};

/// Names that come into being in some directories.
struct Watched(OwnedFd);

impl Watched {
    fn new(directories: &[&Path]) -> Watched {
        // SAFETY: plain calls; the descriptor is owned from here on.
        let inotify = unsafe {
            let descriptor = libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC);
            assert!(descriptor >= 0, "inotify");
            OwnedFd::from_raw_fd(descriptor)
        };
        for directory in directories {
            let name = CString::new(directory.to_str().expect("UTF-8")).expect("a path");
            let events = libc::IN_CREATE | libc::IN_MOVED_TO;
            // SAFETY: a NUL-terminated name.
            let watch =
                unsafe { libc::inotify_add_watch(inotify.as_raw_fd(), name.as_ptr(), events) };
            assert!(watch >= 0, "watch {}", directory.display());
        }
        Watched(inotify)
    }

    /// What came into being since the last time.
    fn created(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut buffer = [0_u8; 1 << 16];
        loop {
            // SAFETY: the buffer has the length it is said to have.
            let read =
                unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            if read <= 0 {
                return names;
            }
            let mut rest = &buffer[..read as usize];
            // wd 4, mask 4, cookie 4, length of the name 4, name
            while rest.len() >= 16 {
                let length = u32::from_ne_bytes(rest[12..16].try_into().expect("4 bytes")) as usize;
                let name = &rest[16..16 + length];
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                names.push(String::from_utf8_lossy(name).into_owned());
                rest = &rest[16 + length..];
            }
        }
    }
}

fn memory(url: &str) -> String {
    format!("sync_url={url}&storage=memory")
}

/// Makes SQLite write temporary files, if it writes any.
const SORTS: [&str; 3] = [
    "PRAGMA cache_size = 10",
    "CREATE TEMP TABLE sorted AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 20000)
       SELECT n, randomblob(500) AS b FROM c, (SELECT 1) ORDER BY b",
    "SELECT count(*) FROM (SELECT n FROM sorted ORDER BY b DESC LIMIT 15000)",
];

#[test]
fn nothing_touches_a_file() {
    let (primary_files, own, temporary) = (Files::new(), directory(), directory());
    let mut primary = primary_files.primary();
    let copy = own.path().join("copy.db");
    let watched = Watched::new(&[
        own.path(),
        temporary.path(),
        &std::env::current_dir().expect("a directory"),
    ]);
    let place = temporary.path().to_str().expect("UTF-8");
    let environment = [("SQLITE_TMPDIR", place), ("TMPDIR", place)];
    let note =
        |shell: &mut Shell, id: u32| shell.sql(&format!("SELECT text FROM note WHERE id = {id}"));

    let mut shell = Shell::in_environment(&environment);
    let parameters = format!("{}&live=1", memory(primary.url()));
    shell.open(&uri(&copy, &parameters));
    assert_eq!(shell.sql("SELECT count(*) FROM note"), "1000");
    // Written here.
    shell.sql("UPDATE note SET text = 'from memory' WHERE id = 7");
    assert_eq!(
        primary.sql("SELECT text FROM note WHERE id = 7"),
        "from memory"
    );
    // Followed.
    primary.sql("UPDATE note SET text = 'followed' WHERE id = 8");
    wait_for("the change", || note(&mut shell, 8) == "followed");
    for sql in SORTS {
        shell.sql(sql);
    }
    assert_eq!(shell.sql("SELECT count(*) FROM sorted"), "20000");
    for function in [
        "replica_sync()",
        "replica_verify()",
        "replica_discard()",
        "replica_position()",
    ] {
        shell.sql(&format!("SELECT {function}"));
    }
    let exec =
        shell.sql("SELECT replica_exec('UPDATE note SET text = ?1 WHERE id = 9', 'run there')");
    assert_eq!(json(&exec, "$.changes"), "1", "{exec}");
    assert_eq!(note(&mut shell, 9), "run there");
    assert_eq!(shell.sql("PRAGMA integrity_check"), "ok");
    assert_eq!(shell.sql("PRAGMA journal_mode"), "wal");
    assert_eq!(shell.sql("SELECT replica_config('storage')"), "memory");
    let status = shell.sql("SELECT file, state, wal_bytes > 0 FROM replica_status");
    assert_eq!(status, format!("memory:{}|ok|1", copy.display()));
    // The same content under another name of the connection.
    shell.sql(&format!(
        "ATTACH '{}' AS again",
        uri(&copy, "storage=memory")
    ));
    assert_eq!(
        shell.sql("SELECT text FROM again.note WHERE id = 8"),
        "followed"
    );
    shell.sql("DETACH again");
    assert_eq!(watched.created(), Vec::<String>::new());

    // With the last connection all of it is gone.
    shell.open(":memory:");
    let refused = format!(
        ".open \"{}\"\nSELECT count(*) FROM note",
        uri(&copy, "storage=memory")
    );
    shell.refused(&refused);
    assert!(
        shell
            .sql("SELECT replica_last_error()")
            .contains("sync_url")
    );
    shell.open(&uri(&copy, &parameters));
    assert_eq!(note(&mut shell, 9), "run there");
    shell.close();
    assert_eq!(watched.created(), Vec::<String>::new());

    // The watch would have told.
    let mut shell = Shell::in_environment(&environment);
    shell.open(&uri(&copy, &format!("sync_url={}", primary.url())));
    for sql in SORTS {
        shell.sql(sql);
    }
    let created = watched.created();
    assert!(
        created.iter().any(|name| name.starts_with("etilqs")),
        "{created:?}"
    );
    assert!(created.iter().any(|name| name == "copy.db"), "{created:?}");
    shell.close();
    assert_same(&primary_files.app, &copy, "the file");
}

#[test]
fn threads_of_a_process_share_it() {
    let files = Files::new();
    let mut primary = Shell::with_extension();
    primary.open(&uri(&files.path("bank.db"), ""));
    primary.sql(
        "CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER, here INTEGER, there INTEGER);
         WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < 99)
           INSERT INTO account SELECT n, 1000, 0, 0 FROM c",
    );
    let served = primary.sql("SELECT replica_serve('127.0.0.1:0')");
    let parameters = format!("{}&live=1", memory(&json(&served, "$.url")));
    let mut host = Command::new("/usr/bin/python3")
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("memory/host.py"))
        .arg(library())
        .arg(uri(&files.copy, &parameters))
        .arg("10")
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut there = 0;
    while host.try_wait().expect("a child").is_none() {
        there += 1;
        primary.sql(&format!(
            "UPDATE account SET balance = balance + CASE id WHEN 1 THEN 5 ELSE -5 END, there = there + 1
               WHERE id IN (1, {})",
            2 + there % 90
        ));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = host.wait_with_output().expect("a child");
    let told = String::from_utf8_lossy(&output.stdout);
    let told = told.trim();
    println!(
        "{there} transactions on the primary; {}",
        &told[..told.len().min(200)]
    );
    assert!(output.status.success(), "{told}");
    assert_eq!(json(told, "$.problems"), "[]", "{told}");
    assert_eq!(json(told, "$.verified"), "1");
    assert_eq!(json(told, "$.integrity"), "ok");
    // Every transaction that was acknowledged, once.
    assert_eq!(json(told, "$.transfers"), json(told, "$.here"));
    let number = |path: &str| json(told, path).parse::<u64>().expect("a number");
    assert!(
        number("$.transfers") > 20 && number("$.reads") > 20,
        "{told}"
    );
    assert!(number("$.log") < 16 << 20, "{told}");
    assert_eq!(
        primary.sql("SELECT here FROM account WHERE id = 0"),
        json(told, "$.here")
    );
    assert!(!files.copy.exists());
}

#[test]
fn hosts_without_uris_and_hosts_without_threads() {
    let files = Files::new();
    let mut primary = files.primary();
    let name = files.copy.to_str().expect("UTF-8").to_owned();
    for (kind, mut host) in [("Node", Host::node()), ("Python", Host::python())] {
        let settings = format!(
            r#"{{"sync_url": "{}", "storage": "memory"}}"#,
            primary.url()
        );
        host.sql(
            "memory",
            &format!("SELECT replica_configure('{name}', '{settings}')"),
        );
        host.sql("memory", "SELECT replica_default_vfs(1)");
        host.open("main", &name);
        assert_eq!(
            host.sql("main", "SELECT count(*) FROM note"),
            "1000",
            "{kind}"
        );
        host.sql(
            "main",
            &format!("UPDATE note SET text = '{kind}' WHERE id = 3"),
        );
        assert_eq!(primary.sql("SELECT text FROM note WHERE id = 3"), kind);
        assert_eq!(
            host.sql("main", "SELECT replica_config('storage')"),
            "memory"
        );
        host.close_connection("main");
    }
    let mut host = Host::single_threaded();
    host.open_replica(&files.copy, &format!("{}&live=1", memory(primary.url())));
    assert_eq!(
        host.sql("main", "SELECT text FROM note WHERE id = 3"),
        "Python"
    );
    primary.sql("UPDATE note SET text = 'later' WHERE id = 3");
    host.sql("main", "SELECT replica_sync()");
    assert_eq!(
        host.sql("main", "SELECT text FROM note WHERE id = 3"),
        "later"
    );
    assert!(!files.copy.exists() && !harness::side_file(&files.copy, "-replica").exists());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let files = Files::new();
    let primary = files.primary();
    let mut shell = Shell::with_extension();
    let mut refused = |parameters: &str, part: &str| {
        shell.refused(&format!(
            ".open \"{}\"\nSELECT count(*) FROM note",
            uri(&files.copy, parameters)
        ));
        let told = shell.sql("SELECT replica_last_error()");
        assert!(
            told.contains(part) && !told.contains("secret"),
            "{parameters}: {told}"
        );
        shell.open(":memory:");
    };
    let url = primary.url();
    refused("storage=memory", "sync_url");
    refused(&format!("sync_url={url}&storage=cloud"), "storage=cloud");
    refused(&format!("{}&encryption_key=secret", memory(url)), "key");
    refused(&format!("{}&immutable=1", memory(url)), "immutable");
    assert!(!files.copy.exists());

    // Of one name there is one kind in a process.
    let mut host = Host::bundled();
    host.open_replica(&files.copy, &memory(url));
    host.sql("main", "SELECT count(*) FROM note");
    let as_file = uri(&files.copy, &format!("sync_url={url}"));
    host.refused_at_open_or("other", &as_file, "SELECT 1 FROM note");
    host.refused("main", "SELECT replica_config('storage', 'file')");
    host.refused("main", "SELECT replica_serve('127.0.0.1:0')");
    host.close_connection("main");
    host.open("main", &as_file);
    host.sql("main", "SELECT count(*) FROM note");
    let in_memory = uri(&files.copy, &memory(url));
    host.refused_at_open_or("other", &in_memory, "SELECT 1 FROM note");
    host.close_connection("main");
    assert!(files.copy.exists());
}

/// As much as there is to say of a file: a transaction that ends in a failure leaves nothing behind, two replicas of one
/// process do not see each other.
#[test]
fn two_replicas_in_memory() {
    let (one, other) = (Files::new(), Files::new());
    let (mut first, mut second) = (one.primary(), other.primary());
    second.sql("UPDATE note SET text = 'second'");
    let mut shell = Shell::with_extension();
    shell.open(&uri(&one.copy, &memory(first.url())));
    shell.sql(&format!(
        "ATTACH '{}' AS two",
        uri(&other.copy, &memory(second.url()))
    ));
    assert_eq!(
        shell.sql(
            "SELECT count(*) FROM main.note JOIN two.note USING (id) WHERE main.note.text = 'second'"
        ),
        "0"
    );
    assert_eq!(
        shell.sql("SELECT count(*) FROM two.note WHERE text = 'second'"),
        "1000"
    );
    shell.sql("BEGIN; UPDATE note SET text = 'taken back'; ROLLBACK");
    assert_eq!(
        shell.sql("SELECT count(*) FROM note WHERE text = 'taken back'"),
        "0"
    );
    shell.sql("UPDATE two.note SET text = 'both' WHERE id = 1; UPDATE main.note SET text = 'both' WHERE id = 1");
    for primary in [&mut first, &mut second] {
        assert_eq!(primary.sql("SELECT text FROM note WHERE id = 1"), "both");
    }
}
