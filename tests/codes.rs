//! The table of result codes in README.md, row by row: each situation is made for each of three hosts, which is told the
//! right code (the shell its first byte) and a sentence that names the remote or the file and no secret, and can go on
//! as the table says.

use std::time::{Duration, Instant};

use harness::messages::Fault;
use harness::{Client, Kind, Primary, Trouble, directory, encryption, image, json, side_file};

#[path = "codes/scene.rs"]
mod scene;

use scene::{INSERT, Scene, Told, refused};

const SQLITE_BUSY: i32 = 5;
const SQLITE_LOCKED: i32 = 6;
const SQLITE_READONLY: i32 = 8;
const SQLITE_IOERR: i32 = 10;
const SQLITE_FULL: i32 = 13;
const SQLITE_AUTH: i32 = 23;
const SQLITE_NOTADB: i32 = 26;
const SQLITE_BUSY_SNAPSHOT: i32 = 517;
const SQLITE_IOERR_DATA: i32 = 8202;

const HOSTS: [Kind; 3] = [Kind::Shell, Kind::Python, Kind::Node];

#[test]
fn another_transaction_was_committed_first() {
    for kind in HOSTS {
        let mut scene = Scene::new(kind, "write_mode=optimistic");
        scene.begin();
        scene.primary.sql(INSERT);
        scene.refused("COMMIT", SQLITE_BUSY_SNAPSHOT, "committed first");
        // It is rolled back, and run again.
        assert_eq!(scene.count(), ("1".into(), "0".into()), "{kind:?}");
        scene.assert_goes_on(2);
    }
}

#[test]
fn newer_content_came_to_a_transaction_that_has_read() {
    for kind in HOSTS {
        let mut scene = Scene::new(kind, "write_mode=exclusive");
        scene.client.done("BEGIN");
        scene.client.done("SELECT count(*) FROM word");
        scene.primary.sql(INSERT);
        // Its snapshot stays old, however often it asks.
        for _ in 0..2 {
            scene.refused_here(INSERT, SQLITE_BUSY_SNAPSHOT, "begin again");
        }
        scene.client.done("ROLLBACK");
        scene.assert_goes_on(2);
    }
}

#[test]
fn the_primary_cannot_be_reached_at_the_start_of_a_write() {
    for kind in HOSTS {
        let mut scene = Scene::new(kind, "sync_timeout=2");
        let address = scene.primary.address().to_string();
        // It no longer counts as at the head.
        std::thread::sleep(Duration::from_millis(1100));
        scene.relay.refuse();
        scene.refused(INSERT, SQLITE_BUSY, "remote");
        scene.refused("BEGIN IMMEDIATE", SQLITE_BUSY, "remote");
        assert_eq!(scene.client.done("SELECT count(*) FROM word"), "0");
        // One that says nothing is waited for once, not in each turn of the busy handler.
        scene.relay.heal();
        scene.relay.fall_silent();
        scene.client.done("PRAGMA busy_timeout = 1500");
        std::thread::sleep(Duration::from_millis(2100));
        let begun = Instant::now();
        scene.refused(INSERT, SQLITE_BUSY, "remote");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(6), "{kind:?}: it took {took:?}");
        scene.relay.heal();
        scene.client.done("PRAGMA busy_timeout = 10000");
        scene.client.done(INSERT);
        assert_eq!(scene.primary.address(), address);
        scene.assert_goes_on(2);
    }
}

#[test]
fn the_primary_cannot_be_reached_at_commit() {
    for kind in HOSTS {
        let mut scene = Scene::without_relay(kind, "sync_timeout=2");
        let address = scene.primary.address().to_string();
        scene.begin();
        let other = other_primary(&scene);
        let primary = std::mem::replace(&mut scene.primary, other);
        primary.kill();
        scene.refused("COMMIT", SQLITE_BUSY_SNAPSHOT, "nothing was sent");
        assert_eq!(scene.client.done("SELECT count(*) FROM word"), "0");
        scene.primary = Primary::start_at(&scene.app, &address);
        scene.client.done("PRAGMA busy_timeout = 20000");
        scene.assert_goes_on(1);
    }
}

