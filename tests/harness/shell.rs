//! Debian's `sqlite3` shell as a child process, one statement list at a time.

use std::path::Path;
use std::process::{Command, ExitStatus};

use crate::encryption::{self, End};
use crate::process::Process;
use crate::{library, uri};

/// The stock shell under test.
pub const SQLITE3: &str = "/usr/bin/sqlite3";

/// A session of the stock shell.
pub struct Shell {
    process: Process,
    asked: u64,
}

impl Shell {
    /// A shell without the extension, on a database file or a `file:` URI. (Where the file is to be encrypted, one with
    /// the extension: another connection that knows nothing of replication.)
    pub fn plain(database: impl AsRef<Path>) -> Shell {
        let name = database.as_ref().to_str().expect("UTF-8 path");
        let is_path = !name.starts_with("file:") && !name.starts_with(':');
        if is_path && encryption::key(database.as_ref(), End::Primary).is_some() {
            let mut shell = Shell::with_extension();
            shell.sql(&format!(".open \"{}\"", uri(database.as_ref(), "")));
            return shell;
        }
        let mut shell = Shell::spawn("plain shell", &[]);
        shell.sql(&format!(".open \"{name}\""));
        shell
    }

    /// A shell with the extension loaded and no database open yet.
    pub fn with_extension() -> Shell {
        Shell::in_environment(&[])
    }

    /// The same, with environment variables of its own.
    pub fn in_environment(variables: &[(&str, &str)]) -> Shell {
        let mut shell = Shell::spawn("shell", variables);
        // The shell adds `.so` by itself; the file name is given as the README gives it.
        let library = library();
        let name = library.with_extension("");
        shell.sql(&format!(".load \"{}\"", name.display()));
        shell
    }

    /// A shell with the extension, opened on `file:PATH?vfs=replica` plus `parameters` (`"sync_url=…"` or nothing).
    pub fn replica(path: &Path, parameters: &str) -> Shell {
        let mut shell = Shell::with_extension();
        shell.open(&uri(path, parameters));
        shell
    }

    fn spawn(name: &str, variables: &[(&str, &str)]) -> Shell {
        let mut command = Command::new(SQLITE3);
        command.envs(variables.iter().copied());
        // An own start-up file of the user must not change what the tests see.
        command.args(["-batch", "-noheader", "-init", "/dev/null"]);
        Shell {
            process: Process::spawn(name, &mut command),
            asked: 0,
        }
    }

    /// `.open` of a URI; SQLite reports most failures only at the first statement.
    pub fn open(&mut self, uri: &str) {
        self.sql(&format!(".open \"{uri}\""));
        self.sql(".timeout 20000");
    }

    /// Runs SQL or a dot command; what it printed, or what it printed on standard error.
    pub fn try_sql(&mut self, sql: &str) -> Result<String, String> {
        self.asked += 1;
        let asked = self.asked;
        let mark = format!("=end-{asked}=");
        // An unknown command is the shell's only way to put a chosen word on standard error.
        let error_mark = format!("end-{asked}-errors");
        let text = format!("{}\n.print {mark}\n.{error_mark}\n", complete(sql));
        self.process.write(&text);
        let mut output = self.process.read_until(sql, |line| line == mark);
        output.pop();
        let mut errors = self
            .process
            .read_errors_until(sql, |line| line.contains(&error_mark));
        errors.pop();
        if errors.is_empty() {
            Ok(output.join("\n"))
        } else {
            Err(errors.join("\n"))
        }
    }

    /// Runs SQL that must succeed.
    #[track_caller]
    pub fn sql(&mut self, sql: &str) -> String {
        match self.try_sql(sql) {
            Ok(output) => output,
            Err(error) => {
                let shown: String = sql.chars().take(500).collect();
                let reason = self
                    .try_sql("SELECT replica_last_error()")
                    .unwrap_or_default();
                panic!(
                    "{}: {shown}\n{error}\nreplica_last_error: {reason}",
                    self.process.name()
                );
            }
        }
    }

    /// Runs SQL that must fail; the error text.
    #[track_caller]
    pub fn refused(&mut self, sql: &str) -> String {
        match self.try_sql(sql) {
            Ok(output) => panic!("{sql} must be refused, but answered: {output}"),
            Err(error) => error,
        }
    }

    /// Sends statements without waiting for them; false when the shell is gone.
    pub fn feed(&mut self, sql: &str) -> bool {
        self.process.write(&format!("{}\n", complete(sql)))
    }

    /// What fed statements have printed so far.
    pub fn fed_output(&mut self) -> Vec<String> {
        self.process.pending_output()
    }

    /// What fed statements have printed on standard error so far.
    pub fn fed_errors(&mut self) -> Vec<String> {
        self.process.pending_errors()
    }

    /// Waits until everything fed so far is done.
    #[track_caller]
    pub fn settle(&mut self) -> String {
        self.sql(".print settled")
    }

    /// The state of the file, as `lsn-id`.
    #[track_caller]
    pub fn position(&mut self) -> String {
        self.sql("SELECT replica_position()")
    }

    /// `SELECT replica_sync()`, which must succeed; its JSON.
    #[track_caller]
    pub fn sync(&mut self) -> String {
        self.sql("SELECT replica_sync()")
    }

    /// The shell's hash over all content and the schema.
    #[track_caller]
    pub fn sha3sum(&mut self) -> String {
        let sum = self.sql(".sha3sum --schema");
        assert_eq!(
            sum.len(),
            56,
            "the shell's .sha3sum answered something else: {sum}"
        );
        sum
    }

    /// `kill -9`, then what it had printed before.
    pub fn kill(mut self) -> Vec<String> {
        self.process.kill();
        self.process.remaining_output()
    }

    /// Ends the shell by closing its input, as a user's Ctrl-D does.
    pub fn close(mut self) -> ExitStatus {
        self.process.close_input();
        self.process.wait()
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Adds the semicolon that a statement needs before the marks; dot commands take none.
fn complete(sql: &str) -> String {
    let sql = sql.trim_end();
    let last = sql.lines().last().unwrap_or_default();
    if last.starts_with('.') || sql.ends_with(';') {
        sql.to_string()
    } else {
        format!("{sql};")
    }
}
