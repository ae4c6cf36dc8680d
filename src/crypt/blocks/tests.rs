//! Journals and temporary files against plain files in memory.

use proptest::prelude::*;

use super::super::cipher::Algorithm;
use super::super::header::{Journal, Rollback};
use super::super::memory::{Bytes, keys, keys_for};
use super::*;

fn content(blocks: &mut SealedBlocks, raw: &Bytes) -> Vec<u8> {
    let mut bytes = vec![1; blocks.size(raw).unwrap() as usize + 7];
    let read = blocks.read(raw, &mut bytes, 0).unwrap();
    bytes.truncate(read);
    bytes
}

#[test]
fn every_damage_is_an_error() {
    for algorithm in Algorithm::ALL {
        damage_blocks(&keys_for(algorithm));
    }
}

fn damage_blocks(keys: &Arc<Keys>) {
    let raw = Bytes::default();
    let mut blocks = SealedBlocks::new(Arc::clone(keys), [1; 16], 512);
    blocks.write(&raw, &[7; 1300], 0).unwrap();
    let whole = raw.copy();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        let mut blocks = SealedBlocks::new(Arc::clone(keys), [1; 16], 512);
        let read = blocks.read(&Bytes::of(bytes), &mut [0; 1300], 0);
        assert!(matches!(read, Err(Error::Tampered(_))), "byte {at}");
    }
    // Two blocks of one length, exchanged.
    let mut bytes = whole.clone();
    let (a, b) = bytes.split_at_mut(554);
    a.swap_with_slice(&mut b[..554]);
    let read =
        SealedBlocks::new(Arc::clone(keys), [1; 16], 512).read(&Bytes::of(bytes), &mut [0; 8], 0);
    assert!(matches!(read, Err(Error::Tampered(_))));
}

#[test]
fn another_file_with_the_same_key_is_an_error() {
    let (raw, keys) = (Bytes::default(), keys());
    let mut blocks = SealedBlocks::new(Arc::clone(&keys), [1; 16], 512);
    blocks.write(&raw, &[7; 600], 0).unwrap();
    let read = SealedBlocks::new(keys, [2; 16], 512).read(&raw, &mut [0; 8], 0);
    assert!(matches!(read, Err(Error::Tampered(_))));
}

/// Reads each block of a journal of four, all of which are damaged: which of them are errors.
fn errors(keys: &Arc<Keys>, raw: &Bytes, rollback: Rollback) -> Vec<u64> {
    let mut journal = SealedBlocks::journal(Arc::clone(keys), [1; 16], rollback);
    let mut is_error = |number: &u64| {
        let mut bytes = [1; 8];
        match journal.read(raw, &mut bytes, number * 512) {
            Err(Error::Tampered(_)) => true,
            read => {
                assert_eq!((read.unwrap(), bytes), (8, [0; 8]));
                false
            }
        }
    };
    (0..4).filter(|number| is_error(number)).collect()
}

fn needed(bytes: u64) -> Journal {
    Journal { bytes, nonce: 7 }
}

/// The header of a journal that has this number.
fn head(nonce: u8) -> [u8; 512] {
    let mut head = [7; 512];
    head[12..16].copy_from_slice(&[0, 0, 0, nonce]);
    head
}

fn journal(keys: &Arc<Keys>, rollback: Rollback) -> SealedBlocks {
    SealedBlocks::journal(Arc::clone(keys), [1; 16], rollback)
}

#[test]
fn blocks_of_a_journal_must_open_where_the_database_relies_on_them() {
    let (raw, keys) = (Bytes::default(), keys());
    let mut first = journal(&keys, Rollback::NotNeeded);
    first.write(&raw, &head(7), 0).unwrap();
    first.write(&raw, &[7; 1400], 512).unwrap();
    assert_eq!(first.as_journal(), needed(1912));
    // The header of a second part begins at a sector; what lies behind a gap is of others.
    let mut parts = journal(&keys, Rollback::NotNeeded);
    parts.write(&raw, &head(7), 0).unwrap();
    parts.write(&raw, &[7; 1400], 512).unwrap();
    parts.write(&raw, &[0], 2048).unwrap();
    assert_eq!(parts.as_journal(), needed(1912));
    parts.write(&raw, &[7; 512], 2048).unwrap();
    assert_eq!(parts.as_journal(), needed(2560));
    parts.write(&raw, &[7; 4], 4096).unwrap();
    assert_eq!(parts.as_journal(), needed(2560));
    raw.truncate(4 * 554).unwrap();
    for number in 0..4 {
        raw.bytes.borrow_mut()[number * 554 + 100] ^= 1;
    }
    let errors = |rollback| errors(&keys, &raw, rollback);
    assert_eq!(errors(Rollback::NotNeeded), [0; 0]);
    assert_eq!(errors(Rollback::Needed(needed(1024))), [0, 1]);
    assert_eq!(errors(Rollback::Needed(needed(1025))), [0, 1, 2]);
    assert_eq!(errors(Rollback::Complete(needed(1912))), [1, 2, 3]);
    // The connection that has written it relies on it too.
    assert!(first.read(&raw, &mut [0; 8], 512).is_err());
    // Another transaction in the same file.
    first.write(&raw, &head(8), 0).unwrap();
    let journal = first.as_journal();
    assert_eq!((journal.bytes, journal.nonce), (512, 8));
    assert_eq!(first.read(&raw, &mut [0; 8], 512).unwrap(), 8);
    first.truncate(&raw, 0).unwrap();
    assert_eq!(first.as_journal().bytes, 0);
}

