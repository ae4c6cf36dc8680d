//! Hex, so that any text is one word on a line.

/// The text in hex.
pub fn encode(text: &str) -> String {
    encode_bytes(text.as_bytes())
}

/// The bytes in hex.
pub fn encode_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text behind `encode`.
pub fn decode(word: &str) -> String {
    let bytes: Vec<u8> = (0..word.len() / 2)
        .map(|index| u8::from_str_radix(&word[index * 2..index * 2 + 2], 16).expect("hex"))
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
