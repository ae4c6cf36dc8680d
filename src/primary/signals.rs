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

/// Whether nobody waits: then a signal ends the process, as if it had never been caught. (A
/// handler, once there, cannot be taken away safely.)
static NOBODY_WAITS: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));

impl EndSignals {
    /// From here on they no longer end the process. At no moment is one ignored: until then it
    /// does what it did.
    pub fn catch() -> io::Result<Self> {
        let mut catching = CATCHING.lock();
        catching.keep_defaults()?;
        let seen = Arc::default();
        let mut ids = Vec::new();
        for signal in [SIGINT, SIGTERM] {
            match flag::register(signal, Arc::clone(&seen)) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    unregister(&mut ids);
                    return Err(error);
                }
            }
        }
        catching.waits += 1;
        NOBODY_WAITS.store(false, Ordering::SeqCst);
        Ok(Self { seen, ids })
    }

    /// Whether one has come.
    pub fn seen(&self) -> bool {
        self.seen.load(Ordering::SeqCst)
    }
}

impl Drop for EndSignals {
    fn drop(&mut self) {
        let mut catching = CATCHING.lock();
        catching.waits -= 1;
        // Another connection may wait still.
        NOBODY_WAITS.store(catching.waits == 0, Ordering::SeqCst);
        unregister(&mut self.ids);
    }
}

impl Catching {
    /// Once in a process: what the signals do while nobody waits stays what it was.
    fn keep_defaults(&mut self) -> io::Result<()> {
        if !self.defaults {
            for signal in [SIGINT, SIGTERM] {
                if ffi::has_default_action(signal) {
                    flag::register_conditional_default(signal, Arc::clone(&NOBODY_WAITS))?;
                }
            }
            self.defaults = true;
        }
        Ok(())
    }
}

fn unregister(ids: &mut Vec<SigId>) {
    for id in ids.drain(..) {
        signal_hook::low_level::unregister(id);
    }
}
