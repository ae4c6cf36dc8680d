//! Changes of the header, and everything that may happen to it on disk.

use std::sync::Arc;

use super::super::key::Secret;
use super::super::memory::{Bytes, Counted};
use super::*;

fn made(secret: &Secret) -> (Bytes, Keys, Header) {
    let keys = Keys::create(secret, Algorithm::Xaes256Gcm, Arc::new(Counted::default())).unwrap();
    let header = keys.new_header(None).unwrap();
    let file = Bytes::default();
    header.create(&file).unwrap();
    (file, keys, header)
}

fn found(file: &Bytes) -> Header {
    match Header::find(file).unwrap() {
        Found::Sealed(header) => *header,
        _ => panic!("no header"),
    }
}

fn raw(byte: &str) -> Secret {
    Secret::from_hex(&byte.repeat(32)).unwrap()
}

#[test]
fn changes_are_found_again() {
    let (file, keys, mut header) = made(&raw("01"));
    assert_eq!(file.size().unwrap(), HEADER_BYTES);
    let mut other = found(&file);
    let size = PageSize::new(4096).unwrap();
    header
        .update(&file, &keys, |header| header.page_size(size))
        .unwrap();
    // Another process has an older one in memory.
    other
        .update(&file, &keys, |header| header.complete(7))
        .unwrap();
    for rollback in [
        Rollback::Needed(Journal {
            bytes: 1 << 40,
            nonce: 9,
        }),
        Rollback::Complete(Journal { bytes: 7, nonce: 8 }),
        Rollback::NotNeeded,
    ] {
        header
            .update(&file, &keys, |header| header.rollback(rollback))
            .unwrap();
        assert_eq!(found(&file).rollback(), rollback);
    }
    let backfill = Backfill {
        salts: *b"saltsalt",
        frames: 9,
        under_way: true,
    };
    header
        .update(&file, &keys, |header| header.backfill(backfill))
        .unwrap();
    let found = found(&file);
    assert_eq!((found.page_size(), found.complete()), (Some(size), 7));
    assert_eq!(found.backfill(), backfill);
    assert!(keys.own(&found));
    assert_eq!(found.id(), header.id());
}

#[test]
fn the_copy_that_was_synced_stays_until_the_next_sync() {
    let (file, keys, mut header) = made(&raw("01"));
    for pages in [1, 5, 9] {
        let mut set = |pages| {
            let set = header.update(&file, &keys, |header| header.complete(pages));
            set.unwrap();
        };
        set(pages);
        header.synced();
        let synced = file.copy();
        let mut set = |pages| {
            let set = header.update(&file, &keys, |header| header.complete(pages));
            set.unwrap();
        };
        set(pages + 1);
        set(pages + 2);
        assert_eq!(found(&file).complete(), pages + 2);
        // Power fails, and everything that was written since is torn.
        let mut bytes = file.copy();
        for (at, before) in synced.iter().enumerate() {
            bytes[at] ^= u8::from(bytes[at] != *before);
        }
        assert_eq!(found(&Bytes::of(bytes)).complete(), pages);
        header.synced();
    }
}

/// Two processes change the header in turn; each syncs now and then.
#[test]
fn a_torn_change_never_takes_the_header_away() {
    for seed in 0..64_u32 {
        let (file, keys, header) = made(&raw("01"));
        let mut headers = [header, found(&file)];
        for turn in 0..12 {
            let bits = seed.wrapping_mul(0x9e37_79b9) >> turn;
            let header = &mut headers[(bits & 1) as usize];
            header
                .update(&file, &keys, |header| header.complete(turn))
                .unwrap();
            if bits & 6 == 0 {
                file.sync().unwrap();
                header.synced();
            }
            // Power fails, and everything that was not synced is torn.
            let mut bytes = file.copy();
            for (at, before) in file.synced.borrow().iter().enumerate() {
                bytes[at] ^= u8::from(bytes[at] != *before);
            }
            assert!(keys.own(&found(&Bytes::of(bytes))), "{seed} {turn}");
        }
    }
}

#[test]
fn what_is_no_header() {
    assert!(matches!(
        Header::find(&Bytes::default()).unwrap(),
        Found::Empty
    ));
    // The size of a new file may reach the disk before its first bytes.
    let torn = Bytes::of(vec![0; HEADER_BYTES as usize]);
    assert!(matches!(Header::find(&torn).unwrap(), Found::Empty));
    let taken = Bytes::of(vec![0; HEADER_BYTES as usize + 552]);
    assert!(matches!(Header::find(&taken).unwrap(), Found::Plain));
    let plain = Bytes::of(b"SQLite format 3\0".repeat(300));
    assert!(matches!(Header::find(&plain).unwrap(), Found::Plain));
}