/// Something to stand in the place of a primary that is killed.
fn other_primary(scene: &Scene) -> Primary {
    let path = scene.directory.path().join("other.db");
    image::create(&path)
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t(x)")
        .expect("a database");
    Primary::start(&path)
}

#[test]
fn the_token_is_refused() {
    for kind in HOSTS {
        let (mut scene, id) = Scene::with_token(kind, "write");
        scene.client.done(INSERT);
        scene.begin();
        scene.primary.sql(&format!("SELECT replica_revoke({id})"));
        scene.refused("COMMIT", SQLITE_AUTH, "valid token");
        std::thread::sleep(Duration::from_millis(1100));
        scene.refused(INSERT, SQLITE_AUTH, "valid token");
        scene.refused("SELECT replica_sync()", SQLITE_AUTH, "valid token");
        // What is here can be read.
        assert_eq!(scene.count(), ("1".into(), "1".into()), "{kind:?}");
        // Who has another token goes on.
        let answer = scene.primary.sql("SELECT replica_token('write', 60)");
        let token = json(&answer, "$.token");
        let parameters = format!("sync_url={}&auth_token={token}", scene.url);
        let client = Client::on(kind, &scene.copy, &parameters);
        std::mem::replace(&mut scene.client, client).close();
        scene.assert_goes_on(2);

        // Nothing comes into being without one.
        let copy = scene.directory.path().join("none.db");
        let parameters = format!("sync_url={}&auth_token=r1_1_5ec2e7", scene.url);
        let mut client = Client::on(kind, &copy, &parameters);
        let told = Told {
            code: SQLITE_AUTH,
            says: "valid token",
            names: &scene.url,
        };
        let secrets = ["5ec2e7".to_string()];
        refused(&mut client, "SELECT count(*) FROM word", &told, &secrets);
        assert!(!copy.exists(), "{kind:?}");
    }
}

#[test]
fn the_token_may_only_read() {
    for kind in HOSTS {
        let (mut scene, _) = Scene::with_token(kind, "read");
        scene.primary.sql(INSERT);
        for sql in [INSERT, "BEGIN IMMEDIATE"] {
            scene.refused(sql, SQLITE_READONLY, "does not allow");
        }
        scene.client.done("SELECT replica_sync()");
        assert_eq!(scene.count(), ("1".into(), "1".into()), "{kind:?}");
    }
}

#[test]
fn it_is_not_known_what_became_of_a_transaction() {
    for kind in HOSTS {
        let mut scene = Scene::new(kind, "sync_timeout=1");
        scene.begin();
        scene.relay.hit("push", Fault::ReplyLost);
        // Silent from the reply on.
        scene
            .relay
            .hit_later("push", 0, u64::MAX, Fault::RequestLost);
        scene.refused("COMMIT", SQLITE_IOERR, "not known");
        scene.relay.fall_silent();
        for _ in 0..2 {
            scene.refused(INSERT, SQLITE_IOERR, "not known");
        }
        assert_eq!(scene.client.done("SELECT count(*) FROM word"), "0");
        scene.relay.heal();
        // The primary had it: it is there once, beside the next one.
        scene.assert_goes_on(2);
    }
}

