//! Forks of a process whose threads are ours.
//!
//! A child has a copy of all memory and of one thread. Locks that other threads held stay locked there
//! for ever, SQLite's own among them: a child of a host that only forks between its own calls could not
//! use SQLite at all. So a fork waits until no thread of ours is inside SQLite, or inside anything
//! else that locks: each says when it is, and steps aside where it only waits.

use std::cell::RefCell;
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Read-locked by threads of ours at work, write-locked while the process forks.
static FORKING: RwLock<()> = RwLock::new(());

/// How long a fork waits for threads at work: for a sync, mostly, of a disk that may be busy. In the end
/// a child that may hang is better than a host that does.
const PATIENCE: Duration = Duration::from_secs(10);

thread_local! {
    /// This thread is at work.
    static WORKING: RefCell<Option<RwLockReadGuard<'static, ()>>> = const { RefCell::new(None) };
    /// This thread is forking.
    static HELD: RefCell<Option<RwLockWriteGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// A thread of ours at work, until dropped.
pub struct Working(());

/// This thread, one of ours, is at work until the result is dropped.
pub fn working() -> Working {
    WORKING.with(|working| *working.borrow_mut() = Some(FORKING.read()));
    Working(())
}

impl Drop for Working {
    fn drop(&mut self) {
        // A thread that ends may have lost it already.
        drop(WORKING.try_with(|working| working.borrow_mut().take()));
    }
}

/// Runs what waits, and touches nothing that a child would miss.
pub fn aside<T>(waiting: impl FnOnce() -> T) -> T {
    let was = WORKING.with(|working| working.borrow_mut().take());
    let is_ours = was.is_some();
    drop(was);
    let result = waiting();
    if is_ours {
        WORKING.with(|working| *working.borrow_mut() = Some(FORKING.read()));
    }
    result
}

/// Before a fork, in the thread that forks.
pub extern "C" fn before() {
    let _ = HELD.try_with(|held| *held.borrow_mut() = FORKING.try_write_for(PATIENCE));
}

/// After it, on both sides.
pub extern "C" fn after() {
    drop(HELD.try_with(|held| held.borrow_mut().take()));
}