#[test]
fn every_damage_is_harmless_or_an_error() {
    let (file, keys, mut header) = made(&raw("01"));
    header
        .update(&file, &keys, |header| header.complete(1))
        .unwrap();
    file.truncate(HEADER_BYTES + 552).unwrap();
    let whole = file.copy();
    for at in (0..USED_BYTES).chain(COPY_BYTES..COPY_BYTES + USED_BYTES) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let header = found(&Bytes::of(bytes.clone()));
        assert!(keys.own(&header), "byte {at}");
        // Both copies.
        let twin = (at + COPY_BYTES) % (2 * COPY_BYTES);
        bytes[twin] ^= 0x10;
        match Header::find(&Bytes::of(bytes)) {
            Err(Error::Tampered(_)) => {}
            Ok(Found::Plain) => assert!(at % COPY_BYTES < 16),
            _ => panic!("byte {at} is not noticed"),
        }
    }
}

#[test]
fn an_edited_header_with_a_right_checksum_does_not_open() {
    let (file, keys, header) = made(&raw("01"));
    for at in 20..MAC_AT {
        let mut edited = header.clone();
        edited.bytes[at] ^= 1;
        let checksum = *blake3::hash(&edited.bytes[..CHECKSUM_AT]).as_bytes();
        edited.put(CHECKSUM_AT, &checksum);
        edited.put(40, &9_u64.to_le_bytes());
        assert!(!keys.own(&edited), "byte {at}");
    }
    drop(file);
}

#[test]
fn an_interrupted_rekey_opens_with_exactly_one_key() {
    for writes in 0..3 {
        for torn in [false, true] {
            let (old, new) = (raw("01"), raw("02"));
            let (file, keys, mut header) = made(&old);
            let keys = keys.rekeyed(&new).unwrap();
            let before = file.copy();
            if torn {
                *file.fail_after.borrow_mut() = Some(writes);
            }
            let mut steps = Vec::new();
            if writes > 0 || torn {
                steps.push(header.rewrap(&file, &keys).is_ok());
            }
            if writes > 1 || (torn && writes > 0) {
                steps.push(header.overwrite(&file, &keys).is_ok());
            }
            let found = found(&file);
            let opens = |secret| Keys::unlock(&found, secret, Arc::new(Counted::default())).is_ok();
            assert!(opens(&old) != opens(&new), "{writes} {torn} {steps:?}");
            assert_eq!(opens(&new), writes > 0, "{writes} {torn}");
            if writes == 2 && !torn {
                // Nothing of the old key is left.
                let now = file.copy();
                for copy in [0, COPY_BYTES] {
                    assert_ne!(now[copy + 120..copy + 152], before[copy + 120..copy + 152]);
                }
            }
        }
    }
}

#[test]
fn a_header_is_current_until_a_newer_one_is_there() {
    let (file, keys, mut header) = made(&raw("01"));
    let mut seen = found(&file);
    for pages in 1..6 {
        assert!(seen.is_current(&file).unwrap() && header.is_current(&file).unwrap());
        header
            .update(&file, &keys, |header| header.complete(pages))
            .unwrap();
        header.synced();
        assert!(!seen.is_current(&file).unwrap(), "{pages}");
        seen.refresh(&file, &keys).unwrap();
        assert_eq!(seen.complete(), pages);
    }
    let bytes = file.copy();
    for at in 0..USED_BYTES {
        for copy in 0..2 {
            // Of its own copy each byte counts. The older one may be damaged, not seem newer.
            let mut bytes = bytes.clone();
            bytes[copy * COPY_BYTES + at] ^= 0x80;
            let changed = Bytes::of(bytes);
            let current = seen.is_current(&changed).unwrap();
            assert!(!current || copy != seen.copy, "byte {at} of copy {copy}");
            let same =
                matches!(Header::find(&changed), Ok(Found::Sealed(now)) if now.bytes == seen.bytes);
            assert!(same || !current, "byte {at} of copy {copy}");
        }
    }
    let cut = Bytes::of(bytes[..COPY_BYTES].to_vec());
    assert!(!seen.is_current(&cut).unwrap());
}
