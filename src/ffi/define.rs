//! Defining SQL functions on a connection. This happens on every connection of the process, so it costs
//! next to nothing: what a function needs is shared by all of them.

use std::ffi::{CStr, c_int};

use libsqlite3_sys as sqlite;
use sqlite_loadable::ext::{sqlite3, sqlite3_context, sqlite3_value};

use super::guard;
use crate::error::{Error, Result};

/// What SQLite calls.
pub trait Callable: Sync {
    /// One call: the result, or an error, is set on the context.
    fn call(&self, context: *mut sqlite3_context, arguments: &[*mut sqlite3_value]);
}

/// Defines a function of `count` arguments (-1: any number) that SQL of a schema (views, triggers)
/// may not call.
pub fn define<T: Callable>(
    db: *mut sqlite3,
    name: &CStr,
    count: c_int,
    function: &'static T,
) -> Result<()> {
    // SAFETY: the connection is open, SQLite copies the name, and `function` is never freed.
    let code = unsafe {
        sqlite::sqlite3_create_function_v2(
            db.cast(),
            name.as_ptr(),
            count,
            sqlite::SQLITE_UTF8 | sqlite::SQLITE_DIRECTONLY,
            (&raw const *function).cast_mut().cast(),
            Some(callback::<T>),
            None,
            None,
            None,
        )
    };
    match code {
        sqlite::SQLITE_OK => Ok(()),
        code => Err(Error::Io {
            action: "define",
            path: format!("the function {}", name.to_string_lossy()),
            code,
        }),
    }
}

unsafe extern "C" fn callback<T: Callable>(
    context: *mut sqlite::sqlite3_context,
    count: c_int,
    arguments: *mut *mut sqlite::sqlite3_value,
) {
    guard((), || {
        let arguments: &[*mut sqlite3_value] = match usize::try_from(count) {
            Ok(count @ 1..) => {
                // SAFETY: SQLite passes as many arguments.
                unsafe { std::slice::from_raw_parts(arguments.cast(), count) }
            }
            _ => &[],
        };
        // SAFETY: define() has left a reference that is valid for ever.
        let function = unsafe { &*sqlite::sqlite3_user_data(context).cast::<T>() };
        function.call(context.cast(), arguments);
    });
}
