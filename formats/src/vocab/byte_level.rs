//! The byte alphabet of byte-level BPE: GPT-2 writes every byte as one printable character.
//!
//! Bytes that are printable in Latin-1 stand for themselves, the other 68 take the characters from U+0100 on, in order;
//! a space becomes `Ġ`, a line feed `Ċ`. Source: `bytes_to_unicode` of OpenAI's GPT-2 release.

/// Whether a byte is written as the character of its own number.
const fn is_own(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

const TO_CHAR: [char; 256] = {
    let mut table = ['\0'; 256];
    let mut next = 0x100u32;
    let mut byte = 0;
    while byte < 256 {
        let code = if is_own(byte as u8) {
            byte as u32
        } else {
            next += 1;
            next - 1
        };
        table[byte] = match char::from_u32(code) {
            Some(c) => c,
            None => panic!("every code here is below U+0144"),
        };
        byte += 1;
    }
    table
};

/// The character that stands for a byte.
pub const fn to_char(byte: u8) -> char {
    TO_CHAR[byte as usize]
}

/// The byte that a character stands for; `None` for characters outside the alphabet.
pub fn to_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0..=0xFF if is_own(code as u8) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8), // 0x00..=0x20
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8), // 0x7F..=0xA0
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The bytes that a token's text stands for; `None` if one of its characters is outside the alphabet.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    text.chars().map(to_byte).collect()
}

/// Bytes in the alphabet.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| to_char(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_have_one_character() {
        for byte in 0..=255u8 {
            assert_eq!(to_byte(to_char(byte)), Some(byte));
        }
        assert_eq!((to_char(b' '), to_char(b'\n'), to_char(0xFF), to_char(0xAD)), ('Ġ', 'Ċ', 'ÿ', 'Ń'));
        assert_eq!(to_byte(' '), None);
        assert_eq!(to_byte('\u{144}'), None);
        assert_eq!((0..=0x10FFFF).filter_map(char::from_u32).filter(|&c| to_byte(c).is_some()).count(), 256);
    }

    #[test]
    fn text_goes_there_and_back() {
        let text = "a b\n\u{e9}\u{1f600}";
        assert_eq!(encode(text.as_bytes()), "aĠbĊÃ©ðŁĺĢ");
        assert_eq!(decode(&encode(text.as_bytes())).unwrap(), text.as_bytes());
        assert_eq!(decode("a b"), None);
    }
}
