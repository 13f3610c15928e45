//! The compiled kernels that are embedded in the program: `images/*.zlib`, made by `kernels/cuda/build.py` from the sources of
//! the same names, each with machine code for several compute capabilities and PTX for the rest.

use super::device::failed;
use super::tuning::Tuning;
use crate::{Error, Result};
use cudarc::driver::{CudaContext, CudaModule, DriverError, sys::CUresult};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// A line for each source.
const ALL: &[Source] = &[
    Source { name: "argmax", archive: include_bytes!("images/argmax.zlib") },
    Source { name: "attention", archive: include_bytes!("images/attention.zlib") },
    Source { name: "elements", archive: include_bytes!("images/elements.zlib") },
    Source { name: "embed", archive: include_bytes!("images/embed.zlib") },
    Source { name: "experts", archive: include_bytes!("images/experts.zlib") },
    Source { name: "matmul", archive: include_bytes!("images/matmul.zlib") },
    Source { name: "matmul_floats", archive: include_bytes!("images/matmul_floats.zlib") },
    Source { name: "matvec", archive: include_bytes!("images/matvec.zlib") },
    Source { name: "norm", archive: include_bytes!("images/norm.zlib") },
    Source { name: "plain", archive: include_bytes!("images/plain.zlib") },
    Source { name: "position", archive: include_bytes!("images/position.zlib") },
    Source { name: "quantize", archive: include_bytes!("images/quantize.zlib") },
    Source { name: "rows", archive: include_bytes!("images/rows.zlib") },
];

/// The images of one source of kernels.
struct Source {
    name: &'static str,
    archive: &'static [u8],
}

/// Bytes that an archive may unfold to; far more than any does.
const LARGEST: usize = 256 << 20;

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// Machine code for devices of this major capability and at least this minor one.
    Capability(i32, i32),
    /// PTX, which the driver compiles for any device of this capability or a newer one.
    From(i32, i32),
}

impl Source {
    /// All images that are embedded.
    #[cfg(test)]
    fn unpack(&self) -> Result<Vec<(For, Vec<u8>)>> {
        self.unpack_from(self.archive)
    }

    /// All images of this archive.
    fn unpack_from(&self, archive: &[u8]) -> Result<Vec<(For, Vec<u8>)>> {
        let broken = || Error::Device(format!("the compiled kernels of {} are damaged", self.name));
        let unpacked = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(archive, LARGEST);
        let unpacked = unpacked.map_err(|_| broken())?;
        let (mut images, mut rest) = (Vec::new(), &unpacked[..]);
        while !rest.is_empty() {
            // "sm_80 12345" or "compute_80 12345", and as many bytes.
            let line = rest.split(|&b| b == b'\n').next().ok_or_else(broken)?;
            let (kind, len) = std::str::from_utf8(line).ok().and_then(|l| l.split_once(' ')).ok_or_else(broken)?;
            let len: usize = len.parse().map_err(|_| broken())?;
            let (kind, number) = kind.split_once('_').ok_or_else(broken)?;
            let number: i32 = number.parse().map_err(|_| broken())?;
            let kind = match kind {
                "sm" => For::Capability(number / 10, number % 10),
                "compute" => For::From(number / 10, number % 10),
                _ => return Err(broken()),
            };
            let bytes = rest.get(line.len() + 1..).and_then(|r| r.get(..len)).ok_or_else(broken)?;
            images.push((kind, bytes.to_vec()));
            rest = &rest[line.len() + 1 + len..];
        }
        Ok(images)
    }
}

/// Images for a device, the best first: machine code of the nearest capability that it should run, then PTX.
fn candidates(images: Vec<(For, Vec<u8>)>, device: (i32, i32)) -> Vec<(For, Vec<u8>)> {
    let rank = |image: For| match image {
        For::Capability(major, minor) if major == device.0 && minor <= device.1 => Some(1 + minor),
        For::From(major, minor) if (major, minor) <= device => Some(0),
        _ => None,
    };
    let mut fitting: Vec<_> = images.into_iter().filter(|i| rank(i.0).is_some()).collect();
    fitting.sort_by_key(|i| std::cmp::Reverse(rank(i.0)));
    fitting
}

