//! An encrypted local database: what SQLite promises of a plain one holds, and no power loss looks
//! like tampering.
use crate::campaign::{self, Cut, Report, Space};
use crate::host::Host;
use crate::plain::{check, record, survey};
use crate::storage::Storage;
use crate::trace::Recorder;
use std::path::Path;

const AUTO_VACUUM: &str = "PRAGMA auto_vacuum=FULL";
const WAL: &str = "PRAGMA journal_mode=WAL";
const DELETE: &str = "PRAGMA journal_mode=DELETE";
const PERSIST: &str = "PRAGMA journal_mode=PERSIST";
const FULL: &str = "PRAGMA synchronous=FULL";

fn shell(database: &Path, recorder: &Recorder) -> Host {
    let mut host = Host::extended(Some(recorder)).unwrap();
    host.open(database, Storage::Sealed, None).unwrap();
    host
}

fn sealed(name: &str, pragmas: &[&str]) -> Report {
    survey(name, Storage::Sealed, pragmas, shell)
}

#[test]
fn sealed_wal_full_keeps_every_commit() {
    sealed("wal full", &[WAL, FULL]).expect_none();
    sealed("wal full auto_vacuum", &[AUTO_VACUUM, WAL, FULL]).expect_none();
}

#[test]
fn sealed_wal_normal_loses_commits_and_breaks_nothing() {
    let report = sealed("wal normal", &[WAL, "PRAGMA synchronous=NORMAL"]);
    assert!(report.lost > 0);
    report.expect_sound();
}

#[test]
fn sealed_delete_extra_keeps_every_commit() {
    let extra = "PRAGMA synchronous=EXTRA";
    sealed("delete extra", &[AUTO_VACUUM, DELETE, extra]).expect_none();
}

/// As plain SQLite does: the journal's unlink may be lost.
#[test]
fn sealed_delete_full_may_lose_the_last_commit_and_breaks_nothing() {
    let report = sealed("delete full", &[DELETE, FULL]);
    assert!(report.lost > 0);
    report.expect_sound();
}

/// A journal that stays is zeroed and synced: every commit is kept.
#[test]
fn sealed_persist_full_keeps_every_commit() {
    sealed("persist full", &[PERSIST, FULL]).expect_none();
    sealed("persist full auto_vacuum", &[AUTO_VACUUM, PERSIST, FULL]).expect_none();
}

#[test]
fn sealed_truncate_full_keeps_every_commit() {
    sealed("truncate full", &["PRAGMA journal_mode=TRUNCATE", FULL]).expect_none();
}

#[test]
fn sealed_off_is_caught() {
    for mode in [WAL, DELETE, PERSIST] {
        let report = sealed(
            &format!("{} off", mode.trim_start_matches("PRAGMA journal_mode=")),
            &[mode, "PRAGMA synchronous=OFF"],
        );
        assert!(report.broken > 0);
    }
}

/// Hosts that forget to sync one file, made from those that do not.
#[test]
fn sealed_without_syncs_of_one_file_is_caught() {
    for (mode, file) in [
        (WAL, "app.db-swal"),
        (PERSIST, "app.db-sjournal"),
        (PERSIST, "app.db"),
    ] {
        let space = Space::new();
        let recording = record(&space, Storage::Sealed, &[mode, FULL], true, shell);
        let lying = campaign::without_syncs(&recording.steps, |name, _| name == file);
        let check = |cut: &Cut, dir: &Path| check(&recording, cut, dir);
        let name = format!("sealed without syncs of {file}");
        let report = campaign::run(&name, &lying, 200, usize::MAX, check);
        assert!(report.broken > 0);
    }
}
