//! How many requests one bearer, or one address, may make.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use parking_lot::Mutex;

/// Bearers and addresses that are remembered at once.
const MOST_BUCKETS: usize = 10_000;

/// Who is counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// The bearers of a token, by the number of the database and that of the token.
    Token(u64, u64),
    /// An address, of IPv6 its network.
    Address(IpAddr),
}

impl Key {
    /// The key of those who come from `address`: whoever has one IPv6 address has 2^64.
    pub(super) fn address(address: IpAddr) -> Self {
        Key::Address(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
                address.to_bits() & !u128::from(u64::MAX),
            )),
            address => address,
        })
    }
}

/// A token bucket for each key: one second's requests fit in it.
pub(super) struct Rate {
    per_second: f64,
    buckets: Mutex<HashMap<Key, Bucket>>,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Rate {
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            per_second: per_second.max(1).into(),
            buckets: Mutex::default(),
        }
    }

    /// Whether one more request is allowed now.
    pub(super) fn take(&self, key: Option<Key>, now: Instant) -> bool {
        let Some(key) = key else { return true };
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MOST_BUCKETS && !buckets.contains_key(&key) {
            // The full ones are as good as new ones.
            buckets.retain(|_, bucket| self.left(bucket, now) < self.per_second);
            if buckets.len() >= MOST_BUCKETS {
                buckets.clear();
            }
        }
        let full = || Bucket {
            left: self.per_second,
            at: now,
        };
        let bucket = buckets.entry(key).or_insert_with(full);
        let left = self.left(bucket, now);
        let allowed = left >= 1.0;
        *bucket = Bucket {
            left: if allowed { left - 1.0 } else { left },
            at: now,
        };
        allowed
    }

    fn left(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + passed * self.per_second).min(self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_empties_and_fills() {
        let rate = Rate::new(5);
        let start = Instant::now();
        let taken = |key, at| (0..20).filter(|_| rate.take(Some(key), at)).count();
        assert_eq!(taken(Key::Token(1, 1), start), 5);
        assert_eq!(taken(Key::Token(1, 2), start), 5);
        assert_eq!(
            taken(Key::Token(1, 1), start + Duration::from_millis(400)),
            2
        );
        assert_eq!(taken(Key::Token(1, 1), start + Duration::from_secs(60)), 5);
        assert!(rate.take(None, start));
    }

    #[test]
    fn a_network_counts_as_one_and_memory_is_bounded() {
        let key = |text: &str| Key::address(text.parse().unwrap());
        assert!(key("2001:db8::1") == key("2001:db8::ffff:1"));
        assert!(key("2001:db8::1") != key("2001:db8:0:1::1"));
        assert!(key("::ffff:192.0.2.1") == key("192.0.2.1"));
        let rate = Rate::new(1);
        let now = Instant::now();
        for number in 0..3 * MOST_BUCKETS as u64 {
            rate.take(Some(Key::Token(1, number)), now);
        }
        assert!(rate.buckets.lock().len() <= MOST_BUCKETS);
    }
}