/// A COMMIT that finds the disk full is refused before anything is sent; what is left is what others committed, and
/// `replica_exec`.
#[test]
fn committed_on_the_remote_and_the_local_disk_is_full() {
    for kind in HOSTS {
        let mut scene = Scene::new(kind, "sync_timeout=5");
        let fill = "INSERT INTO word(text) SELECT randomblob(3000) FROM \
                    (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 200) SELECT n FROM c)";
        scene.primary.sql(fill);
        scene.client.done("SELECT replica_sync()");
        let log = side_file(&scene.copy, encryption::log_suffix(&scene.copy));
        let size = std::fs::metadata(log).expect("a log").len();
        scene.client.limit_files(Some(size + 20_000));
        let sql = format!("SELECT replica_exec('{fill}')");
        scene.refused_here(&sql, SQLITE_IOERR, "took effect on the remote");
        assert_eq!(scene.count(), ("400".into(), "200".into()), "{kind:?}");
        scene.client.limit_files(None);
        scene.client.done("SELECT replica_sync()");
        assert_eq!(scene.count(), ("400".into(), "400".into()), "{kind:?}");
        scene.assert_goes_on(401);
    }
}

/// The same at a COMMIT: only the bundled SQLite takes a VFS whose calls fail. From some call after the push on every
/// call does: SQLite says that it is committed, as it is, and the next write that the file cannot take it.
#[test]
fn committed_on_the_remote_and_the_local_files_fail() {
    let mut scene = Scene::on(Client::faulty(), "sync_timeout=5");
    let (mut committed, mut refusals) = (0_u32, 0);
    // Until both go through before any call fails.
    for nth in 1.. {
        scene.begin();
        let all = ["files", &nth.to_string(), "1000000"];
        scene.client.command("arm", &all);
        let ended = scene.client.sql("COMMIT");
        if scene.primary.sql("SELECT count(*) FROM word") != committed.to_string() {
            committed += 1;
            assert!(ended.is_ok(), "{nth}: {ended:?}");
            if !scene.next_write_fails(nth) {
                committed += 1;
                break;
            }
            refusals += 1;
        }
        scene.client.command("disarm", &["files"]);
        let _ = scene.client.sql("ROLLBACK");
        scene.client.done("SELECT replica_sync()");
        let both = (committed.to_string(), committed.to_string());
        assert_eq!(scene.count(), both, "{nth}");
    }
    scene.client.command("disarm", &["files"]);
    assert!(refusals > 0, "no call failed after a push");
    scene.assert_goes_on(committed + 1);
}

impl Scene {
    /// One while calls of files fail: whether one of its own did.
    #[track_caller]
    fn next_write_fails(&mut self, nth: u32) -> bool {
        let failure = match self.client.sql(INSERT) {
            Ok(_) => return false,
            Err(Trouble::Refused(failure)) => failure,
            Err(Trouble::Gone) => panic!("{nth}: the process is gone"),
        };
        let sentence = self.client.last_error();
        println!("{nth}: {failure:?}: {sentence}");
        // Where only the log of the next one cannot be written, that is what it is told.
        assert!(
            [SQLITE_IOERR, SQLITE_FULL].contains(&(failure.code & 0xff)),
            "{nth}: {failure:?}: {sentence}"
        );
        let names = self.copy.to_str().expect("UTF-8");
        assert!(sentence.contains(names), "{nth}: {sentence}");
        true
    }
}

#[test]
fn a_second_replica_is_written_to_in_one_transaction() {
    for kind in HOSTS {
        let mut scene = Scene::new(kind, "sync_timeout=5");
        let other = scene.directory.path().join("other-replica.db");
        let parameters = format!("sync_url={}", scene.url);
        scene
            .client
            .attach("other", &other, &parameters)
            .expect("attached");
        assert_eq!(scene.client.done("SELECT count(*) FROM other.word"), "0");
        scene.client.done("BEGIN");
        scene.client.done(INSERT);
        scene.refused_here(
            "INSERT INTO other.word(id) VALUES (2)",
            SQLITE_LOCKED,
            "two replicas",
        );
        let seen = scene.relay.take_seen();
        assert!(
            !seen.iter().any(|seen| seen.name == "push"),
            "{kind:?}: {seen:?}"
        );
        // The transaction goes on without it.
        scene.client.done("COMMIT");
        scene.client.insist("INSERT INTO other.word(id) VALUES (3)");
        scene.client.done("DETACH other");
        scene.assert_goes_on(3);
    }
}

