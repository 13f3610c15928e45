//! Matrices that a checkpoint keeps already quantized, in the layouts of the libraries that write them.
//!
//! A library ([`Packing`], chosen by `quantization_config.quant_method`) replaces a linear layer's `NAME.weight` by several
//! tensors: codes, scales, zero points. [`Packed::find`] puts them together to a [`Matrix`] that gives its weights back as
//! floats, row by row. What a file stores is what is believed: a layer that the library left alone has an ordinary
//! `NAME.weight`, whatever the configuration lists as ignored.
//!
//! Values are computed in f32. Codes, zero points and scales in half precision give exact products; where a library itself
//! computes in half precision at run time, its own figures are the rounded ones.
//!
//! One file and one line in [`ALL`] per library.

mod awq;
mod bitsandbytes;
mod compressed_tensors;
mod field;
mod fp8;
mod gptq;
mod hqq;
mod mxfp4;
#[cfg(test)]
mod tests;

pub use field::Field;

use crate::checkpoint::Checkpoint;
use crate::{Error, Result, Shape};
use serde_json::{Map, Value as Json};
use std::path::PathBuf;

/// Every library whose checkpoints can be read.
pub static ALL: &[&Packing] = &[
    &gptq::GPTQ,
    &awq::AWQ,
    &bitsandbytes::BITSANDBYTES,
    &fp8::FP8,
    &mxfp4::MXFP4,
    &compressed_tensors::COMPRESSED_TENSORS,
    &hqq::HQQ,
];

/// A library's way of storing quantized matrices.
pub struct Packing {
    /// Values of `quant_method` that mean it; the first is its name.
    pub methods: &'static [&'static str],
    /// Checks the configuration. Errors: a variant that is not read.
    pub open: fn(Settings) -> Result<Box<dyn Layout>>,
}

/// What an opened [`Packing`] knows.
pub trait Layout: std::fmt::Debug {
    /// The matrix that stands for `base.weight`; `None` where the checkpoint holds no quantized tensors of that layer.
    /// Errors: parts that are missing or do not fit together.
    fn find(&self, checkpoint: &Checkpoint, base: &str) -> Result<Option<Matrix>>;

    /// Bits and kind for people, such as `4 bits`.
    fn describe(&self) -> String;
}

/// Decodes elements of one quantized matrix.
pub trait Decode: Send + Sync + std::fmt::Debug {
    /// Weights `col .. col + out.len()` of row `row`; both are inside the matrix.
    fn decode(&self, row: usize, col: usize, out: &mut [f32]);
}

/// A quantized matrix: (output features, input features), as `torch.nn.Linear` keeps it.
#[derive(Debug)]
pub struct Matrix {
    shape: Shape,
    fields: Vec<Field>,
    decode: Box<dyn Decode>,
}

impl Matrix {
    /// `fields` are the stored tensors that it is made of, the largest first. The error is the caller's to place.
    fn new(rows: usize, cols: usize, fields: Vec<Field>, decode: impl Decode + 'static) -> Result<Self> {
        let shape = Shape::new(&[rows, cols]).map_err(|what| fields[0].error(what))?;
        Ok(Matrix { shape, fields, decode: Box::new(decode) })
    }

    /// Rows and columns.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The stored tensors that it is made of.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Consecutive weights of one row. Panics where they are not inside the matrix.
    pub fn read(&self, row: usize, col: usize, out: &mut [f32]) {
        assert!(row < self.shape.rows() && col + out.len() <= self.shape.cols(), "weights outside the matrix");
        self.decode.decode(row, col, out);
    }
}

/// `quantization_config` of a checkpoint, with errors that name the key.
#[derive(Debug, Clone)]
pub struct Settings {
    file: PathBuf,
    values: Map<String, Json>,
}

/// A checkpoint's packing, opened.
#[derive(Debug)]
pub struct Packed {
    method: String,
    layout: Box<dyn Layout>,
}

impl Packed {
    /// Takes `quantization_config` of a checkpoint. Errors: an unknown library, a variant of it that is not read.
    pub fn open(checkpoint: &Checkpoint, settings: &Json) -> Result<Packed> {
        let values = settings.as_object().cloned().unwrap_or_default();
        let settings = Settings { file: checkpoint.folder().join("config.json"), values };
        let method = match settings.str("quant_method") {
            Some(method) => method.to_owned(),
            // Older bitsandbytes checkpoints do not name themselves.
            None if settings.flag("load_in_4bit") || settings.flag("load_in_8bit") => "bitsandbytes".to_owned(),
            None => return Err(settings.error("quant_method", "is missing: it names the library that quantized")),
        };
        let Some(packing) = ALL.iter().find(|p| p.methods.contains(&method.as_str())) else {
            let known: Vec<&str> = ALL.iter().map(|p| p.methods[0]).collect();
            let what = format!(
                "is {method:?}, which qconv does not read; it reads {}. Take the original, unquantized model",
                known.join(", ")
            );
            return Err(settings.error("quant_method", what));
        };
        Ok(Packed { method, layout: (packing.open)(settings)? })
    }

    /// The library and its setting, such as `gptq, 4 bits`.
    pub fn describe(&self) -> String {
        format!("{}, {}", self.method, self.layout.describe())
    }

    /// The quantized matrix that stands for a tensor's name; `None` for ordinary tensors.
    pub fn find(&self, checkpoint: &Checkpoint, name: &str) -> Result<Option<Matrix>> {
        match name.strip_suffix(".weight") {
            Some(base) => self.layout.find(checkpoint, base),
            None => Ok(None),
        }
    }
}

impl Settings {
    /// An error that names a key of the configuration.
    fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::malformed(&self.file, format!("key quantization_config.{key}"), problem)
    }

    fn get(&self, key: &str) -> Option<&Json> {
        self.values.get(key).filter(|v| !v.is_null())
    }

    fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    fn flag(&self, key: &str) -> bool {
        self.get(key).and_then(Json::as_bool).unwrap_or(false)
    }

    /// One of the bit widths that the library has; these checkpoints all use the key `bits`.
    fn bits(&self, possible: &[u64]) -> Result<usize> {
        let bits = self.get("bits").and_then(Json::as_u64);
        match bits {
            Some(n) if possible.contains(&n) => Ok(n as usize),
            _ => Err(self.error("bits", format!("is {bits:?} where one of {possible:?} is expected"))),
        }
    }

    /// Weights that share a scale: `None` for -1 or nothing, which mean a whole row.
    fn group_size(&self) -> Result<Option<usize>> {
        let Some(value) = self.get("group_size") else { return Ok(None) };
        match value.as_i64() {
            Some(-1) => Ok(None),
            Some(n @ 1..=0x7fff_ffff) => Ok(Some(n as usize)),
            _ => Err(self.error("group_size", format!("is {value} where -1 or a positive number is expected"))),
        }
    }
}

impl std::fmt::Debug for Packing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.methods[0])
    }
}
