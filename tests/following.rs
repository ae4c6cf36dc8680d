//! Pulls that wait on the primary, and what wakes them.

use std::time::{Duration, Instant};

use harness::{Files, Follower, Hrana, News, Primary, Shell, json, wait_for};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

/// A generous bound for what takes some milliseconds, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(10);

/// A follower that has everything.
#[track_caller]
fn follower(primary: &Primary, number: u64) -> Follower {
    let mut follower = Follower::of(primary.url(), number);
    assert_eq!(follower.pull(Duration::ZERO), News::Something);
    follower
}

/// How long after `commit` returned a waiting follower was answered, sorted.
#[track_caller]
fn delays(what: &str, follower: &mut Follower, mut commit: impl FnMut(usize)) {
    let mut delays = Vec::new();
    for round in 0..30 {
        follower.ask(LONG);
        std::thread::sleep(Duration::from_millis(20));
        let lsn = follower.lsn();
        let begun = Instant::now();
        commit(round);
        let committed = begun.elapsed();
        assert_eq!(follower.answer(), News::Something, "{what}, round {round}");
        delays.push(begun.elapsed().saturating_sub(committed));
        assert!(follower.lsn() > lsn);
    }
    delays.sort();
    println!(
        "{what}: answered {:?} after the commit returned (median of 30; {:?} to {:?})",
        delays[15], delays[0], delays[29]
    );
    assert!(delays[29] < SOON, "{what}: {delays:?}");
}

#[test]
fn commits_of_the_serving_connection_wake_a_waiting_pull() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut follower = follower(&primary, 1);
    delays("the serving connection", &mut follower, |round| {
        primary.sql(&format!(
            "UPDATE note SET text = 'round {round}' WHERE id = 7"
        ));
    });
}

#[test]
fn commits_of_plain_sqlite_in_another_process_wake_a_waiting_pull() {
    let files = Files::new();
    let primary = files.primary();
    let mut follower = follower(&primary, 1);
    let plain = rusqlite::Connection::open(&files.app).expect("open");
    delays("plain SQLite in another process", &mut follower, |round| {
        plain
            .execute("UPDATE note SET text = ?1 WHERE id = 7", [round])
            .expect("update");
    });
    drop(plain);
}

#[test]
fn commits_of_a_replica_wake_a_waiting_pull() {
    let files = Files::new();
    let primary = files.primary();
    let mut replica = files.replica(primary.url());
    let mut follower = follower(&primary, 1);
    delays("a replica", &mut follower, |round| {
        replica.sql(&format!(
            "UPDATE note SET text = 'round {round}' WHERE id = 7"
        ));
    });
}

#[test]
fn commits_of_sql_over_http_wake_a_waiting_pull() {
    let files = Files::new();
    let primary = files.primary();
    let mut follower = follower(&primary, 1);
    let hrana = Hrana::to(primary.url());
    delays("SQL over HTTP", &mut follower, |round| {
        let sql = format!("UPDATE note SET text = 'round {round}' WHERE id = 7");
        hrana.execute(&sql);
    });
}

#[test]
fn a_wait_ends_in_time() {
    let files = Files::new();
    let primary = files.primary();
    let mut follower = follower(&primary, 1);
    for milliseconds in [0, 50, 700] {
        let wait = Duration::from_millis(milliseconds);
        let begun = Instant::now();
        assert_eq!(follower.pull(wait), News::Nothing);
        let took = begun.elapsed();
        println!("a wait of {wait:?} took {took:?}");
        assert!(took >= wait && took < wait + SOON, "{took:?}");
    }
    // What was committed by nobody that tells, before it is asked.
    let plain = rusqlite::Connection::open(&files.app).expect("open");
    plain
        .execute("UPDATE note SET text = 'new' WHERE id = 7", [])
        .expect("update");
    let begun = Instant::now();
    assert_eq!(follower.pull(LONG), News::Something);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[test]
fn who_waits_is_told_when_the_serving_stops() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut followers: Vec<_> = (1..=10).map(|number| follower(&primary, number)).collect();
    followers.iter_mut().for_each(|follower| follower.ask(LONG));
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    primary.sql("SELECT replica_stop()");
    let stopped = begun.elapsed();
    for follower in &mut followers {
        assert_eq!(follower.answer(), News::Refused(503));
    }
    println!(
        "replica_stop() took {stopped:?}, all were told after {:?}",
        begun.elapsed()
    );
    assert!(stopped < Duration::from_secs(5), "{stopped:?}");
    primary.sql("UPDATE note SET text = 'alone' WHERE id = 7");
}

