//! A primary: a stock shell that serves its database and stays open for more SQL.

use std::path::{Path, PathBuf};

use crate::shell::Shell;
use crate::{json, uri};

/// A serving shell.
pub struct Primary {
    shell: Shell,
    path: PathBuf,
    url: String,
}

impl Primary {
    /// Serves `path` on a port chosen by the kernel.
    #[track_caller]
    pub fn start(path: &Path) -> Primary {
        Primary::start_at(path, "127.0.0.1:0")
    }

    /// Serves `path` on `address`.
    #[track_caller]
    pub fn start_at(path: &Path, address: &str) -> Primary {
        let mut shell = Shell::with_extension();
        shell.open(&uri(path, ""));
        let answer = shell.sql(&format!("SELECT replica_serve('{address}')"));
        let url = json(&answer, "$.url");
        let stem = path
            .file_stem()
            .expect("file name")
            .to_str()
            .expect("UTF-8");
        assert!(
            url.starts_with("http://127.0.0.1:") && url.ends_with(&format!("/{stem}")),
            "replica_serve answered {answer}"
        );
        Primary {
            shell,
            path: path.to_path_buf(),
            url,
        }
    }

    /// What a replica names in `sync_url`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `host:port` of the server.
    pub fn address(&self) -> &str {
        let rest = self.url.strip_prefix("http://").expect("http");
        rest.split('/').next().expect("address")
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs SQL on the primary's own connection.
    #[track_caller]
    pub fn sql(&mut self, sql: &str) -> String {
        self.shell.sql(sql)
    }

    /// The shell that serves.
    pub fn shell(&mut self) -> &mut Shell {
        &mut self.shell
    }

    /// `kill -9`.
    pub fn kill(self) -> Vec<String> {
        self.shell.kill()
    }

    /// Ends the shell cleanly.
    #[track_caller]
    pub fn close(self) {
        let status = self.shell.close();
        // Not `success`: the shell's status counts its errors, and the harness's error mark is one.
        assert!(
            status.code().is_some(),
            "the primary's shell ended with {status}"
        );
    }
}
