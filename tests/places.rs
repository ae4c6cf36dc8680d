//! Odd ways to open, and odd places: read-only, immutable, folders that cannot be written or are not there; copies by
//! the backup API and VACUUM INTO. A clear result each, and nothing harmed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use harness::encryption::{self, End};
use harness::{
    Failure, Files, Host, Image, Shell, assert_intact, assert_same, image, json, notes, side_files,
    uri,
};

const SQLITE_READONLY: i32 = 8;
const SQLITE_CANTOPEN: i32 = 14;

const COUNT: &str = "SELECT count(*) FROM note";

/// The refusal's code, and a sentence about it.
#[track_caller]
fn assert_refused(host: &mut Host, failure: &Failure, code: i32) {
    assert_eq!(failure.code & 0xff, code, "{failure:?}");
    let sentence = host.sql("memory", "SELECT replica_last_error()");
    assert!(
        sentence.len() > 20 && sentence.contains(' '),
        "{sentence:?}"
    );
}

fn both() -> [(&'static str, Host); 2] {
    [("Python", Host::python()), ("bundled", Host::bundled())]
}

#[test]
fn a_replica_opened_read_only_reads_and_follows() {
    for (name, mut host) in both() {
        let files = Files::new();
        let mut primary = files.primary();
        files.replica(primary.url());
        host.open("main", &uri(&files.copy, "mode=ro"));
        assert_eq!(host.sql("main", COUNT), "1000", "{name}");
        primary.sql("INSERT INTO note VALUES (2000, 'new', NULL)");
        // The connection writes nothing; the extension brings the file up to date.
        host.sql("main", "SELECT replica_sync()");
        assert_eq!(host.sql("main", COUNT), "1001", "{name}");
        assert_eq!(
            host.sql("main", "SELECT state FROM replica_status"),
            "ok",
            "{name}"
        );
        let failure = host.refused("main", "DELETE FROM note");
        assert_eq!(failure.code & 0xff, SQLITE_READONLY, "{name}: {failure:?}");
        assert_same(&files.app, &files.copy, name);
    }
}

#[test]
fn what_may_not_be_created_is_not() {
    for (name, mut host) in both() {
        let files = Files::new();
        let primary = files.primary();
        for mode in ["mode=ro", "mode=rw", "immutable=1", "mode=ro&immutable=1"] {
            let path = uri(&files.copy, &format!("{mode}&sync_url={}", primary.url()));
            let failure = host.refused_at_open_or("main", &path, COUNT);
            assert_refused(&mut host, &failure, SQLITE_CANTOPEN);
            assert!(!files.copy.exists(), "{name}: {mode}");
            assert_eq!(
                side_files(&files.copy),
                Vec::<String>::new(),
                "{name}: {mode}"
            );
        }
    }
}

/// `immutable=1` promises that nobody writes; a replica's file without its log is no state of the database.
#[test]
fn a_replica_is_not_immutable() {
    for (name, mut host) in both() {
        let files = Files::new();
        let primary = files.primary();
        files.replica(primary.url());
        let before = Image::read(&files.copy);
        let failure = host.refused_at_open_or("main", &uri(&files.copy, "immutable=1"), COUNT);
        assert_refused(&mut host, &failure, SQLITE_CANTOPEN);
        assert!(before == Image::read(&files.copy), "{name}");
        // Any other database is SQLite's business.
        let plain = files.path("plain.db");
        Shell::plain(&plain).sql("CREATE TABLE note(a); INSERT INTO note VALUES (1)");
        host.open("plain", &uri(&plain, "immutable=1"));
        assert_eq!(host.sql("plain", COUNT), "1", "{name}");
    }
}

#[test]
fn a_connection_that_may_not_write_does_not_serve() {
    for (name, mut host) in both() {
        let files = Files::new();
        let plain = files.path("plain.db");
        Shell::plain(&plain).sql("CREATE TABLE note(a); INSERT INTO note VALUES (1)");
        let before = std::fs::read(&plain).expect("read");
        for mode in ["mode=ro", "immutable=1"] {
            host.open("main", &uri(&plain, mode));
            let failure = host.refused("main", "SELECT replica_serve('127.0.0.1:0')");
            assert!(
                failure.message.contains("reading only"),
                "{name}: {failure:?}"
            );
            assert_eq!(host.sql("main", COUNT), "1");
            host.close_connection("main");
            assert!(
                before == std::fs::read(&plain).expect("read"),
                "{name}: {mode}"
            );
            assert_eq!(side_files(&plain), Vec::<String>::new(), "{name}: {mode}");
        }
    }
}

#[test]
fn a_folder_that_is_not_there() {
    for (name, mut host) in both() {
        let files = Files::new();
        let primary = files.primary();
        let path = files.path("missing/replica.db");
        let parameters = format!("sync_url={}", primary.url());
        let failure = host.refused_at_open_or("main", &uri(&path, &parameters), COUNT);
        assert_refused(&mut host, &failure, SQLITE_CANTOPEN);
        let settings = format!(r#"{{"sync_url": "{}"}}"#, primary.url());
        host.refused(
            "memory",
            &format!(
                "SELECT replica_configure('{}', '{settings}')",
                path.display()
            ),
        );
        assert!(!files.path("missing").exists(), "{name}");
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
}

/// Everything a user without rights must reach is opened to all; the folder under test is the caller's business.
fn open_to_all(files: &Files, folder: &Path) {
    set_mode(files.directory.path(), 0o755);
    for entry in std::fs::read_dir(folder).expect("folder") {
        set_mode(&entry.expect("entry").path(), 0o644);
    }
}

#[test]
fn a_folder_that_cannot_be_written() {
    let files = Files::new();
    let mut primary = files.primary();
    let folder = files.path("readonly");
    std::fs::create_dir(&folder).expect("folder");
    let copy = folder.join("replica.db");
    let mut shell = Shell::replica(&copy, &format!("sync_url={}", primary.url()));
    shell.sync();
    shell.close();
    let closed = folder.join("closed.db");
    notes(&closed);
    open_to_all(&files, &folder);
    set_mode(&folder, 0o555);
    let contents = || {
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .expect("folder")
            .map(|entry| entry.expect("entry").path())
            .map(|path| (path.clone(), std::fs::read(path).expect("read")))
            .collect();
        files.sort();
        files
    };
    let before = contents();

    let mut host = Host::bound_by_permissions(files.directory.path());
    // A new replica cannot be made there.
    let new = uri(
        &folder.join("new.db"),
        &format!("sync_url={}", primary.url()),
    );
    let failure = host.refused_at_open_or("main", &new, COUNT);
    assert_refused(&mut host, &failure, SQLITE_CANTOPEN);
    // Nor an existing one be opened, whose files may have to be written for a read already.
    for mode in ["", "mode=ro"] {
        let failure = host.refused_at_open_or("main", &uri(&copy, mode), COUNT);
        println!("a replica, {mode:?}: {failure:?}");
        assert!(
            [SQLITE_READONLY, SQLITE_CANTOPEN].contains(&(failure.code & 0xff)),
            "{failure:?}"
        );
    }
    // A database that is none is SQLite's business: the same answer with the VFS as without it.
    let with = host
        .try_open("with", &uri(&closed, "mode=ro"))
        .and_then(|()| host.try_sql("with", COUNT));
    let without = host
        .try_open("without", &format!("file:{}?mode=ro", closed.display()))
        .and_then(|()| host.try_sql("without", COUNT));
    if !encryption::is_on(End::Primary) {
        assert_eq!(
            with.map_err(|failure| failure.code),
            without.map_err(|failure| failure.code)
        );
    }
    // And nothing of it is served.
    if host.try_open("serve", &uri(&closed, "")).is_ok() {
        let failure = host.refused("serve", "SELECT replica_serve('127.0.0.1:0')");
        println!("serving: {failure:?}");
    }
    drop(host);
    assert!(before == contents(), "the folder changed");

    set_mode(&folder, 0o755);
    primary.sql("INSERT INTO note VALUES (2000, 'new', NULL)");
    let mut shell = Shell::replica(&copy, "");
    shell.sync();
    assert_same(&files.app, &copy, "writable again");
    assert_intact(&closed, "writable again");
}

#[test]
fn the_backup_api_in_every_direction() {
    for (name, mut host) in [("Python", Host::python()), ("APSW", Host::apsw())] {
        let files = Files::new();
        let plain = files.path("plain.db");
        let mut serving = Host::bundled();
        serving.open("main", &uri(&files.app, ""));
        let url = json(
            &serving.sql("main", "SELECT replica_serve('127.0.0.1:0')"),
            "$.url",
        );
        host.open("replica", &uri(&files.copy, &format!("sync_url={url}")));
        assert_eq!(host.sql("replica", COUNT), "1000", "{name}");

        // Out of a replica.
        host.open("plain", &encryption::name(&plain));
        host.backup("replica", "plain").expect("a copy");
        assert_eq!(host.sql("plain", COUNT), "1000", "{name}");
        host.sql("plain", "DELETE FROM note WHERE id > 500");
        // Into a replica: one transaction, on the primary too.
        host.backup("plain", "replica").expect("restored");
        assert_eq!(host.sql("replica", COUNT), "500", "{name}");
        assert_eq!(serving.sql("main", COUNT), "500", "{name}");
        serving.sql("main", "INSERT INTO note VALUES (3000, 'after that', NULL)");
        host.sql("replica", "SELECT replica_sync()");
        assert_same(&files.app, &files.copy, name);

        // Out of and into a primary that is being served, from another process: one more transaction.
        host.open("app", &encryption::name(&files.app));
        let copy = files.path("copy.db");
        host.open("copy", &encryption::name(&copy));
        host.backup("app", "copy").expect("a copy");
        assert_eq!(host.sql("copy", COUNT), "501", "{name}");
        host.backup("plain", "app").expect("restored");
        host.sql("replica", "SELECT replica_sync()");
        assert_eq!(host.sql("replica", COUNT), "500", "{name}");
        let verified = host.sql("replica", "SELECT replica_verify()");
        assert_eq!(json(&verified, "$.ok"), "1", "{name}: {verified}");
        assert_same(
            &files.app,
            &files.copy,
            &format!("{name}: a backup into the primary"),
        );

        // Between replica and a database on our VFS that is none.
        host.open("ours", &uri(&files.path("ours.db"), ""));
        host.backup("replica", "ours").expect("a copy");
        assert_eq!(host.sql("ours", COUNT), "500", "{name}");
        host.close_connection("ours");
        assert_intact(&files.path("ours.db"), name);
    }
}

#[test]
fn vacuum_into() {
    for (name, mut host) in both() {
        let files = Files::new();
        let primary = files.primary();
        host.open_replica(&files.copy, &format!("sync_url={}", primary.url()));
        assert_eq!(host.sql("main", COUNT), "1000", "{name}");
        let before = Image::read(&files.copy);
        for (index, form) in ["PATH", "file:PATH?vfs=unix", "file:PATH?vfs=replica"]
            .iter()
            .enumerate()
        {
            let path = files.path(&format!("into-{index}.db"));
            let target = form.replace("PATH", path.to_str().expect("UTF-8"));
            host.sql("main", &format!("VACUUM INTO '{target}'"));
            assert_intact(&path, name);
            assert_eq!(image::value(&path, COUNT), "1000", "{name}: {form}");
            // An ordinary database, which anybody may write.
            Shell::plain(&path).sql("DELETE FROM note");
        }
        // Not over what is there.
        let taken = files.path("taken.db");
        notes(&taken);
        let kept = std::fs::read(&taken).expect("read");
        host.refused("main", &format!("VACUUM INTO '{}'", taken.display()));
        host.refused("main", &format!("VACUUM INTO '{}'", files.copy.display()));
        assert!(kept == std::fs::read(&taken).expect("read"), "{name}");
        assert!(before == Image::read(&files.copy), "{name}");
        host.sql("main", "SELECT replica_sync()");
        assert_same(&files.app, &files.copy, name);
        // Out of a primary, by the host that serves it.
        let mut serving = primary;
        serving.sql(&format!(
            "VACUUM INTO '{}'",
            files.path("of-app.db").display()
        ));
        assert_eq!(
            image::value(&files.path("of-app.db"), COUNT),
            "1000",
            "{name}"
        );
    }
}
