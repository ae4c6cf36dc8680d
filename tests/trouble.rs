//! What users, disks and other programs do to a file at a bad moment: nothing is lost, nothing is labelled wrongly.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use harness::encryption::{self, End};
use harness::{
    Files, Host, Image, Primary, Relay, Shell, assert_intact, assert_same, directory, image, seed,
    side_file, side_files, uri,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SQLITE_IOERR: i32 = 10;
const SQLITE_FULL: i32 = 13;

/// Fails unless a sync is refused, because of somebody else's write, with a sentence that says what to do.
#[track_caller]
fn assert_foreign(replica: &mut Shell, context: &str) {
    replica.refused("SELECT replica_sync()");
    let reason = replica.sql("SELECT replica_last_error()");
    assert!(reason.contains("replica_discard"), "{context}: {reason}");
    let state = replica.sql("SELECT state FROM replica_status");
    assert_eq!(state, "foreign", "{context}");
}

/// Copies a backup over the file of a primary whose shell was closed after `ending`, and follows what is served then.
#[track_caller]
fn restore_over_a_closed_primary(ending: &str) {
    for looked_at in [false, true] {
        let context = format!("{ending}, looked at by plain SQLite first: {looked_at}");
        let files = Files::new();
        let backup = files.path("backup");
        std::fs::copy(&files.app, &backup).expect("backup");
        let content = Image::read(&backup);
        let mut primary = files.primary();
        let relay = Relay::to(primary.address());
        let mut replica = files.replica(&relay.url("app"));
        primary.sql("UPDATE note SET text = 'lost later' WHERE id % 7 = 0; CREATE TABLE lost(a)");
        replica.sync();
        primary.sql("DELETE FROM note WHERE id > 900; INSERT INTO lost VALUES (randomblob(50000))");
        primary.sql(ending);
        primary.close();
        let beside = side_files(&files.app);
        println!("{context}: beside the closed primary: {beside:?}");

        // As `cp backup app.db` does: into the file that is there.
        std::fs::copy(&backup, &files.app).expect("restore");
        if looked_at {
            let mut plain = Shell::plain(&files.app);
            assert_eq!(plain.sql("PRAGMA integrity_check"), "ok", "{context}");
            let rows = plain.sql("SELECT count(*) FROM note");
            assert_eq!(
                rows, "1000",
                "{context}: not the backup; beside it: {beside:?}"
            );
            plain.close();
        }
        let mut primary = files.primary();
        relay.point(Some(primary.address()));
        assert_eq!(primary.sql("PRAGMA integrity_check"), "ok", "{context}");
        replica.sync();
        for path in [&files.app, &files.copy] {
            let path_content = Image::read(path);
            assert!(
                content == path_content,
                "{context}: {} does not hold the backup: pages {:?} differ; beside it was: {beside:?}",
                path.display(),
                content.differing_pages(&path_content)
            );
            assert_intact(path, &context);
        }
        assert_eq!(replica.position(), primary.shell().position(), "{context}");
        primary.sql("INSERT INTO note VALUES (2000, 'after the restore', NULL)");
        replica.sync();
        assert_same(&files.app, &files.copy, &context);
    }
}

#[test]
fn a_backup_copied_over_a_stopped_and_closed_primary_is_what_is_served() {
    restore_over_a_closed_primary("SELECT replica_stop()");
}

/// SQLite 3.40 leaves frames with zero salts where a savepoint is rolled back over pages that were spilled into the
/// log and then written again. Readers do not notice; a recovery ends there, with all later commits lost.
#[test]
fn what_a_replica_got_survives_a_crash_of_the_primary_after_a_rollback_to_a_savepoint() {
    let (mut logs, mut losing) = (0, 0);
    let mut version = String::new();
    for again in [3, 6, 10] {
        for spilled in [10, 20, 40] {
            let context = format!("{spilled} pages spilled, from {again} on written again");
            let directory = directory();
            let app = directory.path().join("app.db");
            let copy = directory.path().join("replica.db");
            let mut plain = Shell::plain(&app);
            version = plain.sql("SELECT sqlite_version()");
            plain.sql(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t(i INTEGER PRIMARY KEY, b);
                 WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 200)
                   INSERT INTO t SELECT n, zeroblob(3000) FROM c;
                 PRAGMA wal_checkpoint(TRUNCATE);
                 INSERT INTO t VALUES (9999, 1)",
            );
            plain.sql(&format!(
                "PRAGMA cache_size = 5; BEGIN; SAVEPOINT s;
                 UPDATE t SET b = randomblob(3000) WHERE i <= {spilled};
                 UPDATE t SET b = randomblob(3001) WHERE i BETWEEN {again} AND {spilled};
                 ROLLBACK TO s; INSERT INTO t VALUES (10000, 1); COMMIT"
            ));
            for id in 10001..10004 {
                plain.sql(&format!("INSERT INTO t VALUES ({id}, 1)"));
            }
            let count = "SELECT count(*) FROM t";
            let crash = |name: &str| {
                let place = directory.path().join(name);
                std::fs::create_dir(&place).expect("directory");
                image::copy_with_log(&app, &place)
            };
            logs += 1;
            let before = image::value(&crash("before"), count);
            losing += u32::from(before != plain.sql(count));

            let primary = Primary::start(&app);
            let mut replica = Shell::replica(&copy, &format!("sync_url={}", primary.url()));
            replica.sync();
            assert_eq!(replica.sql(count), "205", "{context}");
            let recovered = crash("after");
            assert_eq!(
                image::value(&recovered, count),
                "205",
                "{context}: the replica has more than a crash leaves the primary; before it was served: {before}"
            );
            assert_same(&recovered, &copy, &context);
            assert_intact(&recovered, &context);
        }
    }
    println!("SQLite {version}: {losing} of {logs} logs were such that recovery loses commits");
    assert!(
        losing > 0 || !version.starts_with("3.40."),
        "SQLite {version} has the defect, but the statements here did not meet it"
    );
}

