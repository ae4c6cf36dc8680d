//! Histories that part: a restored primary, writes into a replica's file, another database under the same name, damage.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use harness::encryption::{self, End};
use harness::{
    Files, Image, Relay, Shell, assert_intact, assert_same, image, json, notes, number, side_file,
    side_files,
};

/// Inverts one byte in the middle of a page of the database file.
fn flip(path: &Path, page: u64) {
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open");
    let offset = SeekFrom::Start(encryption::place(path, page, 2000));
    let mut byte = [0];
    file.seek(offset).expect("seek");
    file.read_exact(&mut byte).expect("read");
    file.seek(offset).expect("seek");
    file.write_all(&[!byte[0]]).expect("write");
}

#[test]
fn a_primary_restored_from_a_backup_is_followed_by_differing_pages_only() {
    let files = Files::new();
    let backup = files.path("backup");
    let primary = files.primary();
    let relay = Relay::to(primary.address());
    let mut replica = files.replica(&relay.url("app"));
    let whole = relay.take_received();
    primary.close();
    image::copy_all(&files.app, &backup);

    let mut primary = files.primary();
    relay.point(Some(primary.address()));
    for number in 0..20 {
        primary.sql(&format!(
            "UPDATE note SET text = 'lost later' WHERE id = {}",
            number * 40 + 1
        ));
    }
    primary.sql("CREATE TABLE lost(a); DELETE FROM note WHERE id BETWEEN 500 AND 520");
    replica.sync();
    assert_same(&files.app, &files.copy, "before the restore");
    primary.close();

    image::remove_database(&files.app);
    image::copy_all(&backup.join("app.db"), &files.path(""));
    let mut primary = files.primary();
    relay.point(Some(primary.address()));
    primary
        .sql("UPDATE note SET text = 'another history' WHERE id IN (3, 300); CREATE TABLE new(b)");
    relay.take_received();
    let answer = replica.sync();
    let bytes = relay.take_received();
    println!("healed: {answer}; {bytes} bytes on the line, the whole is {whole}");
    assert_same(&files.app, &files.copy, "healed");
    assert_intact(&files.copy, "healed");
    assert!(bytes < whole / 4, "{bytes} bytes, the whole is {whole}");
    assert_eq!(replica.position(), primary.shell().position());
    assert_eq!(replica.sql("SELECT state FROM replica_status"), "ok");
    primary.sql("INSERT INTO new VALUES (1)");
    replica.sync();
    assert_same(&files.app, &files.copy, "after the heal");
}

#[test]
fn a_foreign_write_is_kept_until_it_is_discarded() {
    if encryption::is_on(End::Replica) {
        // Nobody writes to it without the extension.
        return;
    }
    for (while_open, checkpointed) in [(false, false), (false, true), (true, false), (true, true)] {
        let context = format!("open: {while_open}, checkpointed: {checkpointed}");
        let files = Files::new();
        let mut primary = files.primary();
        let relay = Relay::to(primary.address());
        let mut replica = files.replica(&relay.url("app"));
        let whole = relay.take_received();
        let parameters = format!("sync_url={}", relay.url("app"));
        if !while_open {
            replica.close();
            replica = Shell::with_extension();
        }
        let mut plain = Shell::plain(&files.copy);
        plain.sql("UPDATE note SET text = 'foreign' WHERE id = 700");
        if checkpointed {
            plain.sql("PRAGMA wal_checkpoint(TRUNCATE)");
            plain.close();
        } else {
            // Killed, so that the log stays.
            plain.kill();
        }
        primary.sql("UPDATE note SET text = 'from the primary' WHERE id IN (5, 700)");

        if !while_open {
            replica.open(&harness::uri(&files.copy, &parameters));
        }
        for _ in 0..2 {
            let error = replica.refused("SELECT replica_sync()");
            assert!(error.len() > 20, "{context}: {error}");
            let reason = replica.sql("SELECT replica_last_error()");
            assert!(
                reason.contains("replica_discard"),
                "{context}: the error does not say what to do: {reason}"
            );
            assert_eq!(
                replica.sql("SELECT state FROM replica_status"),
                "foreign",
                "{context}"
            );
            assert_eq!(
                replica.sql("SELECT text FROM note WHERE id = 700"),
                "foreign",
                "{context}: it must be kept"
            );
        }
        relay.take_received();
        replica.sql("SELECT replica_discard()");
        replica.sync();
        let bytes = relay.take_received();
        println!("{context}: discarded with {bytes} bytes, the whole is {whole}");
        assert!(bytes < whole / 4, "{context}: {bytes} of {whole}");
        assert_same(&files.app, &files.copy, &context);
        assert_intact(&files.copy, &context);
        assert_eq!(replica.sql("SELECT state FROM replica_status"), "ok");
        primary.sql("DELETE FROM note WHERE id < 10");
        replica.sync();
        assert_same(&files.app, &files.copy, &context);
    }
}

