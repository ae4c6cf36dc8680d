//! What the file system says of a file: as long as that stands, nobody has written to it.
//!
//! It is stored as 48 bytes, big-endian:
//!
//! ```text
//!  0  device, inode, size in bytes: 8 bytes each
//! 24  time of the last change of the content: seconds (8), nanoseconds (4)
//! 36  time of the last change of the inode: seconds (8), nanoseconds (4)
//! ```

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Bytes of a stored fingerprint.
pub const FINGERPRINT_BYTES: usize = 48;

/// What the file system says of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint(pub [u8; FINGERPRINT_BYTES]);

impl Fingerprint {
    /// The fingerprint of a file.
    pub fn of(file: &Metadata) -> Self {
        let mut bytes = [0; FINGERPRINT_BYTES];
        let numbers = [file.dev(), file.ino(), file.size()];
        for (number, place) in numbers.iter().zip(bytes.chunks_exact_mut(8)) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        let times = [
            (file.mtime(), file.mtime_nsec()),
            (file.ctime(), file.ctime_nsec()),
        ];
        for ((seconds, nanoseconds), place) in times.iter().zip(bytes[24..].chunks_exact_mut(12)) {
            let nanoseconds = u32::try_from(*nanoseconds).unwrap_or(0);
            place[..8].copy_from_slice(&seconds.to_be_bytes());
            place[8..].copy_from_slice(&nanoseconds.to_be_bytes());
        }
        Self(bytes)
    }
}
