//! A file in memory as SQLite has it open: its I/O methods.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use libsqlite3_sys as sqlite;
use sqlite::{sqlite3_file, sqlite3_int64, sqlite3_io_methods};

use super::content::{Failure, NoMemory};
use super::directory::{Inode, Region};
use super::locks::{Held, Level};
use crate::ffi::guard;

/// The memory SQLite gives us for a file: `sqlite3_file` first.
#[repr(C)]
pub struct MemoryFile {
    methods: *const sqlite3_io_methods,
    open: *mut OpenFile,
}

/// An open file.
struct OpenFile {
    inode: Arc<Inode>,
    level: Level,
    held: Held,
    /// Whether it has mapped the shared index.
    maps: bool,
}

/// Fills in the memory of a file SQLite is opening.
///
/// # Safety
/// `file` points to at least `size_of::<MemoryFile>()` writable bytes.
pub unsafe fn install(file: *mut sqlite3_file, inode: Arc<Inode>) {
    let open = Box::into_raw(Box::new(OpenFile {
        inode,
        level: Level::None,
        held: Held::default(),
        maps: false,
    }));
    // SAFETY: the caller's promise.
    unsafe {
        file.cast::<MemoryFile>().write(MemoryFile {
            methods: &METHODS,
            open,
        })
    };
}

/// # Safety
/// `file` is an open file of ours, used by no other thread meanwhile (SQLite's rule).
unsafe fn opened<'a>(file: *mut sqlite3_file) -> &'a mut OpenFile {
    // SAFETY: install() put a valid pointer there and only close() takes it away.
    unsafe { &mut *(*file.cast::<MemoryFile>()).open }
}

impl OpenFile {
    fn set_level(&mut self, wanted: c_int, takes: bool) -> c_int {
        let mut state = self.inode.state.lock();
        let wanted = Level::from_number(wanted);
        self.level = match takes {
            true => state.locks.lock(self.level, wanted),
            false => state.locks.unlock(self.level, wanted),
        };
        match takes && self.level < wanted {
            true => sqlite::SQLITE_BUSY,
            false => sqlite::SQLITE_OK,
        }
    }

    /// The address of a region of the shared index; null where there is none and it is not to be made.
    fn map(&mut self, region: usize, bytes: usize, extends: bool) -> Result<*mut c_void, NoMemory> {
        let mut state = self.inode.state.lock();
        if !self.maps {
            (self.maps, state.mapped) = (true, state.mapped + 1);
        }
        if extends {
            while state.regions.len() <= region {
                let mut words: Vec<u64> = Vec::new();
                let count = bytes.div_ceil(size_of::<u64>());
                words.try_reserve_exact(count).map_err(|_| NoMemory)?;
                words.resize(count, 0);
                state.regions.push(words.into_boxed_slice());
            }
        }
        let region: Option<&mut Region> = state.regions.get_mut(region);
        Ok(region.map_or(std::ptr::null_mut(), |region| region.as_mut_ptr().cast()))
    }

    fn lock_slots(&mut self, mask: u8, flags: c_int) -> c_int {
        let mut state = self.inode.state.lock();
        let shared = flags & sqlite::SQLITE_SHM_SHARED != 0;
        if flags & sqlite::SQLITE_SHM_UNLOCK != 0 {
            let mask = match shared {
                true => Held {
                    shared: mask,
                    exclusive: 0,
                },
                false => Held {
                    shared: 0,
                    exclusive: mask,
                },
            };
            state.slots.give_back(&mut self.held, mask);
            return sqlite::SQLITE_OK;
        }
        let taken = match shared {
            true => state.slots.share(&mut self.held, mask),
            false => state.slots.take(&mut self.held, mask),
        };
        match taken {
            true => sqlite::SQLITE_OK,
            false => sqlite::SQLITE_BUSY,
        }
    }

