//! A process that uses one database and may be killed at any moment: every call says what SQLite answered, or that the
//! process is gone.

use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};

use crate::host::{Failure, PYTHON, bundled_host, decode, installed, script};
use crate::process::PATIENCE;
use crate::shell::SQLITE3;
use crate::{hex, library, uri};

/// What the process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Debian's shell. It tells primary result codes only.
    Shell,
    /// Debian's Python.
    Python,
    /// better-sqlite3, which opens no URIs.
    Node,
    /// The bundled current SQLite.
    Bundled,
    /// Debian's Python without the extension.
    PlainPython,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Trouble {
    /// The process was killed.
    Gone,
    /// SQLite says no.
    Refused(Failure),
}

impl Trouble {
    /// Whether SQLite said "busy", with whatever extension.
    pub fn is_busy(&self) -> bool {
        matches!(self, Trouble::Refused(failure) if failure.code & 0xff == 5)
    }
}

/// What SQLite answered.
pub type Answer = Result<String, Trouble>;

/// The process. Killed when dropped.
pub struct Client {
    kind: Kind,
    child: Victim,
    stdin: ChildStdin,
    lines: Receiver<String>,
    asked: u64,
}

/// What can be killed from another thread.
#[derive(Clone)]
pub struct Victim(Arc<Mutex<Child>>);

impl Victim {
    /// `kill -9`; whether it was still running.
    pub fn kill(&self) -> bool {
        let mut child = self.0.lock().expect("not poisoned");
        let running = matches!(child.try_wait(), Ok(None));
        let _ = child.kill();
        let _ = child.wait();
        running
    }
}

impl Client {
    /// A process, the extension loaded, without a database.
    pub fn start(kind: Kind) -> Client {
        let mut client = Client::bare(kind);
        client.load();
        client
    }

    /// The bundled SQLite whose files and memory can be made to fail, the extension loaded.
    pub fn faulty() -> Client {
        let mut client = Client::bare(Kind::Bundled);
        client.command("faulty", &[]);
        client.load();
        client
    }

    /// A command of the hosts' protocol that must succeed.
    #[track_caller]
    pub fn command(&mut self, name: &str, arguments: &[&str]) -> String {
        self.ask(name, arguments)
            .unwrap_or_else(|trouble| panic!("{name} {arguments:?}: {trouble:?}"))
    }