#[test]
fn a_sync_that_found_the_disk_full_does_not_hide_a_later_foreign_write() {
    if encryption::is_on(End::Replica) {
        // Nobody writes to it without the extension.
        return;
    }
    for after in ["left open", "closed", "killed"] {
        let files = Files::new();
        let mut primary = files.primary();
        let parameters = format!("sync_url={}", primary.url());
        let mut host = Host::python();
        host.open_replica(&files.copy, &parameters);
        host.sql("main", "SELECT replica_sync()");
        primary.sql("UPDATE note SET extra = randomblob(1000)");
        host.sql("main", "SELECT replica_sync()");
        let size =
            |suffix| std::fs::metadata(side_file(&files.copy, suffix)).map_or(0, |f| f.len());
        let (log, store) = (size("-wal"), size("-replica") + size("-replica-wal"));
        assert!(
            log > 1_000_000 && log > 2 * store,
            "log {log}, store {store}"
        );
        primary.sql("UPDATE note SET extra = randomblob(1000)");
        // A few more frames fit, not all; the state store can be written.
        host.limit_files(Some(log + 20_000));
        let synced = host.refused("main", "SELECT replica_sync()");
        println!("{after}: log {log}, store {store} bytes: {synced:?}");
        let code = synced.code & 0xff;
        assert!([SQLITE_IOERR, SQLITE_FULL].contains(&code), "{synced:?}");
        host.limit_files(None);
        match after {
            "closed" => host.close_connection("main"),
            "killed" => host.process().kill(),
            _ => {}
        }
        let mut plain = Shell::plain(&files.copy);
        plain.sql("CREATE TABLE mine(a); INSERT INTO mine VALUES (42)");
        plain.close();

        let mut replica = Shell::replica(&files.copy, &parameters);
        for _ in 0..2 {
            assert_foreign(&mut replica, after);
            assert_eq!(replica.sql("SELECT a FROM mine"), "42", "{after}: kept");
        }
        if after == "left open" {
            host.refused("main", "SELECT replica_sync()");
            assert_eq!(host.sql("main", "SELECT a FROM mine"), "42");
        }
        replica.sql("SELECT replica_discard()");
        replica.sync();
        assert_eq!(replica.sql("SELECT state FROM replica_status"), "ok");
        assert_same(&files.app, &files.copy, after);
        assert_intact(&files.copy, after);
    }
}

/// A primary that was restored from a backup and has gone on, and a replica of what was lost.
fn diverged(files: &Files) -> (Primary, Relay, Shell) {
    let primary = files.primary();
    let relay = Relay::to(primary.address());
    let mut replica = files.replica(&relay.url("app"));
    primary.close();
    let backup = files.path("backup");
    image::copy_all(&files.app, &backup);
    let mut primary = files.primary();
    relay.point(Some(primary.address()));
    primary.sql("UPDATE note SET text = 'lost later' WHERE id % 100 = 1");
    replica.sync();
    primary.close();
    image::remove_database(&files.app);
    image::copy_all(&backup.join("app.db"), files.directory.path());
    let mut primary = files.primary();
    relay.point(Some(primary.address()));
    primary.sql("UPDATE note SET text = 'another history' WHERE id IN (3, 300)");
    (primary, relay, replica)
}

