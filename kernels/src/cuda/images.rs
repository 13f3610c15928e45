//! The compiled kernels that are embedded in the program: `images/*.zlib`, made by `kernels/cuda/build.py` from the sources of
//! the same names, each with machine code for several compute capabilities and PTX for the rest.

use super::device::failed;
use crate::{Error, Result};
use cudarc::driver::{CudaContext, CudaModule, DriverError, sys::CUresult};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// A line for each source.
const ALL: &[Source] = &[
    Source { name: "attention", archive: include_bytes!("images/attention.zlib") },
    Source { name: "elements", archive: include_bytes!("images/elements.zlib") },
    Source { name: "embed", archive: include_bytes!("images/embed.zlib") },
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
    /// PTX, which the driver compiles for the device.
    Any,
}

impl Source {
    /// All images.
    fn unpack(&self) -> Result<Vec<(For, Vec<u8>)>> {
        let broken = || Error::Device(format!("the embedded kernels of {} are damaged", self.name));
        let unpacked = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(self.archive, LARGEST);
        let unpacked = unpacked.map_err(|_| broken())?;
        let (mut images, mut rest) = (Vec::new(), &unpacked[..]);
        while !rest.is_empty() {
            // "sm_80 12345" or "ptx 12345", and as many bytes.
            let line = rest.split(|&b| b == b'\n').next().ok_or_else(broken)?;
            let (kind, len) = std::str::from_utf8(line).ok().and_then(|l| l.split_once(' ')).ok_or_else(broken)?;
            let len: usize = len.parse().map_err(|_| broken())?;
            let kind = match kind.strip_prefix("sm_").map(str::parse::<i32>) {
                Some(Ok(number)) => For::Capability(number / 10, number % 10),
                _ => For::Any,
            };
            let bytes = rest.get(line.len() + 1..).and_then(|r| r.get(..len)).ok_or_else(broken)?;
            images.push((kind, bytes.to_vec()));
            rest = &rest[line.len() + 1 + len..];
        }
        Ok(images)
    }
}

/// The image for a device: machine code of the nearest capability that it runs, else PTX.
fn best(images: &[(For, Vec<u8>)], (major, minor): (i32, i32)) -> Option<&(For, Vec<u8>)> {
    let rank = |image: &&(For, Vec<u8>)| match image.0 {
        For::Capability(m, n) if m == major && n <= minor => n,
        For::Capability(..) => i32::MIN,
        For::Any => -1,
    };
    images.iter().max_by_key(rank).filter(|i| rank(i) > i32::MIN)
}

/// Loads the images for a device of this compute capability. Errors: the driver is older than the images.
pub(super) fn load(context: &Arc<CudaContext>, capability: (i32, i32)) -> Result<Vec<Arc<CudaModule>>> {
    let module = |source: &Source| {
        let images = source.unpack()?;
        let Some((_, image)) = best(&images, capability) else {
            return Err(Error::Device(format!("the embedded kernels of {} fit no such device", source.name)));
        };
        context.load_module(Ptx::from_binary(image.clone())).map_err(|e| match e {
            DriverError(
                CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
                | CUresult::CUDA_ERROR_INVALID_PTX
                | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
            ) => Error::Unavailable(format!(
                "the NVIDIA driver is too old to load the kernels for a device of capability {}.{}; update it, or use --backend cpu",
                capability.0, capability.1
            )),
            e => failed(&format!("loading the kernels of {}", source.name), e),
        })
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
            let images = source.unpack().unwrap();
            for (device, want) in [
                ((7, 5), For::Capability(7, 5)),
                ((8, 0), For::Capability(8, 0)),
                ((8, 7), For::Capability(8, 6)),
                ((8, 9), For::Capability(8, 9)),
                ((9, 0), For::Capability(9, 0)),
                ((10, 0), For::Any),
                ((12, 1), For::Any),
            ] {
                let (found, bytes) = best(&images, device).unwrap();
                assert_eq!(*found, want, "{} for {device:?}", source.name);
                let start: &[u8] = if want == For::Any { b"//" } else { b"\x7fELF" };
                assert!(bytes.starts_with(start), "{} for {device:?}", source.name);
            }
        }
    }

    #[test]
    fn damaged_archives_are_errors() {
        for archive in [&b"xx"[..], &miniz_oxide::deflate::compress_to_vec_zlib(b"sm_80 100\nshort", 1)] {
            let archive: &'static [u8] = Box::leak(archive.to_vec().into_boxed_slice());
            assert!(Source { name: "x", archive }.unpack().is_err());
        }
    }
}
