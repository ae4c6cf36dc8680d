//! Nonces: 16 random bytes and a counter of 8 bytes, so that each is unique for every write of every
//! connection. The random bytes are drawn at the first use, in a forked child, and after 2^32 nonces:
//! XAES-256-GCM takes its subkey from the first twelve of them.

use super::Entropy;
use super::seal::{NONCE_BYTES, Nonce};
use crate::error::Result;

const PREFIX_BYTES: usize = 16;

/// Nonces under one prefix.
const MOST: u64 = 1 << 32;

/// Makes nonces that were never used before.
#[derive(Default)]
pub struct Nonces {
    prefix: [u8; PREFIX_BYTES],
    counter: u64,
    generation: Option<u64>,
}

impl Nonces {
    /// Nothing is drawn before the first use.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next nonce.
    pub fn next(&mut self, entropy: &dyn Entropy) -> Result<Nonce> {
        let generation = Some(entropy.generation());
        if self.generation != generation || self.counter == MOST {
            entropy.fill(&mut self.prefix)?;
            (self.counter, self.generation) = (0, generation);
        }
        self.counter += 1;
        let mut nonce = [0; NONCE_BYTES];
        nonce[..PREFIX_BYTES].copy_from_slice(&self.prefix);
        nonce[PREFIX_BYTES..].copy_from_slice(&self.counter.to_le_bytes());
        Ok(nonce)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::memory::Counted;
    use super::*;

    #[test]
    fn no_nonce_comes_twice_not_even_after_a_fork() {
        let entropy = Counted::default();
        let mut seen = HashSet::new();
        let mut nonces = [Nonces::new(), Nonces::new()];
        for round in 0..3 {
            for _ in 0..1000 {
                for nonces in &mut nonces {
                    assert!(seen.insert(nonces.next(&entropy).unwrap()), "{round}");
                }
            }
            entropy.fork();
        }
    }

    #[test]
    fn a_prefix_is_not_used_without_end() {
        let entropy = Counted::default();
        let mut nonces = Nonces::new();
        let first = nonces.next(&entropy).unwrap();
        nonces.counter = MOST - 1;
        let last = nonces.next(&entropy).unwrap();
        let beyond = nonces.next(&entropy).unwrap();
        assert_eq!(first[..PREFIX_BYTES], last[..PREFIX_BYTES]);
        assert_ne!(first[..PREFIX_BYTES], beyond[..PREFIX_BYTES]);
    }
}
