//! Every library's own matrices, and damaged ones.

use super::{ALL, Matrix, Packed};
use crate::checkpoint::Checkpoint;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/packed");

fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<_> =
        std::fs::read_dir(ROOT).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    cases.sort();
    cases
}

fn open(folder: &Path) -> crate::Result<Option<(Checkpoint, Matrix)>> {
    let checkpoint = Checkpoint::open(folder)?;
    let packed = Packed::open(&checkpoint, &checkpoint.config()["quantization_config"])?;
    let matrix = packed.find(&checkpoint, "layer.weight")?;
    Ok(matrix.map(|matrix| (checkpoint, matrix)))
}

fn expected(checkpoint: &Checkpoint) -> (Vec<usize>, Vec<f32>) {
    let (file, tensor) = checkpoint.tensor("expected").unwrap();
    let floats = file.bytes(tensor).chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (tensor.dims.clone(), floats)
}

#[test]
fn every_library_gives_its_own_weights_back() {
    let mut methods = Vec::new();
    for case in cases() {
        let (checkpoint, matrix) = open(&case).unwrap().unwrap_or_else(|| panic!("{case:?}: nothing found"));
        let (dims, want) = expected(&checkpoint);
        assert_eq!(matrix.shape().dims(), dims, "{case:?}");
        let (rows, cols) = (dims[0], dims[1]);
        let mut got = vec![0f32; rows * cols];
        got.chunks_mut(cols).enumerate().for_each(|(row, out)| matrix.read(row, 0, out));
        let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            // The order of multiplications differs by a rounding of f32; codes off by one differ by whole steps.
            assert!((got - want).abs() <= 2e-6 * largest, "{case:?}, weight {i}: {got}, not {want}");
        }
        for (row, col, n) in [(0, 1, 1), (rows - 1, 5, 77), (3, cols - 1, 1), (7, 33, 64)] {
            let mut part = vec![0f32; n];
            matrix.read(row, col, &mut part);
            assert_eq!(part, got[row * cols + col..][..n], "{case:?}: a part of row {row}");
        }
        let config = checkpoint.config();
        methods.push(config["quantization_config"]["quant_method"].as_str().unwrap().to_owned());
        let used: Vec<&str> = matrix.fields().iter().map(|f| f.name()).collect();
        for name in checkpoint.names().filter(|n| *n != "expected" && *n != "layer.bias") {
            assert!(used.contains(&name), "{case:?}: {name} is part of the layer");
        }
    }
    for packing in ALL {
        assert!(methods.iter().any(|m| packing.methods.contains(&m.as_str())), "{packing:?} has no case");
    }
}

/// Writes a case again with some of its tensors changed.
fn changed(case: &Path, to: &Path, change: impl Fn(&mut BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>)) {
    let bytes = std::fs::read(case.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter();
    let mut tensors: BTreeMap<_, _> =
        tensors.map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect();
    tensors.remove("expected");
    change(&mut tensors);
    let views: Vec<_> = tensors.iter().map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap())).collect();
    safetensors::serialize_to_file(views, None, &to.join("model.safetensors")).unwrap();
    std::fs::copy(case.join("config.json"), to.join("config.json")).unwrap();
}

/// Whatever a damaged layer gives, it is an error or a matrix that can be read whole.
fn survives(folder: &Path) {
    match open(folder) {
        Ok(None) => {}
        Ok(Some((_, matrix))) => {
            let mut row = vec![0f32; matrix.shape().cols()];
            (0..matrix.shape().rows()).for_each(|r| matrix.read(r, 0, &mut row));
        }
        Err(e) => assert!(e.to_string().len() > 20, "{e}"),
    }
}

#[test]
fn damaged_layers_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    for case in cases() {
        let checkpoint = Checkpoint::open(&case).unwrap();
        let names: Vec<String> = checkpoint.names().filter(|n| *n != "expected").map(str::to_owned).collect();
        for name in &names {
            changed(&case, folder.path(), |t| drop(t.remove(name)));
            survives(folder.path());
            for (dtype, size) in [(Dtype::F64, 8), (Dtype::I32, 4), (Dtype::U8, 1)] {
                for dims in [vec![0], vec![3, 5], vec![32, 32]] {
                    let bytes = vec![1u8; dims.iter().product::<usize>() * size];
                    changed(&case, folder.path(), |t| {
                        drop(t.insert(name.clone(), (dtype, dims.clone(), bytes.clone())))
                    });
                    survives(folder.path());
                }
            }
            // The same type with other contents: group numbers and shapes out of range.
            for fill in [0x00, 0x7f, 0x80, 0xff] {
                changed(&case, folder.path(), |t| t.get_mut(name).unwrap().2.fill(fill));
                survives(folder.path());
            }
        }
    }
}

#[test]
fn missing_parts_and_unknown_libraries_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let case = Path::new(ROOT).join("gptq-4");
    changed(&case, folder.path(), |t| drop(t.remove("layer.scales")));
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tensor layer.scales: is missing"), "{error}");

    changed(&case, folder.path(), |_| {});
    let config = folder.path().join("config.json");
    for (from, to, names) in [
        ("\"gptq\"", "\"quip\"", "quantization_config.quant_method"),
        ("\"bits\": 4", "\"bits\": 5", "quantization_config.bits"),
        ("\"group_size\": 32", "\"group_size\": 0", "quantization_config.group_size"),
    ] {
        let text = std::fs::read_to_string(case.join("config.json")).unwrap();
        assert!(text.contains(from));
        std::fs::write(&config, text.replace(from, to)).unwrap();
        let error = open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(names), "{error}");
    }
}
