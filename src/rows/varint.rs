//! Variable-length integers (SQLite file format, section 1.6).

/// The integer at the start of `bytes`, and how many bytes it has: 1 to 9. `None` where it is cut off.
pub fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (n, byte) in bytes.iter().take(8).enumerate() {
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, n + 1));
        }
    }
    let last = bytes.get(8)?;
    Some((value << 8 | u64::from(*last), 9))
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn integers_of_all_lengths() {
        assert_eq!(read(&[0x00]), Some((0, 1)));
        assert_eq!(read(&[0x7f, 9]), Some((127, 1)));
        assert_eq!(read(&[0x81, 0x00]), Some((128, 2)));
        assert_eq!(read(&[0xff; 9]), Some((u64::MAX, 9)));
        assert_eq!(read(&[0x81]), None);
        assert_eq!(read(&[0xff; 8]), None);
        assert_eq!(read(&[]), None);
    }
}
