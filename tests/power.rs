//! Power loss: whatever a disk may keep of unsynced work, the files come back sound.
//!
//! A host is recorded down to its system calls, the recording is cut at every sync, and from each
//! cut come images of what a disk could hold. `POWER_SEED` draws others, `POWER_IMAGES_TIMES` more.
#[path = "power/campaign.rs"]
mod campaign;
#[path = "power/content.rs"]
mod content;
#[path = "power/dice.rs"]
mod dice;
#[path = "power/host.rs"]
mod host;
#[path = "power/image.rs"]
mod image;
#[path = "power/offline.rs"]
mod offline;
#[path = "power/plain.rs"]
mod plain;
#[path = "power/primary.rs"]
mod primary;
#[path = "power/recorder.rs"]
mod recorder;
#[path = "power/replica.rs"]
mod replica;
#[path = "power/sealed.rs"]
mod sealed;
#[path = "power/storage.rs"]
mod storage;
#[path = "power/trace.rs"]
mod trace;
#[path = "power/two.rs"]
mod two;
