//! The database against a plain file in memory.

use proptest::prelude::*;

use super::super::cipher::Algorithm;
use super::super::header::{Found, HEADER_BYTES};
use super::super::memory::{Bytes, keys, keys_for};
use super::super::page::SealedPage;
use super::super::seal::{OVERHEAD, Seal};
use super::*;

const SIZE: usize = 512;

fn create(keys: &Arc<Keys>) -> (Bytes, SealedDatabase) {
    let raw = Bytes::default();
    keys.new_header(None).unwrap().create(&raw).unwrap();
    let database = open(&raw, keys);
    (raw, database)
}

fn open(raw: &Bytes, keys: &Arc<Keys>) -> SealedDatabase {
    match Header::find(raw).unwrap() {
        Found::Sealed(header) => SealedDatabase::new(Arc::clone(keys), *header),
        _ => panic!("no header"),
    }
}

/// A page filled with a byte that says its size where page 1 has to.
fn page(fill: u8) -> [u8; SIZE] {
    let mut page = [fill; SIZE];
    page[16..18].copy_from_slice(&(SIZE as u16).to_be_bytes());
    page
}

fn put(database: &mut SealedDatabase, raw: &Bytes, number: usize, fill: u8) {
    let offset = (number - 1) * SIZE;
    database.write(raw, &page(fill), offset as u64).unwrap();
}

