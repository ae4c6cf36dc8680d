//! The signals that ask a process which waits to stop serving: SIGINT and SIGTERM.

use std::io;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{SigId, flag};

use crate::ffi;

/// Caught until dropped.
pub struct EndSignals {
    seen: Arc<AtomicBool>,
    ids: Vec<SigId>,
}

/// Who catches them just now.
#[derive(Default)]
struct Catching {
    /// Waits under way.
    waits: usize,
    /// Whether the default actions are kept already.
    defaults: bool,
}

static CATCHING: LazyLock<Mutex<Catching>> = LazyLock::new(Mutex::default);

/// Whether nobody waits: then a signal ends the process again, as if it had never been caught. (A
/// handler, once there, cannot be taken away safely.)
static NOBODY_WAITS: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

impl EndSignals {
    /// From here on they no longer end the process.
    pub fn catch() -> io::Result<Self> {
        let mut catching = CATCHING.lock();
        catching.waits += 1;
        NOBODY_WAITS.store(false, Ordering::SeqCst);
        drop(catching);
        // From here on an error undoes what was done.
        let mut signals = Self {
            seen: Arc::default(),
            ids: Vec::new(),
        };
        keep_defaults()?;
        for signal in [SIGINT, SIGTERM] {
            signals
                .ids
                .push(flag::register(signal, Arc::clone(&signals.seen))?);
        }
        Ok(signals)
    }

    /// Whether one has come.
    pub fn seen(&self) -> bool {
        self.seen.load(Ordering::SeqCst)
    }
}

impl Drop for EndSignals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
        let mut catching = CATCHING.lock();
        catching.waits -= 1;
        // Another connection may wait still.
        NOBODY_WAITS.store(catching.waits == 0, Ordering::SeqCst);
    }
}

/// Once in a process: what the signals do while nobody waits stays what it was.
fn keep_defaults() -> io::Result<()> {
    let mut catching = CATCHING.lock();
    if !catching.defaults {
        for signal in [SIGINT, SIGTERM] {
            if ffi::has_default_action(signal) {
                flag::register_conditional_default(signal, Arc::clone(&NOBODY_WAITS))?;
            }
        }
        catching.defaults = true;
    }
    Ok(())
}