    /// The shared index goes with the last one who has it mapped.
    fn unmap(&mut self) {
        if !std::mem::take(&mut self.maps) {
            return;
        }
        let mut state = self.inode.state.lock();
        let all = Held {
            shared: u8::MAX,
            exclusive: u8::MAX,
        };
        state.slots.give_back(&mut self.held, all);
        state.mapped -= 1;
        if state.mapped == 0 {
            state.regions.clear();
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.unmap();
        self.inode
            .state
            .lock()
            .locks
            .unlock(self.level, Level::None);
    }
}

fn code_of(result: Result<(), Failure>, failed: c_int) -> c_int {
    match result {
        Ok(()) => sqlite::SQLITE_OK,
        Err(Failure::NoMemory) => sqlite::SQLITE_IOERR_NOMEM,
        Err(Failure::Beneath) => failed,
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    guard(sqlite::SQLITE_IOERR_CLOSE, || {
        let memory = file.cast::<MemoryFile>();
        // SAFETY: SQLite closes a file once; install() made the box.
        drop(unsafe { Box::from_raw((*memory).open) });
        // SAFETY: the memory is SQLite's and stays valid; null methods mean closed.
        unsafe { (*memory).methods = std::ptr::null() };
        sqlite::SQLITE_OK
    })
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: sqlite3_int64,
) -> c_int {
    guard(sqlite::SQLITE_IOERR_READ, || {
        // SAFETY: SQLite's call on an open file of ours.
        let open = unsafe { opened(file) };
        // SAFETY: the buffer has `amount` bytes.
        let buffer =
            unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), amount as usize) };
        let read = open.inode.state.lock().content.read(buffer, offset as u64);
        match read {
            Ok(there) if there < buffer.len() => sqlite::SQLITE_IOERR_SHORT_READ,
            read => code_of(read.map(drop), sqlite::SQLITE_IOERR_READ),
        }
    })
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    data: *const c_void,
    amount: c_int,
    offset: sqlite3_int64,
) -> c_int {
    guard(sqlite::SQLITE_IOERR_WRITE, || {
        // SAFETY: SQLite's call on an open file of ours.
        let open = unsafe { opened(file) };
        // SAFETY: SQLite's data has `amount` bytes.
        let data = unsafe { std::slice::from_raw_parts(data.cast(), amount as usize) };
        let written = open.inode.state.lock().content.write(data, offset as u64);
        code_of(written, sqlite::SQLITE_IOERR_WRITE)
    })
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    guard(sqlite::SQLITE_IOERR_TRUNCATE, || {
        // SAFETY: SQLite's call on an open file of ours.
        let open = unsafe { opened(file) };
        let cut = open.inode.state.lock().content.truncate(size as u64);
        code_of(cut, sqlite::SQLITE_IOERR_TRUNCATE)
    })
}

unsafe extern "C" fn sync(_: *mut sqlite3_file, _: c_int) -> c_int {
    sqlite::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    guard(sqlite::SQLITE_IOERR_FSTAT, || {
        // SAFETY: SQLite's call on an open file of ours, with a valid out-parameter.
        unsafe { *size = opened(file).inode.state.lock().content.size() as i64 };
        sqlite::SQLITE_OK
    })
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    guard(sqlite::SQLITE_IOERR_LOCK, || {
        // SAFETY: SQLite's call on an open file of ours.
        unsafe { opened(file) }.set_level(level, true)
    })
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    guard(sqlite::SQLITE_IOERR_UNLOCK, || {
        // SAFETY: SQLite's call on an open file of ours.
        unsafe { opened(file) }.set_level(level, false)
    })
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, result: *mut c_int) -> c_int {
    guard(sqlite::SQLITE_IOERR_CHECKRESERVEDLOCK, || {
        // SAFETY: SQLite's call on an open file of ours, with a valid out-parameter.
        unsafe { *result = c_int::from(opened(file).inode.state.lock().locks.is_reserved()) };
        sqlite::SQLITE_OK
    })
}

unsafe extern "C" fn file_control(_: *mut sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    sqlite::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut sqlite3_file) -> c_int {
    4096
}

unsafe extern "C" fn device_characteristics(_: *mut sqlite3_file) -> c_int {
    sqlite::SQLITE_IOCAP_POWERSAFE_OVERWRITE | sqlite::SQLITE_IOCAP_SAFE_APPEND
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    address: *mut *mut c_void,
) -> c_int {
    guard(sqlite::SQLITE_IOERR_SHMMAP, || {
        // SAFETY: SQLite's call on an open file of ours.
        let open = unsafe { opened(file) };
        let mapped = open.map(region as usize, size as usize, extend != 0);
        let (place, code) = match mapped {
            Ok(place) => (place, sqlite::SQLITE_OK),
            Err(NoMemory) => (std::ptr::null_mut(), sqlite::SQLITE_IOERR_NOMEM),
        };
        // SAFETY: the out-parameter is valid. The region stays until this handle unmaps it.
        unsafe { *address = place };
        code
    })
}

unsafe extern "C" fn shm_lock(
    file: *mut sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    guard(sqlite::SQLITE_IOERR_SHMLOCK, || {
        let mask = (((1_u32 << count) - 1) << offset) as u8;
        // SAFETY: SQLite's call on an open file of ours.
        unsafe { opened(file) }.lock_slots(mask, flags)
    })
}

unsafe extern "C" fn shm_barrier(_: *mut sqlite3_file) {
    fence(Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, _: c_int) -> c_int {
    guard(sqlite::SQLITE_IOERR_SHMMAP, || {
        // SAFETY: SQLite's call on an open file of ours.
        unsafe { opened(file) }.unmap();
        sqlite::SQLITE_OK
    })
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
