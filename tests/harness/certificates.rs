//! Certificates for servers that speak TLS.

use std::path::PathBuf;
use std::process::Command;

use crate::directory;

/// Certificates made by openssl: an authority, and a server's of 127.0.0.1.
pub struct Certificates {
    directory: tempfile::TempDir,
}

impl Default for Certificates {
    fn default() -> Certificates {
        Certificates::new()
    }
}

impl Certificates {
    /// Makes them: `ca.pem`, `other.pem` (of another authority), `server.pem`, `server.key`.
    pub fn new() -> Certificates {
        let directory = directory();
        let run = |arguments: &str| {
            let mut command = Command::new("openssl");
            command
                .current_dir(directory.path())
                .args(arguments.split(' '));
            let output = command.output().expect("openssl");
            assert!(output.status.success(), "openssl {arguments}: {output:?}");
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        for authority in ["ca", "other"] {
            run(&format!(
                "req -x509 {key} -keyout {authority}.key -out {authority}.pem -days 2 -subj /CN={authority}"
            ));
        }
        std::fs::write(
            directory.path().join("names"),
            "subjectAltName = IP:127.0.0.1, DNS:localhost\nbasicConstraints = CA:FALSE\n",
        )
        .expect("write");
        run(&format!(
            "req {key} -keyout server.key -out server.csr -subj /CN=server"
        ));
        run(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
        );
        Certificates { directory }
    }

    /// Where one is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// Options of `replica_serve`.
    pub fn options(&self, certificate: &str, key: &str) -> String {
        let (certificate, key) = (self.text(certificate), self.text(key));
        format!("{{\"certificate\": \"{certificate}\", \"key\": \"{key}\"}}")
    }
}
