//! Writing either form, byte for byte as llama-imatrix does.

use super::{Imatrix, UNKNOWN};
use crate::block::F32;
use crate::gguf::{Array, Metadata, TensorEntry, Writer};
use crate::{Error, Result, Shape};

impl Imatrix {
    /// The whole file in the GGUF form. Errors: it counts in chunks ([`Imatrix::count_tokens`] goes first); a name too long
    /// for GGUF.
    pub fn to_gguf(&self) -> Result<Vec<u8>> {
        if self.is_legacy() {
            return Err(Error::caller("the legacy form does not tell how many tokens a chunk had"));
        }
        let mut metadata = Metadata::new();
        metadata.set("general.type", "imatrix");
        metadata.set("imatrix.datasets", Array::String(self.datasets.clone()));
        metadata.set("imatrix.chunk_count", self.chunk_count);
        metadata.set("imatrix.chunk_size", self.chunk_size);
        let mut tensors = Vec::new();
        let mut data = Vec::new();
        for (name, entry) in &self.entries {
            let counts: Vec<f32> = entry.counts.iter().map(|n| *n as f32).collect();
            let parts = [("in_sum2", entry.columns(), entry.sums.as_slice()), ("counts", 1, &counts)];
            for (part, cols, values) in parts {
                let name = format!("{name}.{part}");
                let shape = Shape::new(&[values.len() / cols, cols])
                    .map_err(|what| Error::caller(format!("tensor {name} {what}")))?;
                tensors.push(TensorEntry { name, shape, format: &F32 });
                data.push(values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
            }
        }
        let writer = Writer::new(&metadata, &tensors)?;
        let mut out = writer.head().to_vec();
        for (i, bytes) in data.iter().enumerate() {
            out.resize(writer.range(i).start as usize, 0);
            out.extend(bytes);
        }
        out.resize(writer.file_size() as usize, 0);
        Ok(out)
    }

    /// The whole file in the legacy form. What it cannot hold is told in `lost`, one sentence each: entries without any
    /// data, which experts were never visited, all text files but the last.
    ///
    /// Errors: more entries, longer names or larger counts than its 32-bit numbers can hold.
    pub fn to_legacy(&self, lost: &mut Vec<String>) -> Result<Vec<u8>> {
        let chunk_size = u64::from(self.chunk_size.max(1));
        let mut body = Vec::new();
        let mut stored = 0i32;
        for (name, entry) in &self.entries {
            let unvisited = entry.unvisited().count();
            if unvisited == entry.counts.len() {
                lost.push(format!("entry {name} has no data and is left out"));
                continue;
            }
            if unvisited > 0 {
                let all = entry.counts.len();
                lost.push(format!("entry {name}: that {unvisited} of {all} experts were never visited"));
            }
            stored += 1;
            let most = entry.counts.iter().max().copied().unwrap_or(0);
            // Rounded up, so that a few tokens do not become no chunk.
            let chunks = integer(name, "chunks", most.div_ceil(chunk_size))?;
            body.extend(integer(name, "letters", name.len() as u64)?.to_le_bytes());
            body.extend(name.as_bytes());
            body.extend(chunks.to_le_bytes());
            body.extend(integer(name, "sums", entry.sums.len() as u64)?.to_le_bytes());
            for (sums, &count) in entry.sums.chunks_exact(entry.columns()).zip(&entry.counts) {
                for sum in sums {
                    let mean = if count == 0 { UNKNOWN } else { sum / count as f32 };
                    body.extend((mean * chunks as f32).to_le_bytes());
                }
            }
        }
        if stored == 0 {
            return Err(Error::caller("no entry has any data"));
        }
        body.extend(integer("matrix", "chunks", self.chunk_count.into())?.to_le_bytes());
        let text = self.datasets.last().map_or("", |s| s.as_str());
        if let [others @ .., _] = self.datasets.as_slice()
            && !others.is_empty()
        {
            lost.push(format!("the names of all text files but the last ({} more)", others.len()));
        }
        body.extend(integer("matrix", "letters in a file's name", text.len() as u64)?.to_le_bytes());
        body.extend(text.as_bytes());
        Ok([&stored.to_le_bytes()[..], &body].concat())
    }
}

fn integer(name: &str, what: &str, n: u64) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::caller(format!("entry {name}: {n} {what} are beyond the legacy form")))
}
