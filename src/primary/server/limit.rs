//! How many connections a server keeps open, unless the options say otherwise.

use crate::ffi;

/// What most systems let a process have open.
const USUAL_DESCRIPTORS: usize = 1024;

/// How many descriptors are left to the host, where it has more than twice as many.
const OTHERS: usize = 512;

/// The most connections: what a host may have open is often no limit at all.
const MOST: usize = 16_384;

/// Connections a server of this process may have open.
pub fn connections() -> usize {
    within(ffi::descriptor_limit().unwrap_or(USUAL_DESCRIPTORS))
}

/// The descriptors are not all ours to use up.
fn within(descriptors: usize) -> usize {
    let ours = descriptors.saturating_sub(OTHERS).max(descriptors / 2);
    ours.clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_keeps_descriptors_of_its_own() {
        for (descriptors, ours) in [
            (0, 1),
            (256, 128),
            (1024, 512),
            (4096, 3584),
            (1 << 20, 16_384),
        ] {
            assert_eq!(within(descriptors), ours);
        }
        assert!(connections() > 1);
    }
}