#[test]
fn plain_sqlite_that_only_looks_and_checkpoints_is_no_foreign_write() {
    let files = Files::new();
    let mut primary = files.primary();
    let relay = Relay::to(primary.address());
    let mut replica = files.replica(&relay.url("app"));
    let parameters = format!("sync_url={}", relay.url("app"));
    for round in 0..12 {
        primary.sql(&format!(
            "UPDATE note SET text = 'round {round}' WHERE id % 100 = {round}"
        ));
        replica.sync();
        if round % 2 == 0 {
            if round % 4 == 0 {
                replica.close();
            } else {
                replica.kill();
            }
            let mut plain = Shell::plain(&files.copy);
            assert_eq!(plain.sql("SELECT count(*) FROM note"), "1000");
            // The last closer: checkpoints, and removes the log.
            plain.close();
            replica = Shell::replica(&files.copy, &parameters);
        } else {
            Shell::plain(&files.copy)
                .sql("SELECT count(*) FROM note; PRAGMA wal_checkpoint(RESTART)");
        }
        relay.take_received();
        let answer = replica.sync();
        let bytes = relay.take_received();
        assert!(
            bytes < 100_000,
            "round {round}: {bytes} bytes for nothing: {answer}"
        );
        assert_eq!(
            replica.sql("SELECT state FROM replica_status"),
            "ok",
            "round {round}"
        );
        assert_same(&files.app, &files.copy, &format!("round {round}"));
    }
}

#[test]
fn pages_of_another_database_are_refused() {
    let files = Files::new();
    let mut primary = files.primary();
    let relay = Relay::to(primary.address());
    let mut replica = files.replica(&relay.url("app"));
    let before = Image::read(&files.copy);
    // The same name, the same schema, even a copy of the same file: another database all the same.
    std::fs::create_dir(files.path("elsewhere")).expect("directory");
    let other = files.path("elsewhere/app.db");
    notes(&other);
    let mut stranger = harness::Primary::start(&other);
    stranger.sql("DELETE FROM note WHERE id > 10");
    relay.point(Some(stranger.address()));
    replica.close();
    for _ in 0..2 {
        let mut replica = Shell::replica(&files.copy, &format!("sync_url={}", relay.url("app")));
        assert_eq!(replica.sql("SELECT count(*) FROM note"), "1000");
        replica.refused("SELECT replica_sync()");
        let reason = replica.sql("SELECT replica_last_error()");
        assert!(reason.contains("another database"), "{reason}");
        assert!(
            before == Image::read(&files.copy),
            "content was taken from a stranger"
        );
    }
    relay.point(Some(primary.address()));
    primary.sql("INSERT INTO note VALUES (2000, 'home again', NULL)");
    replica = Shell::replica(&files.copy, "");
    replica.sync();
    assert_same(&files.app, &files.copy, "home again");
}

