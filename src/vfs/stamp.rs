//! Fingerprints of files, by their names: to close a descriptor of a database would give away all
//! locks that this process has on it.
//!
//! A file's times tell that nobody has written to it only where a later write is sure to change
//! them. The clock of a file system moves in steps of some milliseconds, and a write within the
//! same step as the last one leaves no trace. So the time of the last change is put back a little
//! first, to a moment that no later write can be given.

use std::ffi::{CStr, CString};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::database::fingerprint::Fingerprint;
use crate::error::{Error, Result};

/// How far the time of the last change is put back: more than one step of any clock that file
/// systems go by (100 Hz).
const BACK: Duration = Duration::from_millis(20);

/// The fingerprint of the file at `path`.
pub fn fingerprint(path: &Path) -> Result<Fingerprint> {
    metadata(path).map(|file| Fingerprint::of(&file))
}

/// The fingerprint of the file at `path` that any later write will change; nobody may be writing to
/// it meanwhile. `None` where the file system cannot promise that.
pub fn stamp(path: &Path) -> Result<Option<Fingerprint>> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let time = since.unwrap_or_default().saturating_sub(BACK);
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else {
        return Ok(None);
    };
    match set_modified(&name, time) {
        Ok(()) => {}
        // The file is somebody else's.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(None),
        Err(source) => return Err(failed("set the time of", path, source)),
    }
    let file = metadata(path)?;
    // Coarser times are rounded.
    let is_exact = matches!(file.modified(), Ok(modified) if modified == UNIX_EPOCH + time);
    Ok(is_exact.then(|| Fingerprint::of(&file)))
}

/// Sets the time of the last change, since 1970.
fn set_modified(name: &CStr, time: Duration) -> io::Result<()> {
    let mut times = [libc::timespec {
        tv_sec: 0,
        tv_nsec: libc::UTIME_OMIT,
    }; 2];
    times[1].tv_sec = libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX);
    times[1].tv_nsec = time.subsec_nanos().into();
    // SAFETY: the name ends with NUL, and there are two times; both outlive the call.
    match unsafe { libc::utimensat(libc::AT_FDCWD, name.as_ptr(), times.as_ptr(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn metadata(path: &Path) -> Result<Metadata> {
    fs::metadata(path).map_err(|source| failed("look at", path, source))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        action,
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    #[test]
    fn every_write_changes_it() {
        let path = std::env::temp_dir().join(format!("fingerprint-{}", std::process::id()));
        fs::write(&path, [0; 100]).unwrap();
        let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        for round in 0..200 {
            let stamped = stamp(&path).unwrap();
            // In the same step of the clock, mostly.
            assert!(stamped.is_some(), "{round}");
            assert_eq!(stamped, Some(fingerprint(&path).unwrap()), "{round}");
            file.seek(SeekFrom::Start(round % 100)).unwrap();
            file.write_all(&[1]).unwrap();
            assert_ne!(stamped, Some(fingerprint(&path).unwrap()), "{round}");
        }
        let copy = path.with_extension("copy");
        fs::copy(&path, &copy).unwrap();
        let stamped = stamp(&path).unwrap();
        fs::rename(&copy, &path).unwrap();
        assert_ne!(stamped, Some(fingerprint(&path).unwrap()));
        fs::remove_file(&path).unwrap();
    }
}