/// CPU time in seconds and resident memory in KiB of a process.
fn usage(pid: u32) -> (f64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<_> = stat.rsplit_once(')').expect("stat").1.split(' ').collect();
    let ticks: f64 = [12, 13]
        .iter()
        .map(|at| fields[*at].parse::<f64>().expect("ticks"))
        .sum();
    // SAFETY: asks for a constant of the system.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|line| line.trim().split(' ').next());
    (
        ticks / per_second,
        resident.expect("VmRSS").parse().expect("KiB"),
    )
}

/// As many followers as asked for, or as the descriptors of this process allow. Its children have the same limit.
fn many(wanted: usize) -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure lives across both calls.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max.min(8192);
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    let descriptors = usize::try_from(limit.rlim_cur).expect("a limit");
    wanted.min(descriptors.saturating_sub(600))
}

/// Commits after which it is measured when each of all followers was answered.
const COMMITS: usize = 30;

/// How long after `begun` each of the followers had an answer.
fn answered(followers: &[Follower], begun: Instant) -> Vec<Duration> {
    let mut waiting: Vec<_> = followers
        .iter()
        .map(|follower| libc::pollfd {
            fd: follower.descriptor(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let mut times = Vec::with_capacity(followers.len());
    while !waiting.is_empty() {
        // SAFETY: as many valid structures as said.
        let ready =
            unsafe { libc::poll(waiting.as_mut_ptr(), waiting.len() as libc::nfds_t, 30_000) };
        assert!(ready > 0, "{} were not answered", waiting.len());
        let now = begun.elapsed();
        waiting.retain(|one| {
            let is_answered = one.revents != 0;
            if is_answered {
                times.push(now);
            }
            !is_answered
        });
    }
    times
}

/// The share of all that took no longer.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

#[test]
fn a_thousand_wait_at_next_to_no_cost_and_one_commit_wakes_all() {
    let count = many(1000);
    let files = Files::new();
    let mut primary = files.primary();
    let pid = primary.shell().process().pid();
    let idle = |seconds: f64| {
        let before = usage(pid).0;
        std::thread::sleep(Duration::from_secs_f64(seconds));
        (usage(pid).0 - before) / seconds * 100.0
    };
    let first = follower(&primary, 1);
    let (_, memory) = usage(pid);
    println!("nobody waits: {:.2} % of a core, {memory} KiB", idle(3.0));
    let mut followers: Vec<_> = (0..count as u64)
        .map(|number| {
            let mut follower = Follower::of(primary.url(), 100 + number);
            follower.catch_up(&first);
            follower.ask(LONG);
            follower
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let percent = idle(5.0);
    let (_, waiting) = usage(pid);
    println!(
        "{count} wait: {percent:.2} % of a core, {waiting} KiB, {:.1} KiB each",
        (waiting.saturating_sub(memory)) as f64 / count as f64
    );
    let before = usage(pid).0;
    let begun = Instant::now();
    primary.sql("UPDATE note SET text = 'for all' WHERE id = 7");
    assert_eq!(followers[0].answer(), News::Something);
    let first_answer = begun.elapsed();
    for follower in &mut followers[1..] {
        assert_eq!(follower.answer(), News::Something);
    }
    println!(
        "one commit woke all: the first after {first_answer:?}, the last after {:?}, {:.3} s of CPU, {} KiB",
        begun.elapsed(),
        usage(pid).0 - before,
        usage(pid).1
    );
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    assert!(percent < 25.0, "{percent} % of a core");

    let mut times = Vec::new();
    let before = usage(pid).0;
    for round in 0..COMMITS {
        followers.iter_mut().for_each(|follower| follower.ask(LONG));
        // All of them are parked.
        std::thread::sleep(Duration::from_millis(100));
        primary.sql(&format!(
            "UPDATE note SET text = 'round {round}' WHERE id = 7"
        ));
        let committed = Instant::now();
        times.extend(answered(&followers, committed));
        for follower in &mut followers {
            assert_eq!(follower.answer(), News::Something, "round {round}");
        }
    }
    times.sort();
    println!(
        "{COMMITS} commits, {count} followers: each was answered {:?} (p50), {:?} (p99), {:?} (last) after COMMIT had \
         returned; {:.4} s of CPU of the primary for each commit, {} KiB",
        percentile(&times, 0.5),
        percentile(&times, 0.99),
        percentile(&times, 1.0),
        (usage(pid).0 - before) / COMMITS as f64,
        usage(pid).1
    );
}

/// Replicas that are real processes.
const PROCESSES: usize = 50;

#[test]
fn fifty_processes_converge() {
    let files = Files::new();
    let mut primary = files.primary();
    let path = |number: usize| files.path(&format!("copy{number}.db"));
    let parameters = format!("sync_url={}&live=1", primary.url());
    let mut replicas: Vec<_> = (0..PROCESSES)
        .map(|number| Shell::replica(&path(number), &parameters))
        .collect();
    for (number, replica) in replicas.iter_mut().enumerate() {
        assert_eq!(replica.sql("SELECT count(*) FROM note"), "1000");
        primary.sql(&format!(
            "UPDATE note SET text = 'as {number} came' WHERE id = {}",
            number + 1
        ));
    }
    for round in 0..100 {
        primary.sql(&format!(
            "UPDATE note SET text = 'round {round}' WHERE id = {}",
            100 + round
        ));
        let writer = &mut replicas[round * 7 % PROCESSES];
        let sql = format!(
            "UPDATE note SET text = 'replica, round {round}' WHERE id = {}",
            300 + round
        );
        // It may not have heard of the commit before yet: then it is run again, as any program does.
        wait_for("a write", || match writer.try_sql(&sql) {
            Ok(_) => true,
            Err(error) => {
                assert!(error.contains("locked"), "{error}");
                false
            }
        });
    }
    let position = primary.shell().position();
    let begun = Instant::now();
    for replica in &mut replicas {
        wait_for("the newest position", || replica.position() == position);
    }
    println!(
        "{PROCESSES} processes at {position} {:?} after the last write",
        begun.elapsed()
    );
    let content = primary.sql(".sha3sum");
    let lag = "SELECT lag_transactions || ' ' || ifnull(last_error, 'well') FROM replica_status";
    for replica in &mut replicas {
        assert_eq!(replica.sql(".sha3sum"), content);
        assert_eq!(replica.sql("PRAGMA integrity_check"), "ok");
        wait_for("no trouble", || replica.sql(lag) == "0 well");
    }
    assert_eq!(
        primary.sql("SELECT count(*), sum(waiting) FROM replica_peers"),
        format!("{PROCESSES}|{PROCESSES}")
    );
    for replica in replicas {
        replica.close();
    }
    for number in 0..PROCESSES {
        harness::assert_same(&files.app, &path(number), "at the end");
    }
}

/// Whoever commits without a pause is not slowed down by those who wait, and they get the newest each time.
#[test]
fn a_busy_writer_and_followers_go_on_together() {
    let files = Files::new();
    let mut primary = files.primary();
    let script = files.path("script.sql");
    let text: String = (0..5000)
        .map(|number| {
            format!(
                "UPDATE note SET text = 'commit {number}' WHERE id = {};\n",
                number % 1000 + 1
            )
        })
        .collect();
    std::fs::write(&script, text).expect("write");
    let run = |shell: &mut Shell| {
        let begun = Instant::now();
        shell.feed(&format!(".read \"{}\"", script.display()));
        shell.settle();
        begun.elapsed()
    };
    // The log grows once; after that it is written anew.
    run(primary.shell());
    let alone = run(primary.shell());
    let mut waiting = follower(&primary, 1);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let answers = std::thread::spawn(move || {
        let mut answers = 0;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            if waiting.pull(Duration::from_millis(200)) == News::Something {
                answers += 1;
            }
        }
        (waiting, answers)
    });
    let followed = run(primary.shell());
    drop(stop);
    let (mut waiting, answers) = answers.join().expect("no panic");
    println!(
        "5,000 commits: {alone:?} alone, {followed:?} with a follower, which was answered {answers} times"
    );
    assert!(answers > 3, "{answers}");
    while waiting.pull(Duration::ZERO) == News::Something {}
    let newest = primary.shell().position();
    let lsn = newest.split_once('-').expect("lsn-id").0;
    assert_eq!(waiting.lsn().to_string(), lsn);
}

/// `GET`, without a token; the whole answer.
#[track_caller]
fn get(primary: &Primary, path: &str) -> String {
    let reply = Hrana::to(primary.url()).ask("GET", path, b"");
    format!("{} {}", reply.status, reply.body)
}

#[test]
fn a_primary_tells_who_follows_and_how_far_behind() {
    let files = Files::new();
    let mut primary = files.primary();
    let mut ahead = follower(&primary, 0xab);
    let behind = follower(&primary, 0xcd);
    primary.sql("UPDATE note SET text = 'one' WHERE id = 7");
    std::thread::sleep(Duration::from_millis(300));
    primary.sql("UPDATE note SET text = 'two' WHERE id = 7");
    while ahead.pull(Duration::ZERO) == News::Something {}
    ahead.ask(LONG);
    std::thread::sleep(Duration::from_millis(200));
    let rows = primary.sql(
        "SELECT schema, peer, address, lag_transactions, waiting, token IS NULL, bytes_received > 60,
           bytes_sent > 1000, abs(last_seen - unixepoch()) < 60, position IS NOT NULL FROM replica_peers",
    );
    // The other one has not said what it took.
    assert_eq!(
        rows,
        "main|00000000000000ab|127.0.0.1|0|1|1|1|1|1|1\nmain|00000000000000cd|127.0.0.1||0|1|0|1|1|0"
    );
    let mut behind = behind;
    behind.pull(Duration::ZERO);
    let lag = primary.sql(
        "SELECT lag_transactions, lag_seconds BETWEEN 0.4 AND 60 FROM replica_peers WHERE peer = '00000000000000cd'",
    );
    assert_eq!(lag, "2|1");
    behind.pull(Duration::ZERO);
    let lag = primary.sql("SELECT DISTINCT lag_transactions, lag_seconds FROM replica_peers");
    assert_eq!(lag, "0|0.0");
    let figures = get(&primary, "metrics");
    println!("{figures}");
    for sample in [
        "replica_followers{database=\"app\"} 2",
        "replica_followers_waiting{database=\"app\"} 1",
        "replica_captured_transactions_total{database=\"app\"} 2",
        "replica_connections 3",
    ] {
        assert!(figures.lines().any(|line| line == sample), "{sample}");
    }
    drop(ahead);
    wait_for("the one that left", || {
        primary.sql("SELECT sum(waiting) FROM replica_peers") == "0"
    });
}

#[test]
fn a_token_that_is_withdrawn_during_a_wait_brings_nothing_new() {
    let files = Files::new();
    let mut primary = files.primary();
    let token =
        |primary: &mut Primary| json(&primary.sql("SELECT replica_token('read', 600)"), "$.token");
    let (first, second) = (token(&mut primary), token(&mut primary));
    assert!(get(&primary, "metrics").starts_with("401"));
    let mut followers = [first, second].map(|token| {
        let mut follower = Follower::of(primary.url(), 1).with_token(&token);
        assert_eq!(follower.pull(Duration::ZERO), News::Something);
        follower.ask(LONG);
        follower
    });
    std::thread::sleep(Duration::from_millis(100));
    primary.sql("SELECT replica_revoke(1)");
    primary.sql("UPDATE note SET text = 'secret' WHERE id = 7");
    assert_eq!(followers[0].answer(), News::Refused(401));
    assert_eq!(followers[1].answer(), News::Something);
}