#[test]
fn verify_finds_a_flipped_byte_and_discard_cures_it() {
    let files = Files::new();
    let primary = files.primary();
    let relay = Relay::to(primary.address());
    let mut replica = files.replica(&relay.url("app"));
    let whole = relay.take_received();
    replica.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    let pages = Image::read(&files.copy).pages();
    let verified = replica.sql("SELECT replica_verify()");
    assert_eq!(json(&verified, "$.ok"), "1", "{verified}");
    assert_eq!(number(&verified, "$.pages"), pages as u64, "{verified}");
    assert_eq!(json(&verified, "$.bad_pages"), "[]", "{verified}");
    assert_eq!(json(&verified, "$.position"), replica.position());
    flip(&files.copy, 100);
    let verified = replica.sql("SELECT replica_verify()");
    println!("after one flipped byte: {verified}");
    assert_eq!(json(&verified, "$.ok"), "0", "{verified}");
    assert_eq!(json(&verified, "$.bad_pages"), "[100]", "{verified}");
    relay.take_received();
    replica.sql("SELECT replica_discard()");
    replica.sync();
    let bytes = relay.take_received();
    assert!(bytes < whole / 4, "{bytes} of {whole}");
    let verified = replica.sql("SELECT replica_verify()");
    assert_eq!(json(&verified, "$.ok"), "1", "{verified}");
    assert_same(&files.app, &files.copy, "cured");
}

#[test]
fn a_flipped_byte_in_a_closed_replica_is_never_taken_for_good() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut replica = files.replica(primary.url());
    replica.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    replica.close();
    flip(&files.copy, 50);
    let mut replica = Shell::replica(&files.copy, "");
    primary.sql("INSERT INTO note VALUES (2000, 'elsewhere in the file', NULL)");
    // The file is not what was recorded: as with any foreign change, the sync says so.
    replica.refused("SELECT replica_sync()");
    assert_eq!(replica.sql("SELECT state FROM replica_status"), "foreign");
    replica.sql("SELECT replica_discard()");
    replica.sync();
    assert_same(&files.app, &files.copy, "cured");
}

#[test]
fn a_replica_without_its_state_is_refused_and_made_again_from_differing_pages() {
    let files = Files::new();
    let mut primary = files.primary();
    let relay = Relay::to(primary.address());
    files.replica(&relay.url("app")).close();
    let whole = relay.take_received();
    primary.sql("UPDATE note SET text = 'meanwhile' WHERE id IN (1, 999)");
    for file in side_files(&files.copy) {
        if file.contains("-replica") {
            std::fs::remove_file(files.path(&file)).expect("remove");
        }
    }
    let before = Image::read(&files.copy);
    let mut replica = Shell::replica(&files.copy, &format!("sync_url={}", relay.url("app")));
    replica.refused("SELECT count(*) FROM note");
    assert!(before == Image::read(&files.copy));
    relay.take_received();
    replica.sql("SELECT replica_discard()");
    replica.sync();
    let bytes = relay.take_received();
    assert!(bytes < whole / 4, "{bytes} of {whole}");
    assert_same(&files.app, &files.copy, "made again");
    assert_eq!(replica.sql("SELECT state FROM replica_status"), "ok");
}

#[test]
fn changes_made_while_nobody_served_are_found_and_only_they_travel() {
    let files = Files::new();
    let primary = files.primary();
    let relay = Relay::to(primary.address());
    let mut replica = files.replica(&relay.url("app"));
    let whole = relay.take_received();
    primary.close();
    for round in 0..6 {
        let mut plain = Shell::plain(&files.app);
        plain.sql(&format!(
            "UPDATE note SET text = 'unserved {round}' WHERE id % 200 = {round}; PRAGMA user_version = {round}"
        ));
        match round % 3 {
            // Same size, no log, and a header that does not tell: only the pages do.
            0 => drop(plain.close()),
            1 => drop(plain.kill()),
            _ => {
                plain.sql("VACUUM; UPDATE note SET text = 'again' WHERE id = 7; VACUUM");
                plain.close();
            }
        }
        let before = Image::read(&files.copy);
        let mut primary = files.primary();
        relay.point(Some(primary.address()));
        let answer = replica.sync();
        let bytes = relay.take_received();
        assert_same(&files.app, &files.copy, &format!("round {round}"));
        assert_eq!(replica.position(), primary.shell().position());
        let differing = before.differing_pages(&Image::read(&files.app)).len() as u64;
        println!("round {round}: {differing} pages differ, {bytes} bytes received: {answer}");
        assert!(
            bytes < 2 * differing * 4096 + whole / 8,
            "round {round}: {bytes} bytes for {differing} pages"
        );
        primary.sql("SELECT replica_stop()");
        primary.close();
    }
    assert!(!side_file(&files.copy, "-replica-part").exists());
}
