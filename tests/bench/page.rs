//! The cost of an encrypted page of 4 KiB, in memory, against the cipher's own speed, with each
//! cipher. Run by `scripts/encryption.sh`.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use replica::crypt::cipher::{Algorithm, Cipher};
use replica::crypt::database::SealedDatabase;
use replica::crypt::header::{Found, Header};
use replica::crypt::key::{Keys, Secret};
use replica::crypt::{Entropy, RawFile};
use replica::error::Result;
use replica::page::PageSize;

const PAGE: usize = 4096;
/// Pages of one measurement, and measurements.
const PAGES: usize = 2000;
const ROUNDS: usize = 9;

/// A file in memory.
#[derive(Default)]
struct Memory(RefCell<Vec<u8>>);

impl RawFile for Memory {
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let bytes = self.0.borrow();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut bytes = self.0.borrow_mut();
        let end = offset as usize + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(data);
        Ok(())
    }

    fn truncate(&self, size: u64) -> Result<()> {
        self.0.borrow_mut().resize(size as usize, 0);
        Ok(())
    }

    fn size(&self) -> Result<u64> {
        Ok(self.0.borrow().len() as u64)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// Bytes that are no secret.
struct Fixed;

impl Entropy for Fixed {
    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(7);
        Ok(())
    }

    fn generation(&self) -> u64 {
        0
    }
}

fn measure(what: &str, mut work: impl FnMut(usize) -> bool) {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            assert!((0..PAGES).all(&mut work), "{what}");
            begun.elapsed().as_secs_f64() * 1e6 / PAGES as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let (least, median, most) = (times[0], times[ROUNDS / 2], times[ROUNDS - 1]);
    println!("  {what}: {median:.2} µs a page [{least:.2}..{most:.2}]");
}

fn measure_all(algorithm: Algorithm) -> Result<()> {
    let secret = Secret::from_hex(&"01".repeat(32))?;
    let keys = Arc::new(Keys::create(&secret, algorithm, Arc::new(Fixed))?);
    let file = Memory::default();
    keys.new_header(Some(PageSize::new(PAGE as u32)?))?
        .create(&file)?;
    let Found::Sealed(header) = Header::find(&file)? else {
        unreachable!("the header was just made");
    };
    let mut database = SealedDatabase::new(keys, *header);
    let (nonce, associated) = ([3; 24], [1; 28]);
    let mut page = vec![7; PAGE];
    // As SQLite's header has it.
    page[16..18].copy_from_slice(&(PAGE as u16).to_be_bytes());
    let mut content = page.clone();

    println!(
        "One page of {PAGE} bytes, in memory, with {}",
        algorithm.name()
    );
    let cipher = Cipher::new(algorithm, &[7; 32]);
    measure("the cipher alone, sealing", |_| {
        cipher.seal(nonce, &associated, &mut content).is_ok()
    });
    measure("a page written", |at| {
        database.write(&file, &page, (at * PAGE) as u64).is_ok()
    });
    measure("a page read", |at| {
        let read = database.read(&file, &mut content, (at * PAGE) as u64);
        read.is_ok_and(|read| read == PAGE)
    });
    assert!(content == page, "the page is another one");
    Ok(())
}

fn main() -> Result<()> {
    Algorithm::ALL.into_iter().try_for_each(measure_all)
}
