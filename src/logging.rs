//! Where `log` records of the extension go: to SQLite's error log, whose callback the host may have set,
//! or where the environment says.
//!
//! ```text
//! REPLICA_LOG=level             to SQLite's error log
//! REPLICA_LOG=level:stderr
//! REPLICA_LOG=level:path        appended to a file
//! ```
//!
//! The level is `off`, `error`, `warn`, `info`, `debug` or `trace`; without the variable it is `warn`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

use crate::error::{Error, Result};

/// Hands a record to SQLite's error log.
pub type ToSqlite = fn(log::Level, &str);

/// Where lines go.
enum Destination {
    Sqlite(ToSqlite),
    Stderr,
    File(File),
}

/// The logger of the process.
struct Logger {
    level: LevelFilter,
    destination: Destination,
}

/// Sets the logger of this process up, once. Where another one is set already, it serves us too.
/// An environment that says nothing sensible is an error, and counts as empty.
pub fn start(sqlite: ToSqlite) -> Result<()> {
    let wish = std::env::var("REPLICA_LOG").unwrap_or_default();
    let (logger, result) = match Logger::parse(&wish, sqlite) {
        Ok(logger) => (logger, Ok(())),
        Err(error) => (Logger::usual(sqlite), Err(error)),
    };
    let level = logger.level;
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
    result
}

impl Logger {
    fn usual(sqlite: ToSqlite) -> Self {
        Self {
            level: LevelFilter::Warn,
            destination: Destination::Sqlite(sqlite),
        }
    }

    fn parse(wish: &str, sqlite: ToSqlite) -> Result<Self> {
        if wish.is_empty() {
            return Ok(Self::usual(sqlite));
        }
        let (level, destination) = wish.split_once(':').unwrap_or((wish, ""));
        let level = LevelFilter::from_str(level).map_err(|_| {
            Error::Misuse(format!(
                "REPLICA_LOG={wish}: it takes a level (off, error, warn, info, debug, trace), and after a \
                 colon stderr or a file"
            ))
        })?;
        let destination = match destination {
            "" => Destination::Sqlite(sqlite),
            "stderr" => Destination::Stderr,
            path => Destination::File(open(Path::new(path))?),
        };
        Ok(Self { level, destination })
    }
}

fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|source| Error::File {
        action: "open the log",
        path: path.display().to_string(),
        source,
    })
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "replica" && metadata.level() <= self.level
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // A log that cannot be written has nobody to tell.
        let _ = match &self.destination {
            Destination::Sqlite(sqlite) => {
                sqlite(record.level(), &format!("replica: {}", record.args()));
                Ok(())
            }
            Destination::Stderr => io::stderr().lock().write_all(line(record).as_bytes()),
            // One write each: several processes may share the file.
            Destination::File(file) => (&mut &*file).write_all(line(record).as_bytes()),
        };
    }

    fn flush(&self) {}
}

/// A record as one line: the time (UTC), the process, the level, the sentence.
fn line(record: &Record<'_>) -> String {
    let time = humantime::format_rfc3339_millis(SystemTime::now());
    let text = record.args().to_string().replace(['\n', '\r'], " ");
    format!("{time} {} {} {text}\n", std::process::id(), record.level())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(wish: &str) -> Result<Logger> {
        Logger::parse(wish, |_, _| {})
    }

    #[test]
    fn the_environment_says_how_much_and_where() {
        let path = std::env::temp_dir().join(format!("replica-log-{}", std::process::id()));
        let to_file = format!("debug:{}", path.display());
        for (wish, level) in [
            ("", LevelFilter::Warn),
            ("info", LevelFilter::Info),
            ("off", LevelFilter::Off),
            ("trace:stderr", LevelFilter::Trace),
            (&to_file, LevelFilter::Debug),
        ] {
            assert_eq!(parse(wish).unwrap().level, level, "{wish}");
        }
        let logger = parse(&to_file).unwrap();
        for (target, level) in [
            ("replica", log::Level::Info),
            ("replica", log::Level::Trace),
            ("other", log::Level::Error),
        ] {
            let arguments = format_args!("two\nlines");
            let record = Record::builder()
                .target(target)
                .level(level)
                .args(arguments)
                .build();
            logger.log(&record);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.ends_with(" INFO two lines\n"), "{text}");
        for wrong in ["loud", "stderr", ":stderr", "info:/nowhere/at/all"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
