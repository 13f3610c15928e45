//! `qconv tokenize MODEL --text T`

use super::Run;
use crate::error::malformed;
use crate::tokenizer::{EncodeOptions, Tokenizer};
use crate::ui::Ui;
use anyhow::Result;
use std::io::{Read, Write};
use std::path::PathBuf;

/// Arguments of `qconv tokenize`.
#[derive(clap::Args)]
#[command(after_help = "\
Pieces are shown as text; bytes that are no whole character appear as <0xE2>. The ids are the exact answer.

Examples:
  qconv tokenize model.gguf --text 'Hello world'
  qconv tokenize Llama-3.2-1B/ --file prompt.txt --json
  qconv tokenize model.gguf --parse-special --text '<|im_start|>user'
  echo Hello | qconv tokenize model.gguf --file -")]
pub struct Tokenize {
    /// A GGUF file (one that holds only a vocabulary will do) or a Hugging Face folder
    model: PathBuf,

    /// The text
    #[arg(long, short, required_unless_present = "file", conflicts_with = "file", allow_hyphen_values = true)]
    text: Option<String>,

    /// A UTF-8 file with the text; - is standard input
    #[arg(long, short)]
    file: Option<PathBuf>,

    /// Add no special tokens (BOS, EOS) around the text
    #[arg(long)]
    no_bos: bool,

    /// Take control tokens that are written out in the text, such as <|im_end|>, for what they say
    #[arg(long)]
    parse_special: bool,

    /// Print {"ids": [...], "pieces": [...]}
    #[arg(long)]
    json: bool,
}

impl Run for Tokenize {
    fn run(self, ui: &Ui) -> Result<()> {
        let text = self.read()?;
        let mut warnings = Vec::new();
        let tokenizer = Tokenizer::open(&self.model, &mut warnings)?;
        warnings.into_iter().for_each(|w| ui.warn(w));
        ui.refuse_warnings()?;
        let options = EncodeOptions { add_special: !self.no_bos, parse_special: self.parse_special };
        let ids = tokenizer.encode(&text, options);
        let pieces = ids.iter().map(|&id| readable(tokenizer.piece(id).unwrap_or_default()));

        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        if self.json {
            let pieces: Vec<String> = pieces.collect();
            serde_json::to_writer(&mut out, &serde_json::json!({ "ids": ids, "pieces": pieces }))?;
            writeln!(out)?;
        } else {
            for (id, piece) in ids.iter().zip(pieces) {
                writeln!(
                    out,
                    "{id:6}  '{}'",
                    piece.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\"")
                )?;
            }
            writeln!(out, "{} tokens", ids.len())?;
        }
        out.flush()?;
        Ok(())
    }
}

impl Tokenize {
    fn read(&self) -> Result<String> {
        let Some(path) = &self.file else { return Ok(self.text.clone().unwrap_or_default()) };
        let bytes = if path.as_os_str() == "-" {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).map_err(qconv_formats::Error::io("standard input"))?;
            bytes
        } else {
            std::fs::read(path).map_err(qconv_formats::Error::io(path))?
        };
        String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            malformed(path, format!("byte {at}"), "is not valid UTF-8: convert the text to UTF-8 first")
        })
    }
}

/// Text, with bytes that are none as `<0xE2>`.
fn readable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|b| text.push_str(&format!("<0x{b:02X}>")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn bytes_that_are_no_text_are_written_out() {
        assert_eq!(readable(" h\u{e9}".as_bytes()), " h\u{e9}");
        assert_eq!(readable(b"a\xE2\x82b\xFF"), "a<0xE2><0x82>b<0xFF>");
    }
}
