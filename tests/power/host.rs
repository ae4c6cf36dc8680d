//! A process that runs SQL: one statement or dot command a time, each with a time-out.
use crate::storage::Storage;
use crate::trace::Recorder;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Host {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
    count: u32,
}

impl Host {
    /// A stock shell.
    pub fn shell(recorder: Option<&Recorder>) -> Host {
        let mut command = Command::new("/usr/bin/sqlite3");
        command.args(["-batch", "-noheader", "-init", "/dev/null"]);
        Host::start(command, recorder)
    }

    /// A stock shell with the extension.
    pub fn extended(recorder: Option<&Recorder>) -> Result<Host, String> {
        let mut host = Host::shell(recorder);
        host.run(&format!(".load '{}'", harness::library().display()))?;
        Ok(host)
    }

    /// A Python that understands the same lines, on a database of its own.
    pub fn python(database: &Path, recorder: Option<&Recorder>) -> Host {
        let mut command = Command::new("/usr/bin/python3");
        command
            .arg("-u")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("power/host.py"))
            .arg(database);
        Host::start(command, recorder)
    }

    fn start(mut command: Command, recorder: Option<&Recorder>) -> Host {
        if let Some(recorder) = recorder {
            recorder.watch(&mut command);
        }
        // One pipe for both, so that an error is among the lines of its statement.
        let (reader, writer) = std::io::pipe().unwrap();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .unwrap();
        // The command still holds the writing end, and the end of the output must be seen.
        drop(command);
        let (sender, output) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Host {
            input: child.stdin.take(),
            child,
            output,
            count: 0,
        }
    }

    /// Runs one line; its output, or the sentence of its failure.
    pub fn run(&mut self, line: &str) -> Result<Vec<String>, String> {
        self.count += 1;
        let end = format!("=end-{}=", self.count);
        let text = format!(
            "{line}{}\n.print {end}\n",
            if line.starts_with('.') { "" } else { ";" }
        );
        let input = self.input.as_mut().expect("open");
        input
            .write_all(text.as_bytes())
            .map_err(|e| format!("{line}: the host is gone: {e}"))?;
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        loop {
            match self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(l) if l == end => break,
                Ok(l) => lines.push(l),
                Err(RecvTimeoutError::Timeout) => return Err(format!("{line}: no answer in time")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("{line}: the host died: {}", lines.join(" ")));
                }
            }
        }
        let failed = [
            "Error",
            "Runtime error",
            "Parse error",
            "Traceback",
            "unknown command",
        ];
        match lines
            .iter()
            .find(|l| failed.iter().any(|f| l.starts_with(f)))
        {
            Some(_) => Err(format!("{line}: {}", lines.join(" "))),
            None => Ok(lines),
        }
    }

    /// The one value that a line gives.
    pub fn value(&mut self, line: &str) -> Result<String, String> {
        let lines = self.run(line)?;
        if lines.len() == 1 {
            Ok(lines.into_iter().next().unwrap())
        } else {
            Err(format!("{line}: {lines:?}"))
        }
    }

    /// Opens a file on our VFS. The open itself is lazy, so a page is read.
    pub fn open(
        &mut self,
        file: &Path,
        storage: Storage,
        sync_url: Option<&str>,
    ) -> Result<(), String> {
        let remote = sync_url
            .map(|u| format!("&sync_url={u}"))
            .unwrap_or_default();
        self.run(&format!(
            ".open 'file:{}?vfs=replica{}{remote}'",
            file.display(),
            storage.parameter()
        ))?;
        self.run(".timeout 20000")?;
        self.explained("SELECT count(*) FROM sqlite_schema")
            .map(|_| ())
    }

    /// Pulls; the report.
    pub fn sync(&mut self) -> Result<String, String> {
        self.explained("SELECT replica_sync()")
            .map(|lines| lines.concat())
    }

    /// Like `run`, with the extension's own sentence about a failure.
    fn explained(&mut self, line: &str) -> Result<Vec<String>, String> {
        self.run(line).map_err(|error| {
            let why = self.run("SELECT replica_last_error()");
            format!("{error}: {}", why.unwrap_or_else(|e| vec![e]).join(" "))
        })
    }

    /// Ends the process cleanly: connections are closed.
    pub fn close(mut self) -> Result<(), String> {
        drop(self.input.take());
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return if status.success() {
                    Ok(())
                } else {
                    Err(format!("the host ended with {status}"))
                };
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err("the host does not end".into())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value at a path of a JSON text; empty when there is none.
pub fn json(text: &str, path: &str) -> String {
    let sql = "SELECT CAST(coalesce(json_extract(?1, ?2), '') AS TEXT)";
    let memory = rusqlite::Connection::open_in_memory().unwrap();
    memory
        .query_row(sql, [text, path], |row| row.get(0))
        .unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The number at a path of a JSON text.
pub fn number(text: &str, path: &str) -> Result<u64, String> {
    json(text, path)
        .parse()
        .map_err(|_| format!("{path} is no number in {text}"))
}
