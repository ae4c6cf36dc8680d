//! Programs that follow in the background and end, or fork: nothing hangs, nothing crashes, and the file is fine.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::{Files, Host, Primary, Shell, assert_intact, assert_same, library, uri};

const WAYS: [&str; 2] = ["sync_interval=0.02", "live=1"];

/// How long a program takes to end at most.
const PROMPT: Duration = Duration::from_secs(1);

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("background/host.py")
}

fn python(files: &Files, parameters: &str, way: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(script())
        .arg(library())
        .arg(uri(&files.copy, parameters))
        .args(way);
    command
}

/// Runs `work` while the primary commits all the time.
fn beside_commits<T>(primary: &mut Primary, work: impl FnOnce() -> T) -> T {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let committing = scope.spawn(|| {
            let mut round = 0;
            while !ended.load(Ordering::Relaxed) {
                round += 1;
                primary.sql(&format!(
                    "UPDATE note SET text = 'round {round}' WHERE id <= 20"
                ));
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let result = catch_unwind(AssertUnwindSafe(work));
        ended.store(true, Ordering::Relaxed);
        committing.join().expect("commits");
        result.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[test]
fn python_ends_promptly() {
    let ends = [
        ("closes", 0, "done"),
        ("ends", 0, "done"),
        ("sys.exit", 3, ""),
        ("raises", 1, ""),
        ("os._exit", 4, ""),
        ("threads", 0, "done"),
    ];
    for following in WAYS {
        let files = Files::new();
        let mut primary = files.primary();
        let parameters = format!("sync_url={}&{following}", primary.url());
        drop(files.replica(primary.url()));
        beside_commits(&mut primary, || {
            for (way, code, last) in ends {
                let begun = Instant::now();
                let output = python(&files, &parameters, &[way])
                    .output()
                    .expect("python");
                let took = begun.elapsed();
                let context = format!("{following}: {way}: {output:?}");
                assert_eq!(output.status.code(), Some(code), "{context}");
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(
                    text.ends_with(&format!("{last}\n")) || last.is_empty(),
                    "{context}"
                );
                println!("{following}: {way}: {took:?}");
                // With the start of the interpreter.
                assert!(
                    took < PROMPT + Duration::from_secs(2),
                    "{context}: {took:?}"
                );
                assert_intact(&files.copy, &context);
            }
        });
    }
}

#[test]
fn children_of_a_fork_can_use_sqlite() {
    for following in WAYS {
        let files = Files::new();
        let mut primary = files.primary();
        let parameters = format!("sync_url={}&{following}", primary.url());
        drop(files.replica(primary.url()));
        beside_commits(&mut primary, || {
            let output = python(&files, &parameters, &["forks", "60"])
                .output()
                .expect("python");
            assert!(output.status.success(), "{following}: {output:?}");
            let output = python(&files, &parameters, &["multiprocessing"])
                .output()
                .expect("python");
            assert!(output.status.success(), "{following}: {output:?}");
        });
        files.replica(primary.url()).close();
        assert_same(&files.app, &files.copy, following);
    }
}

#[test]
fn shells_and_node_end_promptly() {
    for following in WAYS {
        let files = Files::new();
        let mut primary = files.primary();
        let parameters = format!("sync_url={}&{following}", primary.url());
        drop(files.replica(primary.url()));
        beside_commits(&mut primary, || {
            for way in [".quit", ".exit 0", "end of input"] {
                let mut shell = Shell::replica(&files.copy, &parameters);
                shell.sql("SELECT count(*) FROM note");
                std::thread::sleep(Duration::from_millis(100));
                let begun = Instant::now();
                match way {
                    "end of input" => shell.process().close_input(),
                    command => drop(shell.feed(command)),
                }
                let status = shell.process().wait();
                // (The shell answers 1 to `.quit` where it was not interactive.)
                assert!(
                    status.code().is_some_and(|code| code < 2),
                    "{following}: shell: {way}: {status}"
                );
                assert!(
                    begun.elapsed() < PROMPT,
                    "{following}: shell: {way}: {:?}",
                    begun.elapsed()
                );
                assert_intact(&files.copy, way);
            }
            for closes in [true, false] {
                let mut node = Host::node();
                // The settings are remembered, and better-sqlite3 takes no URIs.
                node.sql("memory", "SELECT replica_default_vfs(1)");
                node.open("main", files.copy.to_str().expect("UTF-8"));
                node.sql("main", "SELECT count(*) FROM note");
                std::thread::sleep(Duration::from_millis(100));
                let begun = Instant::now();
                if closes {
                    node.close_connection("main");
                }
                node.process().close_input();
                let status = node.process().wait();
                let took = begun.elapsed();
                assert_eq!(status.code(), Some(0), "{following}: node: {status}");
                assert!(took < PROMPT, "{following}: node: {took:?}");
                assert_intact(&files.copy, "node");
            }
        });
    }
}
