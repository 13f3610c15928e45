//! GGUF and safetensors files built byte by byte, so that they can be wrong.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its part; helpers of tests

use std::path::{Path, PathBuf};

/// A GGUF file whose every part can be a lie.
#[derive(Clone)]
pub struct Raw {
    pub magic: [u8; 4],
    pub version: u32,
    /// Instead of the number of `tensors`.
    pub tensor_count: Option<u64>,
    /// Instead of the number of `keys`.
    pub key_count: Option<u64>,
    pub keys: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub alignment: usize,
    pub data: Vec<u8>,
}

impl Default for Raw {
    fn default() -> Self {
        Raw {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            key_count: None,
            keys: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            data: Vec::new(),
        }
    }
}

impl Raw {
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        self.keys.iter().chain(&self.tensors).for_each(|part| out.extend(part));
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }
}

pub fn string(s: impl AsRef<[u8]>) -> Vec<u8> {
    let s = s.as_ref();
    [&(s.len() as u64).to_le_bytes()[..], s].concat()
}

pub fn key(name: impl AsRef<[u8]>, kind: u32, payload: &[u8]) -> Vec<u8> {
    [&string(name)[..], &kind.to_le_bytes(), payload].concat()
}

pub fn array(kind: u32, count: u64, payload: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), payload].concat()
}

/// A row of the tensor table; dimensions in the file's order.
pub fn tensor(name: impl AsRef<[u8]>, dims: &[u64], id: u32, offset: u64) -> Vec<u8> {
    let mut out = string(name);
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
    out.extend(id.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

/// A small sound file: four keys, an F32 matrix (2 rows x 3 columns), an F16 vector of 5.
pub fn sound() -> Raw {
    Raw {
        keys: vec![
            key("general.architecture", 8, &string("llama")),
            key("llama.block_count", 4, &2u32.to_le_bytes()),
            key("tokens", 9, &array(8, 2, &[string("a"), string("\u{e9}")].concat())),
            key("nested", 9, &array(9, 1, &array(5, 1, &7i32.to_le_bytes()))),
        ],
        tensors: vec![tensor("a", &[3, 2], 0, 0), tensor("b", &[5], 1, 32)],
        data: (0..64).collect(),
        ..Raw::default()
    }
}

/// A folder for files of one test.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Scratch(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        // ext4 flushes a file to the disk when it is emptied and written again; a new one is fast.
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// A safetensors file: header as text, data behind it.
pub fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Calls `f` with every byte of `bytes` changed to a few values, then with several bytes changed at random (always the
/// same), so that checks which guard each other are met too.
pub fn mutations(bytes: &[u8], mut f: impl FnMut(&[u8])) {
    let mut copy = bytes.to_vec();
    for i in 0..bytes.len() {
        for value in
            [0, 1, 0x7f, 0x80, 0xff, bytes[i] ^ 1, bytes[i] ^ 0x10, bytes[i].wrapping_add(1), bytes[i].wrapping_sub(1)]
        {
            copy[i] = value;
            f(&copy);
        }
        copy[i] = bytes[i];
    }
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize
    };
    for _ in 0..4000 {
        copy.copy_from_slice(bytes);
        for _ in 0..2 + random() % 3 {
            let at = random() % copy.len();
            copy[at] = (random() >> 8) as u8;
        }
        f(&copy);
    }
}

/// Runs the test `name` of this file again with an address space of 1 GB, where an allocation by a corrupted number
/// ends the process. True if this is that process; the caller then does the work.
pub fn in_little_memory(name: &str) -> bool {
    if std::env::var_os("QCONV_TEST_IN").is_some() {
        return true;
    }
    let script = format!("ulimit -v 1000000; exec \"$0\" --exact --test-threads=1 {name}");
    let run = std::process::Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env("QCONV_TEST_IN", "1")
        .output()
        .unwrap();
    let text = [run.stdout, run.stderr].concat();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&text));
    false
}
