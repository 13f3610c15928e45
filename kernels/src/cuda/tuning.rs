//! What may be varied on a device without building anew, to find good values there: environment variables, which reports name.

use crate::{Error, Result};
use std::path::PathBuf;

/// Warps that single tokens' products should have at least: some four times what the largest device holds of them (H200: 132
/// multiprocessors, 24 of such warps each), so that all end at about the same time. Not measured.
const MATVEC_WARPS: usize = 12_288;

/// How kernels are launched, and which.
#[derive(Debug, PartialEq)]
pub(super) struct Tuning {
    /// See [`super::matmul`].
    pub matvec_warps: usize,
    /// A folder with images that take the place of embedded ones: what `kernels/cuda/build.py --to FOLDER` has made with other constants.
    pub images: Option<PathBuf>,
    /// Whether a repeated step becomes a graph (`record.rs`).
    pub graphs: bool,
    /// The variables that are set, for reports.
    pub set: Vec<String>,
}

impl Tuning {
    /// From `QCONV_CUDA_WARPS`, `QCONV_CUDA_IMAGES` and `QCONV_CUDA_GRAPHS`. Errors: a value that is none.
    pub fn from_environment() -> Result<Self> {
        Self::from(|name| std::env::var(name).ok())
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut tuning = Tuning { matvec_warps: MATVEC_WARPS, images: None, graphs: true, set: Vec::new() };
        if let Some(text) = variable("QCONV_CUDA_WARPS") {
            let number = text.parse().ok().filter(|n: &usize| (1..=1 << 30).contains(n));
            tuning.matvec_warps = number.ok_or_else(|| {
                Error::Unavailable(format!(
                    "QCONV_CUDA_WARPS={text}: a number of warps from 1 on is needed; unset it for the default"
                ))
            })?;
            tuning.set.push(format!("QCONV_CUDA_WARPS={text}"));
        }
        if let Some(text) = variable("QCONV_CUDA_IMAGES") {
            tuning.set.push(format!("QCONV_CUDA_IMAGES={text}"));
            tuning.images = Some(text.into());
        }
        if let Some(text) = variable("QCONV_CUDA_GRAPHS") {
            tuning.graphs = match &*text {
                "0" => false,
                "1" => true,
                _ => {
                    return Err(Error::Unavailable(format!(
                        "QCONV_CUDA_GRAPHS={text}: 1 (a generated token is a graph) or 0 is needed; unset it for the default"
                    )));
                }
            };
            tuning.set.push(format!("QCONV_CUDA_GRAPHS={text}"));
        }
        Ok(tuning)
    }
}

impl Tuning {
    /// The bytes of a source's images in place of the embedded ones, if there is such a file. Errors: it cannot be read.
    pub fn other_images(&self, source: &str) -> Result<Option<Vec<u8>>> {
        let Some(folder) = &self.images else { return Ok(None) };
        let path = folder.join(format!("{source}.zlib"));
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && folder.is_dir() => Ok(None),
            Err(e) => Err(Error::Device(format!("QCONV_CUDA_IMAGES: {}: {e}", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_and_named() {
        let of = |name: &str, value: &str| Tuning::from(|n| (n == name).then(|| value.to_owned()));
        let plain = Tuning { matvec_warps: MATVEC_WARPS, images: None, graphs: true, set: Vec::new() };
        assert_eq!(of("another", "1").unwrap(), plain);
        let tuning = of("QCONV_CUDA_WARPS", "96").unwrap();
        assert_eq!((tuning.matvec_warps, &tuning.set[..]), (96, &["QCONV_CUDA_WARPS=96".to_owned()][..]));
        let tuning = of("QCONV_CUDA_GRAPHS", "0").unwrap();
        assert_eq!((tuning.graphs, &tuning.set[..]), (false, &["QCONV_CUDA_GRAPHS=0".to_owned()][..]));
        for (name, wrong) in
            [("WARPS", ["", "0", "-1", "many", "99999999999999999999"]), ("GRAPHS", ["", "2", "-1", "no", "00"])]
        {
            let name = format!("QCONV_CUDA_{name}");
            for wrong in wrong {
                assert!(of(&name, wrong).unwrap_err().to_string().contains(&name), "{name}={wrong}");
            }
        }
    }
}