#[test]
fn a_foreign_write_while_a_diverged_replica_waits_for_an_answer_is_kept() {
    if encryption::is_on(End::Replica) {
        // Nobody writes to it without the extension.
        return;
    }
    // What is waited for: that it diverged, the hashes, the pages, what changed meanwhile.
    for waiting in 0..4 {
        let context = format!("written before answer {waiting}");
        let files = Files::new();
        let (mut primary, relay, mut replica) = diverged(&files);
        relay.hold_answer(waiting);
        replica.feed("SELECT replica_sync()");
        relay.wait_until_held();
        let mut plain = Shell::plain(&files.copy);
        plain.sql(".timeout 20000");
        plain.sql("UPDATE note SET text = 'foreign' WHERE id = 700");
        plain.close();
        relay.release();
        replica
            .try_sql(".print settled")
            .expect_err("the sync that was fed must fail");
        assert_foreign(&mut replica, &context);
        assert_eq!(
            replica.sql("SELECT text FROM note WHERE id = 700"),
            "foreign",
            "{context}"
        );
        replica.sql("SELECT replica_discard()");
        primary.sql("INSERT INTO note VALUES (2000, 'after', NULL)");
        replica.sync();
        assert_same(&files.app, &files.copy, &context);
        assert_eq!(replica.sql("SELECT state FROM replica_status"), "ok");
    }
}

#[test]
fn a_primary_that_shrinks_and_grows_is_followed_without_a_failure() {
    let mut random = StdRng::seed_from_u64(seed("shrinking", 5));
    for (kind, before, shrink) in [
        ("VACUUM", "SELECT 1", "VACUUM"),
        (
            "incremental_vacuum",
            "PRAGMA auto_vacuum = INCREMENTAL; VACUUM",
            "PRAGMA incremental_vacuum",
        ),
    ] {
        let files = Files::new();
        Shell::plain(&files.app).sql(before);
        let mut primary = files.primary();
        let mut host = Host::python();
        host.open_replica(&files.copy, &format!("sync_url={}", primary.url()));
        host.repeat("main", "SELECT replica_sync()");
        let begun = Instant::now();
        let mut rounds = 0;
        while begun.elapsed() < Duration::from_secs(12) {
            let kept = random.random_range(10..900);
            primary.sql(&format!("DELETE FROM note WHERE id > {kept}; {shrink}"));
            primary.sql(&format!(
                "WITH RECURSIVE c(n) AS (SELECT {kept} + 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1000)
                   INSERT INTO note SELECT n, 'round {rounds}', randomblob(1000) FROM c"
            ));
            rounds += 1;
        }
        println!(
            "{kind}: {rounds} rounds; syncs|last answer = {}",
            host.stop()
        );
        host.sql("main", "SELECT replica_sync()");
        assert_same(&files.app, &files.copy, kind);
        assert_intact(&files.copy, kind);
        let verified = host.sql("main", "SELECT replica_verify()");
        assert_eq!(harness::json(&verified, "$.ok"), "1", "{kind}: {verified}");
    }
}

#[test]
fn a_file_longer_than_its_content_is_no_trouble() {
    let files = Files::new();
    let mut primary = files.primary();
    files.replica(primary.url()).close();
    let mut plain = Shell::plain(&files.copy);
    assert_eq!(plain.sql("SELECT count(*) FROM note"), "1000");
    plain.close();
    assert!(!side_file(&files.copy, "-wal").exists(), "a clean close");
    let size = std::fs::metadata(&files.copy).expect("file").len();
    OpenOptions::new()
        .append(true)
        .open(&files.copy)
        .and_then(|mut file| file.write_all(&[0; 4096]))
        .expect("append");
    let mut replica = Shell::with_extension();
    replica.open(&uri(&files.copy, ""));
    match replica.try_sql("SELECT replica_sync()") {
        Ok(answer) => println!("{size} bytes and a page of zeros: {answer}"),
        Err(error) => {
            println!("{size} bytes and a page of zeros: {error}");
            replica.sql("SELECT replica_discard()");
        }
    }
    for round in 0..4 {
        let context = format!("round {round}");
        replica.sync();
        let state = replica.sql("SELECT state FROM replica_status");
        assert_eq!(state, "ok", "{context}");
        let verified = replica.sql("SELECT replica_verify()");
        assert_eq!(
            harness::json(&verified, "$.ok"),
            "1",
            "{context}: {verified}"
        );
        assert_same(&files.app, &files.copy, &context);
        replica.close();
        if round % 2 == 1 {
            Shell::plain(&files.copy).sql("SELECT count(*) FROM note");
        }
        replica = Shell::replica(&files.copy, "");
        if round > 0 {
            primary.sql(&format!(
                "UPDATE note SET text = 'round {round}' WHERE id = {round}"
            ));
        }
    }
}