/// An encrypted database whose second table begins on page 3.
fn encrypted(path: &std::path::Path) {
    let mut client = Client::on(
        Kind::Python,
        path,
        &format!("encryption_key={}", encryption::KEY),
    );
    for sql in [
        "PRAGMA journal_mode = WAL",
        "CREATE TABLE one(text TEXT)",
        "CREATE TABLE two(text TEXT)",
        "INSERT INTO one VALUES ('one')",
        "INSERT INTO two VALUES ('two')",
        "PRAGMA wal_checkpoint(TRUNCATE)",
    ] {
        client.done(sql);
    }
    client.close();
}

#[test]
fn a_page_fails_authentication() {
    let key = format!("encryption_key={}", encryption::KEY);
    let secrets = [encryption::KEY[4..].to_string()];
    for kind in HOSTS {
        let directory = directory();
        let path = directory.path().join("sealed.db");
        encrypted(&path);
        let at = encryption::place(&path, 3, 1000) as usize;
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).expect("write");
        let mut client = Client::on(kind, &path, &key);
        let told = Told {
            code: SQLITE_IOERR_DATA,
            says: "page 3",
            names: path.to_str().expect("UTF-8"),
        };
        for sql in ["SELECT * FROM two", "INSERT INTO two VALUES ('more')"] {
            refused(&mut client, sql, &told, &secrets);
        }
        // What was not touched is read and written.
        assert_eq!(client.done("SELECT text FROM one"), "one", "{kind:?}");
        client.done("UPDATE one SET text = 'changed'");
        client.close();
        // Moved back to what it was.
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).expect("write");
        let mut client = Client::on(kind, &path, &key);
        assert_eq!(
            client.done("SELECT * FROM one, two"),
            "changed|two",
            "{kind:?}"
        );
    }
}

#[test]
fn the_key_is_wrong() {
    let directory = directory();
    let path = directory.path().join("sealed.db");
    encrypted(&path);
    let before = std::fs::read(&path).expect("read");
    let right = format!("encryption_key={}", encryption::KEY);
    let wrong = "07".repeat(32);
    let secrets = [wrong.clone(), "swordfish".to_string()];
    let keys = [
        (
            format!("encryption_key=hex:{wrong}"),
            format!("PRAGMA hexkey = '{wrong}'"),
        ),
        (
            "encryption_key=swordfish".to_string(),
            "PRAGMA key = 'swordfish'".to_string(),
        ),
        (String::new(), "PRAGMA user_version".to_string()),
    ];
    for kind in HOSTS {
        for (parameters, pragma) in &keys {
            let mut client = Client::start(kind);
            if kind == Kind::Node {
                // Without URIs it comes by a pragma: `replica_configure` takes no key that does not fit.
                client.open(&path, "").expect("opened");
                let _ = client.sql(pragma);
            } else {
                client.open(&path, parameters).expect("opened");
            }
            let told = Told {
                code: SQLITE_NOTADB,
                says: match parameters.is_empty() {
                    true => "is encrypted",
                    false => "the key does not open",
                },
                names: path.to_str().expect("UTF-8"),
            };
            for _ in 0..2 {
                refused(&mut client, "SELECT text FROM one", &told, &secrets);
            }
            // The right one may still come.
            client.done(&format!("PRAGMA hexkey = '{}'", &encryption::KEY[4..]));
            assert_eq!(client.done("SELECT text FROM one"), "one", "{kind:?}");
            client.close();
            assert!(std::fs::read(&path).expect("read") == before, "{kind:?}");
        }
        let mut client = Client::on(kind, &path, &right);
        assert_eq!(client.done("SELECT text FROM one"), "one", "{kind:?}");
        client.close();
    }
}