/// Loads the images for a device of this compute capability. Errors, each a sentence: there are none for it, or the driver is older
/// than they are.
pub(super) fn load(
    context: &Arc<CudaContext>,
    capability: (i32, i32),
    tuning: &Tuning,
) -> Result<Vec<Arc<CudaModule>>> {
    let (major, minor) = capability;
    let module = |source: &Source| {
        let mut why = Error::Unavailable(format!(
            "this program has no kernels for devices of compute capability {major}.{minor}: it has machine code for 7.5, 8.0, \
             8.6, 8.9 and 9.0, and PTX for 8.0 and newer; use --backend cpu"
        ));
        let other = tuning.other_images(source.name)?;
        for (_, image) in candidates(source.unpack_from(other.as_deref().unwrap_or(source.archive))?, capability) {
            // Machine code need not run on embedded devices of the same major capability (8.7); whatever is wrong with an image,
            // the next may do.
            why = match context.load_module(Ptx::from_binary(image)) {
                Ok(module) => return Ok(module),
                Err(DriverError(
                    CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
                    | CUresult::CUDA_ERROR_INVALID_PTX
                    | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
                )) => Error::Unavailable(format!(
                    "the NVIDIA driver is too old to load the kernels for a device of capability {major}.{minor}; update it, or \
                     use --backend cpu"
                )),
                Err(e) => failed(&format!("loading the kernels of {}", source.name), e),
            };
        }
        Err(why)
    };
    ALL.iter().map(module).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_embedded_for_every_device() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
        let mut sources: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "cu"))
            .map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        sources.sort();
        assert_eq!(ALL.iter().map(|s| s.name).collect::<Vec<_>>(), sources, "a line in ALL for each kernels/cuda/*.cu");
        for source in ALL {
            for (device, want) in [
                ((7, 5), &[For::Capability(7, 5)][..]),
                ((8, 0), &[For::Capability(8, 0), For::From(8, 0)]),
                ((8, 7), &[For::Capability(8, 6), For::Capability(8, 0), For::From(8, 0)]),
                ((8, 9), &[For::Capability(8, 9), For::Capability(8, 6), For::Capability(8, 0), For::From(8, 0)]),
                ((9, 0), &[For::Capability(9, 0), For::From(8, 0)]),
                ((10, 0), &[For::From(8, 0)]),
                ((12, 1), &[For::From(8, 0)]),
                ((7, 2), &[]),
            ] {
                let found = candidates(source.unpack().unwrap(), device);
                assert_eq!(found.iter().map(|i| i.0).collect::<Vec<_>>(), want, "{} for {device:?}", source.name);
                for (kind, bytes) in found {
                    let start: &[u8] = if matches!(kind, For::From(..)) { b"//" } else { b"\x7fELF" };
                    assert!(bytes.starts_with(start), "{} for {device:?}", source.name);
                }
            }
        }
        // What the sentence about devices without kernels says.
        let mut kinds: Vec<String> = ALL[0].unpack().unwrap().iter().map(|i| format!("{:?}", i.0)).collect();
        kinds.sort();
        let told = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0)].map(|(m, n)| format!("{:?}", For::Capability(m, n)));
        assert_eq!(kinds, [&told[..], &["From(8, 0)".to_owned()]].concat());
    }

    #[test]
    fn damaged_archives_are_errors() {
        for archive in [&b"xx"[..], &miniz_oxide::deflate::compress_to_vec_zlib(b"sm_80 100\nshort", 1)] {
            let archive: &'static [u8] = Box::leak(archive.to_vec().into_boxed_slice());
            assert!(Source { name: "x", archive }.unpack().is_err());
        }
    }
}