fn get(database: &mut SealedDatabase, raw: &Bytes, number: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![9; SIZE];
    let read = database.read(raw, &mut bytes, ((number - 1) * SIZE) as u64)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn sync(database: &mut SealedDatabase, raw: &Bytes) {
    database.before_sync(raw).unwrap();
    database.after_sync(raw).unwrap();
}

#[test]
fn the_first_page_tells_the_size_to_all() {
    let keys = keys();
    let (raw, mut database) = create(&keys);
    let mut other = open(&raw, &keys);
    assert_eq!(other.read(&raw, &mut [0; 100], 0).unwrap(), 0);
    put(&mut database, &raw, 1, 1);
    assert_eq!(other.read(&raw, &mut [0; 100], 0).unwrap(), 100);
    assert_eq!(other.page_size(), PageSize::new(512).ok());
    assert_eq!(other.size(&raw).unwrap(), 512);
    let mut range = [0; 600];
    put(&mut other, &raw, 2, 2);
    assert_eq!(database.read(&raw, &mut range, 500).unwrap(), 524);
    assert_eq!((range[11], range[12]), (1, 2));
}

#[test]
fn what_was_never_written_is_zero_and_what_was_taken_away_an_error() {
    let keys = keys();
    let (raw, mut database) = create(&keys);
    put(&mut database, &raw, 1, 1);
    put(&mut database, &raw, 4, 4);
    assert_eq!(get(&mut database, &raw, 3).unwrap(), [0; SIZE]);
    assert!(get(&mut database, &raw, 5).unwrap().is_empty());
    // As another process leaves it that was killed before it filled the gap.
    raw.truncate(HEADER_BYTES + 6 * 552).unwrap();
    assert_eq!(get(&mut database, &raw, 5).unwrap(), [0; SIZE]);
    sync(&mut database, &raw);
    let whole = raw.copy();
    let mut other = open(&raw, &keys);
    assert_eq!(other.header().complete(), 6);
    assert_eq!(get(&mut other, &raw, 5).unwrap(), [0; SIZE]);
    for number in 1..=6 {
        let mut bytes = whole.clone();
        let at = HEADER_BYTES as usize + (number - 1) * 552;
        bytes[at..at + 552].fill(0);
        let raw = Bytes::of(bytes);
        let result = get(&mut open(&raw, &keys), &raw, number);
        assert!(matches!(result, Err(Error::Tampered(_))), "{number}");
        raw.truncate(at as u64 + 100).unwrap();
        let result = get(&mut open(&raw, &keys), &raw, number);
        assert!(matches!(result, Err(Error::Tampered(_))), "{number}");
        let result = open(&raw, &keys).size(&raw);
        assert!(matches!(result, Err(Error::Tampered(_))), "{number}");
    }
    // A shrunk file may end earlier.
    database.truncate(&raw, 2 * SIZE as u64).unwrap();
    assert!(get(&mut open(&raw, &keys), &raw, 3).unwrap().is_empty());
    database.truncate(&raw, 5 * SIZE as u64).unwrap();
    assert_eq!(get(&mut database, &raw, 5).unwrap(), [0; SIZE]);
}

#[test]
fn every_damage_of_a_page_is_an_error_as_is_another_place() {
    for algorithm in Algorithm::ALL {
        damage_pages(&keys_for(algorithm));
    }
}

fn damage_pages(keys: &Arc<Keys>) {
    let (raw, mut database) = create(keys);
    let (other_raw, mut other) = create(keys);
    for number in 1..=3 {
        put(&mut database, &raw, number, number as u8);
        put(&mut other, &other_raw, number, number as u8);
    }
    let whole = raw.copy();
    let at = HEADER_BYTES as usize + 552;
    for byte in 0..552 {
        let mut bytes = whole.clone();
        bytes[at + byte] ^= 4;
        let raw = Bytes::of(bytes);
        let result = get(&mut database, &raw, 2);
        assert!(matches!(result, Err(Error::Tampered(_))), "{byte}");
    }
    for from in [&whole[at - 552..at], &other_raw.copy()[at..at + 552]] {
        let mut bytes = whole.clone();
        bytes[at..at + 552].copy_from_slice(from);
        let result = get(&mut database, &Bytes::of(bytes), 2);
        assert!(matches!(result, Err(Error::Tampered(_))));
    }
}

#[test]
fn a_sealed_page_is_copied_as_it_is() {
    let keys = keys();
    let (raw, mut database) = create(&keys);
    put(&mut database, &raw, 1, 1);
    put(&mut database, &raw, 3, 7);
    let at = HEADER_BYTES as usize + 2 * 552;
    let record = raw.copy()[at..at + 552].to_vec();
    put(&mut database, &raw, 3, 8);
    let seal = Seal::parse(&record).unwrap();
    let sealed = SealedPage {
        number: PageNumber::new(3).unwrap(),
        seal,
        frame: 12,
        salts: [5; 8],
    };
    database
        .write_sealed(&raw, &sealed, &record[OVERHEAD..])
        .unwrap();
    assert_eq!(get(&mut database, &raw, 3).unwrap(), page(7));
    let backfill = |frames, under_way| Backfill {
        salts: [5; 8],
        frames,
        under_way,
    };
    assert_eq!(open(&raw, &keys).header().backfill(), backfill(0, true));
    database.some_copied(&raw).unwrap();
    assert_eq!(open(&raw, &keys).header().backfill(), backfill(12, true));
    database.all_copied(&raw).unwrap();
    assert_eq!(open(&raw, &keys).header().backfill(), backfill(12, false));
}

#[test]
fn a_torn_write_is_an_error_on_its_page_only() {
    let keys = keys();
    let (raw, mut database) = create(&keys);
    for number in 1..=3 {
        put(&mut database, &raw, number, 1);
    }
    *raw.fail_after.borrow_mut() = Some(0);
    assert!(database.write(&raw, &page(2), SIZE as u64).is_err());
    *raw.fail_after.borrow_mut() = None;
    assert!(get(&mut database, &raw, 2).is_err());
    assert_eq!(get(&mut database, &raw, 1).unwrap(), page(1));
    assert_eq!(get(&mut database, &raw, 3).unwrap(), page(1));
}

/// Power failed in the first transaction, and its page is not there.
#[test]
fn a_journal_of_nothing_is_not_needed() {
    let keys = keys();
    let (raw, mut database) = create(&keys);
    let journal = Journal {
        bytes: 512,
        nonce: 7,
    };
    database.needs_journal(&raw, journal).unwrap();
    let mut other = open(&raw, &keys);
    other.begin_write(&raw).unwrap();
    assert_eq!(open(&raw, &keys).header().rollback(), Rollback::NotNeeded);
    // As long as there is a page it is.
    put(&mut other, &raw, 1, 1);
    other.needs_journal(&raw, journal).unwrap();
    other.begin_write(&raw).unwrap();
    let rollback = open(&raw, &keys).header().rollback();
    assert_eq!(rollback, Rollback::Needed(journal));
}

/// Power failed in the first transaction: its pages are there, their size is not.
#[test]
fn pages_without_a_size_go() {
    let keys = keys();
    let (raw, mut database) = create(&keys);
    raw.bytes.borrow_mut().resize(9000, 3);
    assert_eq!(database.size(&raw).unwrap(), 0);
    put(&mut database, &raw, 1, 1);
    assert_eq!(database.size(&raw).unwrap(), SIZE as u64);
}

#[test]
fn pages_that_are_read_one_after_the_other_come_with_one_call() {
    let keys = keys();
    let (raw, mut database) = create(&keys);
    for number in 1..=100 {
        put(&mut database, &raw, number, number as u8);
    }
    let mut reader = open(&raw, &keys);
    reader.read_ahead();
    let reads = *raw.reads.borrow();
    for number in 1..=100 {
        assert_eq!(get(&mut reader, &raw, number).unwrap(), page(number as u8));
    }
    assert_eq!(*raw.reads.borrow() - reads, 2);
    // What others write is seen once they could write, and what was damaged is not hidden.
    put(&mut database, &raw, 50, 7);
    reader.forget_ahead();
    assert_eq!(get(&mut reader, &raw, 49).unwrap(), page(49));
    assert_eq!(get(&mut reader, &raw, 50).unwrap(), page(7));
    raw.bytes.borrow_mut()[HEADER_BYTES as usize + 50 * 552 + 300] ^= 1;
    reader.forget_ahead();
    assert_eq!(get(&mut reader, &raw, 50).unwrap(), page(7));
    assert!(get(&mut reader, &raw, 51).is_err());
    put(&mut reader, &raw, 51, 3);
    assert_eq!(get(&mut reader, &raw, 51).unwrap(), page(3));
}

/// Page 1 stays in SQLite's cache while others no longer fit.
#[test]
fn the_first_write_may_be_another_page() {
    let keys = keys();
    let (raw, mut database) = create(&keys);
    put(&mut database, &raw, 3, 3);
    assert_eq!(database.size(&raw).unwrap(), 3 * 512);
    assert_eq!(get(&mut database, &raw, 1).unwrap(), [0; SIZE]);
    put(&mut database, &raw, 1, 1);
    sync(&mut database, &raw);
    assert_eq!(get(&mut open(&raw, &keys), &raw, 3).unwrap(), page(3));
    // Another page size has no room in the same file.
    let mut larger = [0; 1024];
    larger[16..18].copy_from_slice(&1024_u16.to_be_bytes());
    assert!(database.write(&raw, &larger, 0).is_err());
    database.truncate(&raw, 0).unwrap();
    database.write(&raw, &larger, 0).unwrap();
    assert_eq!(open(&raw, &keys).page_size(), PageSize::new(1024).ok());
}

#[test]
fn a_torn_page_is_healed_where_it_is_free() {
    let keys = keys();
    let (raw, mut database) = create(&keys);
    let mut first = page(1);
    first[32..36].copy_from_slice(&2_u32.to_be_bytes());
    database.write(&raw, &first, 0).unwrap();
    let mut trunk = [0; SIZE];
    for (at, value) in [(0, 99_u32), (4, 3), (8, 3), (12, 0), (16, 1000)] {
        trunk[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    database.write(&raw, &trunk, SIZE as u64).unwrap();
    for number in 3..=4 {
        put(&mut database, &raw, number, 7);
        raw.bytes.borrow_mut()[HEADER_BYTES as usize + (number - 1) * 552 + 300] ^= 1;
    }
    assert!(get(&mut database, &raw, 3).is_err());
    database.heal_free_pages(&raw).unwrap();
    assert_eq!(get(&mut database, &raw, 3).unwrap(), [0; SIZE]);
    assert!(get(&mut database, &raw, 4).is_err());
    assert_eq!(get(&mut database, &raw, 2).unwrap(), trunk);
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize, u8),
    Truncate(usize),
    Sync,
    Reopen,
    Read(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..12_usize, 1..4_usize, any::<u8>()).prop_map(|(at, n, fill)| Step::Write(at, n, fill)),
        1 => (1..14_usize).prop_map(Step::Truncate),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        4 => (0..7000_usize, 0..2000_usize).prop_map(|(at, n)| Step::Read(at, n)),
    ]
}

proptest! {
    #[test]
    fn it_is_a_file_of_pages(steps in prop::collection::vec((0..2_usize, step()), 1..40), algorithm in prop::sample::select(&Algorithm::ALL[..])) {
        let keys = keys_for(algorithm);
        let (raw, mut first) = create(&keys);
        put(&mut first, &raw, 1, 5);
        let mut model = page(5).to_vec();
        let mut databases = [first, open(&raw, &keys)];
        databases.iter_mut().for_each(SealedDatabase::read_ahead);
        for (which, step) in steps {
            let database = &mut databases[which];
            database.begin_write(&raw).unwrap();
            match step {
                Step::Write(at, n, fill) => {
                    let data = page(fill).repeat(n);
                    database.write(&raw, &data, ((at - 1) * SIZE) as u64).unwrap();
                    model.resize(model.len().max((at - 1 + n) * SIZE), 0);
                    model[(at - 1) * SIZE..(at - 1 + n) * SIZE].copy_from_slice(&data);
                }
                Step::Truncate(pages) => {
                    database.truncate(&raw, (pages * SIZE + 100) as u64).unwrap();
                    model.resize(pages * SIZE, 0);
                }
                Step::Sync => sync(database, &raw),
                Step::Reopen => {
                    *database = open(&raw, &keys);
                    database.read_ahead();
                }
                Step::Read(at, n) => {
                    let mut bytes = vec![3; n];
                    let read = database.read(&raw, &mut bytes, at as u64).unwrap();
                    let there = model.len().saturating_sub(at).min(n);
                    prop_assert_eq!(read, there);
                    if there > 0 {
                        prop_assert_eq!(&bytes[..there], &model[at..at + there]);
                    }
                }
            }
            prop_assert_eq!(database.size(&raw).unwrap(), model.len() as u64);
        }
    }
}
