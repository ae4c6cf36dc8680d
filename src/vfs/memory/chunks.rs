//! Bytes in memory, in chunks.

use super::content::NoMemory;

/// Bytes of a chunk. A file that grows moves none of what it has.
const CHUNK: usize = 1 << 16;

/// Bytes in chunks; behind the end everything reads as zero.
#[derive(Default)]
pub struct Chunks {
    chunks: Vec<Vec<u8>>,
    size: u64,
}

impl Chunks {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `offset` on; returns how much there was. The rest is zero.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let there = self.size.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (found, behind) = buffer.split_at_mut(there);
        behind.fill(0);
        let mut done = 0;
        while done < found.len() {
            let (chunk, at) = place(offset + done as u64);
            let count = (CHUNK - at).min(found.len() - done);
            match self
                .chunks
                .get(chunk)
                .and_then(|chunk| chunk.get(at..at + count))
            {
                Some(bytes) => found[done..done + count].copy_from_slice(bytes),
                None => found[done..done + count].fill(0),
            }
            done += count;
        }
        there
    }

    /// Writes at `offset`, growing the file where needed.
    pub fn write(&mut self, data: &[u8], offset: u64) -> Result<(), NoMemory> {
        let end = offset.checked_add(data.len() as u64).ok_or(NoMemory)?;
        self.grow(end)?;
        let mut done = 0;
        while done < data.len() {
            let (chunk, at) = place(offset + done as u64);
            let count = (CHUNK - at).min(data.len() - done);
            if let Some(bytes) = self
                .chunks
                .get_mut(chunk)
                .and_then(|chunk| chunk.get_mut(at..at + count))
            {
                bytes.copy_from_slice(&data[done..done + count]);
            }
            done += count;
        }
        self.size = self.size.max(end);
        Ok(())
    }

    /// Sets the size; what is added reads as zero.
    pub fn truncate(&mut self, size: u64) -> Result<(), NoMemory> {
        if size >= self.size {
            self.grow(size)?;
        } else {
            let (chunk, at) = place(size);
            self.chunks.truncate(chunk + usize::from(at > 0));
            if let Some(last) = self.chunks.get_mut(chunk) {
                last[at..].fill(0);
            }
        }
        self.size = size;
        Ok(())
    }

    fn grow(&mut self, size: u64) -> Result<(), NoMemory> {
        let wanted = usize::try_from(size.div_ceil(CHUNK as u64)).map_err(|_| NoMemory)?;
        let more = wanted.saturating_sub(self.chunks.len());
        self.chunks.try_reserve(more).map_err(|_| NoMemory)?;
        for _ in 0..more {
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(CHUNK).map_err(|_| NoMemory)?;
            chunk.resize(CHUNK, 0);
            self.chunks.push(chunk);
        }
        Ok(())
    }
}

/// The chunk of an offset, and the place in it.
fn place(offset: u64) -> (usize, usize) {
    let chunk = usize::try_from(offset / CHUNK as u64).unwrap_or(usize::MAX);
    (chunk, (offset % CHUNK as u64) as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Call {
        Write(u64, Vec<u8>),
        Truncate(u64),
        Read(u64, usize),
    }

    fn call() -> impl Strategy<Value = Call> {
        let offset = 0..4 * CHUNK as u64;
        let data = (1..200_usize, any::<u8>()).prop_map(|(count, fill)| vec![fill; count]);
        prop_oneof![
            (offset.clone(), data).prop_map(|(offset, data)| Call::Write(offset, data)),
            offset.clone().prop_map(Call::Truncate),
            (offset, 1..3 * CHUNK).prop_map(|(offset, count)| Call::Read(offset, count)),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_row_of_bytes(calls in prop::collection::vec(call(), 1..40)) {
            let (mut content, mut model) = (Chunks::default(), Vec::new());
            for call in calls {
                match call {
                    Call::Write(offset, data) => {
                        content.write(&data, offset).unwrap();
                        let end = offset as usize + data.len();
                        model.resize(model.len().max(end), 0);
                        model[offset as usize..end].copy_from_slice(&data);
                    }
                    Call::Truncate(size) => {
                        content.truncate(size).unwrap();
                        model.resize(size as usize, 0);
                    }
                    Call::Read(offset, count) => {
                        let mut buffer = vec![9; count];
                        let there = content.read(&mut buffer, offset);
                        let start = model.len().min(offset as usize);
                        let end = model.len().min(offset as usize + count);
                        prop_assert_eq!(there, end - start);
                        prop_assert_eq!(&buffer[..there], &model[start..end]);
                        prop_assert!(buffer[there..].iter().all(|byte| *byte == 0));
                    }
                }
                prop_assert_eq!(content.size(), model.len() as u64);
            }
        }
    }

    #[test]
    fn what_no_machine_has_is_refused() {
        let mut content = Chunks::default();
        assert!(content.write(&[1], u64::MAX - 1).is_err());
        assert!(content.truncate(u64::MAX).is_err());
        assert_eq!(content.size(), 0);
    }
}