    fn bare(kind: Kind) -> Client {
        let mut command = match kind {
            Kind::Shell => {
                let mut command = Command::new(SQLITE3);
                command.args(["-batch", "-noheader", "-init", "/dev/null"]);
                command
            }
            Kind::Python | Kind::PlainPython => {
                let mut command = Command::new(PYTHON);
                command.arg(script("host.py"));
                command
            }
            Kind::Node => {
                let mut command = Command::new("node");
                command.arg(script("host.js")).arg(installed("node"));
                command
            }
            Kind::Bundled => Command::new(bundled_host()),
        };
        // SAFETY: the child only asks to be told of a full disk by a code, before it becomes another program.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                Ok(())
            })
        };
        // One pipe for both: what a statement printed and what went wrong with it lie before its mark.
        let (reader, writer) = std::io::pipe().expect("pipe");
        command
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().expect("pipe"))
            .stderr(writer);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        drop(command);
        Client {
            kind,
            stdin: child.stdin.take().expect("piped"),
            child: Victim(Arc::new(Mutex::new(child))),
            lines: lines(reader),
            asked: 0,
        }
    }

    fn load(&mut self) {
        let kind = self.kind;
        let library = library();
        let loaded = match kind {
            Kind::PlainPython => Ok(String::new()),
            Kind::Shell => self.sql(&format!(
                ".load \"{}\"",
                library.with_extension("").display()
            )),
            _ => self.ask("load", &[library.to_str().expect("UTF-8")]),
        };
        loaded.unwrap_or_else(|trouble| panic!("{kind:?}: .load: {trouble:?}"));
    }

    /// Opens `path`, through the replica VFS where there is one. What is wrong with it may show only later.
    pub fn open(&mut self, path: &Path, parameters: &str) -> Result<(), Trouble> {
        let name = uri(path, parameters);
        match self.kind {
            Kind::Shell => self.sql(&format!(".open \"{name}\"")),
            Kind::PlainPython => self.ask("open", &["main", path.to_str().expect("UTF-8")]),
            Kind::Node => {
                self.configure(path, &name)?;
                self.ask("open", &["main", path.to_str().expect("UTF-8")])
            }
            _ => self.ask("open", &["main", &name]),
        }
        .map(drop)
    }

    /// Attaches `path` as schema `name`, through the replica VFS.
    pub fn attach(&mut self, name: &str, path: &Path, parameters: &str) -> Result<(), Trouble> {
        let mut file = uri(path, parameters);
        if self.kind == Kind::Node {
            self.configure(path, &file)?;
            file = path.to_str().expect("UTF-8").to_string();
        }
        self.sql(&format!("ATTACH '{file}' AS {name}")).map(drop)
    }

    /// What the URI says, where there are no URIs.
    fn configure(&mut self, path: &Path, uri: &str) -> Result<(), Trouble> {
        self.ask("sql", &["memory", "SELECT replica_default_vfs(1)"])?;
        let (_, parameters) = uri.split_once("?vfs=replica").expect("a URI");
        let settings: serde_json::Map<_, _> = parameters
            .split('&')
            .filter_map(|parameter| parameter.split_once('='))
            .map(|(name, value)| (name.to_string(), value.into()))
            .collect();
        if settings.is_empty() {
            return Ok(());
        }
        let path = path.to_str().expect("UTF-8");
        let json = serde_json::Value::Object(settings);
        let sql = format!("SELECT replica_configure('{path}', '{json}')");
        self.ask("sql", &["memory", &sql]).map(drop)
    }

    /// No file of the process may grow beyond `size` bytes from now on: a full disk, for whoever writes more.
    pub fn limit_files(&self, size: Option<u64>) {
        let pid = self.child.0.lock().expect("not poisoned").id();
        let limit = libc::rlimit {
            rlim_cur: size.unwrap_or(libc::RLIM_INFINITY),
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the structure lives across the call, and nothing is written to.
        let code = unsafe {
            let pid = libc::pid_t::try_from(pid).expect("a pid");
            libc::prlimit(
                pid,
                libc::RLIMIT_FSIZE,
                &raw const limit,
                std::ptr::null_mut(),
            )
        };
        assert_eq!(code, 0, "prlimit");
    }

    /// A process that has `path` open.
    #[track_caller]
    pub fn on(kind: Kind, path: &Path, parameters: &str) -> Client {
        let mut client = Client::start(kind);
        client
            .open(path, parameters)
            .unwrap_or_else(|trouble| panic!("{kind:?}: {}: {trouble:?}", path.display()));
        client
    }

    /// Runs one statement; columns joined by `|`, rows by newlines.
    pub fn sql(&mut self, sql: &str) -> Answer {
        if self.kind != Kind::Shell {
            return self.ask("sql", &["main", sql]);
        }
        self.asked += 1;
        let mark = format!("=end-{}=", self.asked);
        let end = match sql.starts_with('.') {
            true => "",
            false => ";",
        };
        self.send(&format!("{sql}{end}\n.print {mark}\n"))?;
        let (mut answer, mut failure) = (Vec::new(), None);
        loop {
            let line = self.next(sql)?;
            if line == mark {
                break;
            }
            if line.contains("rror near line ") || line.starts_with("Error: ") {
                failure = Some(Failure {
                    code: code_at_the_end(&line),
                    message: line,
                });
            } else {
                answer.push(line);
            }
        }
        match failure {
            Some(failure) => Err(Trouble::Refused(failure)),
            None => Ok(answer.join("\n")),
        }
    }

    /// Runs one statement that must succeed.
    #[track_caller]
    pub fn done(&mut self, sql: &str) -> String {
        self.sql(sql).unwrap_or_else(|trouble| {
            let reason = self.sql("SELECT replica_last_error()");
            panic!("{:?}: {sql}: {trouble:?}; {reason:?}", self.kind)
        })
    }

    /// The newest sentence of `replica_last_error()`. Any connection of the process has it; better-sqlite3 runs nothing
    /// at all on one whose database cannot be read.
    #[track_caller]
    pub fn last_error(&mut self) -> String {
        let sql = "SELECT replica_last_error()";
        match self.kind {
            Kind::Node => self.command("sql", &["memory", sql]),
            _ => self.done(sql),
        }
    }

    /// Runs one statement until SQLite no longer says "busy"; any other trouble fails the test. How often it was busy.
    #[track_caller]
    pub fn insist(&mut self, sql: &str) -> u64 {
        let mut busy = 0;
        loop {
            match self.sql(sql) {
                Ok(_) => return busy,
                Err(trouble) if trouble.is_busy() => busy += 1,
                Err(trouble) => {
                    let reason = self.sql("SELECT replica_last_error()");
                    panic!("{:?}: {sql}: {trouble:?}; {reason:?}", self.kind)
                }
            }
        }
    }

    /// What kind of process it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The process, for whoever kills it.
    pub fn victim(&self) -> Victim {
        self.child.clone()
    }

    /// `kill -9`.
    pub fn kill(self) {
        self.child.kill();
    }

    /// Ends the process in good order: its input ends.
    pub fn close(self) {
        let Client {
            child,
            stdin,
            lines,
            kind,
            ..
        } = self;
        drop(stdin);
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("{kind:?} does not end"),
            }
        }
        let _ = child.0.lock().expect("not poisoned").wait();
    }

    fn ask(&mut self, command: &str, arguments: &[&str]) -> Answer {
        let mut line = command.to_string();
        for argument in arguments {
            line.push(' ');
            line += &hex::encode(argument);
        }
        line.push('\n');
        self.send(&line)?;
        let doing = format!("{command} {arguments:?}");
        decode(&self.next(&doing)?).map_err(Trouble::Refused)
    }

    fn send(&mut self, text: &str) -> Result<(), Trouble> {
        let sent = self.stdin.write_all(text.as_bytes());
        sent.and_then(|()| self.stdin.flush())
            .map_err(|_| Trouble::Gone)
    }

    fn next(&mut self, doing: &str) -> Result<String, Trouble> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Disconnected) => Err(Trouble::Gone),
            Err(RecvTimeoutError::Timeout) => {
                let pid = self.child.0.lock().expect("not poisoned").id();
                panic!(
                    "{:?} (pid {pid}): no answer in {PATIENCE:?} to {doing}",
                    self.kind
                )
            }
        }
    }
}

/// The number in brackets that ends a message of the shell; SQLITE_ERROR where there is none.
fn code_at_the_end(line: &str) -> i32 {
    line.strip_suffix(')')
        .and_then(|line| line.rsplit_once('('))
        .and_then(|(_, code)| code.parse().ok())
        .unwrap_or(1)
}

/// A thread that turns output into lines: a process must never block on a full pipe.
fn lines(pipe: PipeReader) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = String::new();
        while matches!(pipe.read_line(&mut line), Ok(read) if read > 0) {
            // A line without an end is what a killed process left of one.
            let Some(whole) = line.strip_suffix('\n') else {
                break;
            };
            if sender.send(whole.to_string()).is_err() {
                break;
            }
            line.clear();
        }
    });
    receiver
}

impl Drop for Victim {
    fn drop(&mut self) {
        // The last one: nothing a test has started outlives it.
        if let Some(child) = Arc::get_mut(&mut self.0) {
            let child = child.get_mut().expect("not poisoned");
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