#[test]
fn a_super_journal_counts_once_the_database_is_complete() {
    let (raw, keys) = (Bytes::default(), keys());
    let mut own = journal(&keys, Rollback::NotNeeded);
    own.write(&raw, &head(7), 0).unwrap();
    own.write(&raw, &JOURNAL_MAGIC, 600).unwrap();
    let found = |rollback| {
        let mut bytes = [0; 8];
        let mut left = journal(&keys, rollback);
        assert_eq!(left.read(&raw, &mut bytes, 600).unwrap(), 8);
        bytes
    };
    assert_eq!(found(Rollback::Needed(needed(608))), [0; 8]);
    assert_eq!(found(Rollback::Complete(needed(608))), JOURNAL_MAGIC);
    assert_eq!(found(Rollback::NotNeeded), JOURNAL_MAGIC);
}

/// The header of the database may speak of a transaction before: its journal is gone, and this
/// one was not synced when power failed.
#[test]
fn a_torn_journal_of_a_later_transaction_is_no_tampering() {
    let (raw, keys) = (Bytes::default(), keys());
    let mut later = journal(&keys, Rollback::NotNeeded);
    later.write(&raw, &head(8), 0).unwrap();
    later.write(&raw, &[7; 1400], 512).unwrap();
    raw.bytes.borrow_mut()[554 + 100] ^= 1;
    let mut bytes = [1; 8];
    for (nonce, opens) in [(7, true), (8, false)] {
        let mut journal = journal(&keys, Rollback::Complete(Journal { bytes: 1912, nonce }));
        journal.recognise(&raw).unwrap();
        assert_eq!(journal.read(&raw, &mut bytes, 512).is_ok(), opens);
        assert_eq!(journal.as_journal().bytes > 0, !opens);
    }
    assert_eq!(bytes, [0; 8]);
}

/// The part of a journal that was synced may end within a block.
#[test]
fn what_was_synced_is_not_written_again_where_the_file_grows() {
    for end in [600, 1023, 1024] {
        let (raw, keys) = (Bytes::default(), keys());
        let mut blocks = journal(&keys, Rollback::NotNeeded);
        blocks.write(&raw, &head(7), 0).unwrap();
        blocks.write(&raw, &vec![7; end - 512], 512).unwrap();
        let synced = raw.copy();
        blocks.write(&raw, &head(8), 1024).unwrap();
        blocks.write(&raw, &[8; 8], 5000).unwrap();
        assert_eq!(raw.copy()[..synced.len()], synced, "{end}");
        let content = content(&mut blocks, &raw);
        assert_eq!(content.len(), 5008);
        assert!(content[end..1024].iter().all(|byte| *byte == 0), "{end}");
        // So ends the file when none of the rest has come to the disk.
        let raw = Bytes::of(synced);
        let mut blocks = journal(&keys, Rollback::NotNeeded);
        assert_eq!(blocks.size(&raw).unwrap(), end as u64);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize, u8),
    Truncate(usize),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4000_usize, 0..2600_usize, any::<u8>()).prop_map(|(at, n, fill)| Step::Write(at, n, fill)),
        1 => (0..5000_usize).prop_map(Step::Truncate),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #[test]
    fn it_is_a_file(steps in prop::collection::vec(step(), 1..30), block in prop_oneof![Just(512_usize), Just(4096)], algorithm in prop::sample::select(&Algorithm::ALL[..])) {
        let (raw, keys) = (Bytes::default(), keys_for(algorithm));
        let mut blocks = SealedBlocks::new(Arc::clone(&keys), [1; 16], block);
        let mut model: Vec<u8> = Vec::new();
        for step in steps {
            match step {
                Step::Write(at, n, fill) => {
                    blocks.write(&raw, &vec![fill; n], at as u64).unwrap();
                    if n > 0 {
                        model.resize(model.len().max(at + n), 0);
                        model[at..at + n].fill(fill);
                    }
                }
                Step::Truncate(size) => {
                    blocks.truncate(&raw, size as u64).unwrap();
                    model.resize(size, 0);
                }
                Step::Reopen => blocks = SealedBlocks::new(Arc::clone(&keys), [1; 16], block),
            }
            prop_assert_eq!(content(&mut blocks, &raw), &model[..]);
        }
        let mut other = SealedBlocks::new(keys, [1; 16], block);
        prop_assert_eq!(content(&mut other, &raw), model);
    }
}
