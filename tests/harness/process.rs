//! A child process in its own process group, with its output read by threads and a time limit on every wait.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a child may take for one answer before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running child; killed with its whole group when dropped.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Process {
    /// Starts `command` with all three streams piped.
    pub fn spawn(name: &str, command: &mut Command) -> Process {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: cannot start {command:?}: {error}"));
        let stdout = lines(child.stdout.take().expect("piped"));
        let stderr = lines(child.stderr.take().expect("piped"));
        Process {
            name: name.to_string(),
            stdin: child.stdin.take(),
            child,
            stdout,
            stderr,
        }
    }

    /// The name used in failure messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes to the child's standard input; false when the child is gone.
    pub fn write(&mut self, text: &str) -> bool {
        let Some(stdin) = self.stdin.as_mut() else {
            return false;
        };
        stdin
            .write_all(text.as_bytes())
            .and_then(|()| stdin.flush())
            .is_ok()
    }

    /// Lines of standard output up to the first for which `last` holds; that one is included.
    pub fn read_until(&mut self, doing: &str, last: impl Fn(&str) -> bool) -> Vec<String> {
        self.read(false, doing, last)
    }

    /// The same for standard error.
    pub fn read_errors_until(&mut self, doing: &str, last: impl Fn(&str) -> bool) -> Vec<String> {
        self.read(true, doing, last)
    }

    fn read(&mut self, errors: bool, doing: &str, last: impl Fn(&str) -> bool) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let receiver = if errors { &self.stderr } else { &self.stdout };
            match receiver.recv_timeout(left) {
                Ok(line) => {
                    let done = last(&line);
                    seen.push(line);
                    if done {
                        return seen;
                    }
                }
                Err(reason) => {
                    let what = match reason {
                        RecvTimeoutError::Timeout => format!("no answer in {PATIENCE:?}"),
                        RecvTimeoutError::Disconnected => "ended".to_string(),
                    };
                    if reason == RecvTimeoutError::Disconnected {
                        // Its streams close a moment before its status is there, and the status tells a crash.
                        std::thread::sleep(Duration::from_millis(500));
                    }
                    let status = self.child.try_wait();
                    let rest: Vec<String> = self.stderr.try_iter().collect();
                    let doing: String = doing.chars().take(300).collect();
                    panic!(
                        "{} (pid {}) {what} while doing: {doing}\nstatus: {status:?}\nread so far: {seen:?}\nstandard error: {rest:?}",
                        self.name,
                        self.pid()
                    );
                }
            }
        }
    }

    /// The child's process id, which is also its group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the child has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal to the child.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes plain integers; the child is ours and not yet waited for, so its id is not reused.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// `kill -9` of the child and its group; returns when it is gone.
    pub fn kill(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // SAFETY: as above; the group was made for this child.
            unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        }
        let _ = self.child.wait();
    }

    /// Closes the child's standard input.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Waits for the child to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} (pid {}) does not end; standard error: {:?}",
                self.name,
                self.pid(),
                self.stderr.try_iter().collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What has arrived on standard output and is not read yet, without waiting.
    pub fn pending_output(&mut self) -> Vec<String> {
        self.stdout.try_iter().collect()
    }

    /// What has arrived on standard error and is not read yet, without waiting.
    pub fn pending_errors(&mut self) -> Vec<String> {
        self.stderr.try_iter().collect()
    }

    /// All output of a child that has ended.
    pub fn remaining_output(&mut self) -> Vec<String> {
        self.stdout.iter().collect()
    }

    /// All errors of a child that has ended.
    pub fn remaining_errors(&mut self) -> Vec<String> {
        self.stderr.iter().collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A thread that turns a stream into lines: a child must never block on a full pipe.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches('\n')
                .to_string();
            if sender.send(text).is_err() {
                break;
            }
            line.clear();
        }
    });
    receiver
}

/// Polls `condition` until it holds; fails the test with `what` when it does not within `PATIENCE`.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}
