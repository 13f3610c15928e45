//! Tokens end inside characters; readers want whole ones.

/// Puts pieces together and gives out text as soon as its characters are whole.
///
/// Bytes that can never become a character turn into U+FFFD, as in [`String::from_utf8_lossy`].
#[derive(Debug, Default)]
pub struct StreamDecoder {
    /// The beginning of a character: at most three bytes.
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// Nothing pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a token's bytes and returns what is whole now.
    pub fn push(&mut self, piece: &[u8]) -> String {
        self.pending.extend_from_slice(piece);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        let keep = loop {
            match std::str::from_utf8(rest) {
                Ok(whole) => {
                    text.push_str(whole);
                    break 0;
                }
                Err(e) => {
                    let (whole, broken) = rest.split_at(e.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(whole)); // all valid: nothing is replaced
                    match e.error_len() {
                        None => break broken.len(),
                        Some(n) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &broken[n..];
                        }
                    }
                }
            }
        };
        self.pending.drain(..self.pending.len() - keep);
        text
    }

    /// Ends the text: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}
