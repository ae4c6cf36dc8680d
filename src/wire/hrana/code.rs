//! SQLite's names of its result codes.

use std::os::raw::c_int;

use libsqlite3_sys as sqlite;

macro_rules! names {
    ($($code:ident)*) => {
        const NAMES: &[(c_int, &str)] = &[$((sqlite::$code, stringify!($code))),*];
    };
}

names! {
    SQLITE_ERROR SQLITE_INTERNAL SQLITE_PERM SQLITE_ABORT SQLITE_BUSY SQLITE_LOCKED SQLITE_NOMEM
    SQLITE_READONLY SQLITE_INTERRUPT SQLITE_IOERR SQLITE_CORRUPT SQLITE_NOTFOUND SQLITE_FULL
    SQLITE_CANTOPEN SQLITE_PROTOCOL SQLITE_EMPTY SQLITE_SCHEMA SQLITE_TOOBIG SQLITE_CONSTRAINT
    SQLITE_MISMATCH SQLITE_MISUSE SQLITE_NOLFS SQLITE_AUTH SQLITE_FORMAT SQLITE_RANGE SQLITE_NOTADB
}

/// The name of the primary code of a result code.
pub fn name(code: c_int) -> &'static str {
    let known = NAMES.iter().find(|(known, _)| *known == code & 0xff);
    known.map_or("SQLITE_UNKNOWN", |(_, name)| name)
}

/// The primary code of a name.
pub fn code(name: &str) -> Option<c_int> {
    let known = NAMES.iter().find(|(_, known)| *known == name);
    known.map(|(code, _)| *code)
}
