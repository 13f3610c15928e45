//! Positive controls of the methods: where few channels of the activations are far larger than the others, each gains what it is
//! made for. The fixture models have no such channels, so that they are planted, without a change of what the model computes.
#![allow(clippy::unwrap_used)] // tests may panic

mod common;
#[path = "common/plant.rs"]
mod plant;

use common::{arg, fixture, ok};
use qconv::model::Model;
use qconv_formats::block::BlockFormat;
use qconv_formats::gguf::Gguf;
use std::path::{Path, PathBuf};

/// A model with outliers, the one it was made from, and two parts of one text.
struct Case {
    folder: tempfile::TempDir,
    planted: PathBuf,
    plain: PathBuf,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (plain, planted) = (fixture("models/prose-4m"), folder.path().join("planted"));
        plant::outliers(&plain, &planted, 64.0, 4).unwrap();
        let all = std::fs::read_to_string(fixture("texts/prose.txt")).unwrap();
        std::fs::write(folder.path().join("calibration.txt"), &all[..all.len() / 3]).unwrap();
        std::fs::write(folder.path().join("text.txt"), &all[all.len() * 3 / 4..]).unwrap();
        Case { folder, planted, plain }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Converts, with the text or without.
    fn convert(&self, model: &Path, kind: &str, method: &str, with_text: bool) -> PathBuf {
        let (file, text) = (self.path(&format!("{method}.gguf")), self.path("calibration.txt"));
        let args = ["convert", arg(model), "-t", kind, "--method", method, "-q", "-f", "-o", arg(&file)];
        let calibration = ["--calibration", arg(&text), "--calibration-ctx=128", "--calibration-chunks=24"];
        ok(&[&args[..], if with_text { &calibration } else { &[] }].concat());
        file
    }

    /// From the original on another text, with activations rounded like this; the original's are not.
    fn divergence(&self, file: &Path, activations: &str) -> f64 {
        let text = self.path("text.txt");
        let args = ["perplexity", arg(file), "--against", arg(&self.plain), "--file", arg(&text), "-c", "128"];
        let out = ok(&[&args[..], &["--chunks", "12", "--json", "-q", "--activations", activations]].concat());
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["kl_divergence"].as_f64().unwrap()
    }
}

/// Without this, all others would show nothing. Planting harms only what rounds.
#[test]
fn planted_outliers_change_nothing_but_what_rounding_costs() {
    let case = Case::new();
    assert_eq!(case.divergence(&case.planted, "exact"), 0.0);
    let (plain, planted) = (case.divergence(&case.plain, "int8-token"), case.divergence(&case.planted, "int8-token"));
    assert!(planted > 30.0 * plain.max(1e-4), "{planted}, and {plain} without outliers");
}

/// What it was made for: 8-bit weights and 8-bit activations with one scale for many. It gives back all that outliers cost,
/// and costs nothing where there are none.
#[test]
fn smoothquant_saves_8_bit_weights_and_activations() {
    let case = Case::new();
    let kinds = ["int8-block", "int8-token", "int8-tensor"];
    let of = |model: &Path, method: &str| {
        let file = case.convert(model, "q8_0", method, true);
        kinds.map(|kind| case.divergence(&file, kind))
    };
    let (without, rounded) = (of(&case.plain, "rtn"), of(&case.planted, "rtn"));
    let (smoothed, needless) = (of(&case.planted, "smoothquant"), of(&case.plain, "smoothquant"));
    for (i, kind) in kinds.iter().enumerate() {
        assert!(smoothed[i] < 0.1 * rounded[i], "{kind}: {} where rounding has {}", smoothed[i], rounded[i]);
        assert!(smoothed[i] < 1.3 * without[i], "{kind}: {} where {} is without outliers", smoothed[i], without[i]);
        assert!(needless[i] < 1.3 * without[i], "{kind}: {} where nothing was to do, {}", needless[i], without[i]);
    }
}

/// Columns of small weights that see large activations are lost beside others in a block of one scale; scaled or rotated they are
/// not. With importance rounding knows of them, and still has no codes for them.
#[test]
fn awq_and_quarot_save_4_bit_weights() {
    let case = Case::new();
    let of = |method: &str, with_text: bool| {
        let file = case.convert(&case.planted, "q4_0", method, with_text);
        case.divergence(&file, "exact")
    };
    let (plain, weighed) = (of("rtn", false), of("rtn", true));
    for method in ["awq", "quarot", "smoothquant"] {
        let ours = of(method, true);
        assert!(ours < 0.5 * weighed, "{method}: {ours}, rounding with importance {weighed}");
    }
    let ours = of("quarot", false);
    assert!(ours < 0.5 * plain, "quarot without a text: {ours}, rounding {plain}");
}

/// Where nothing stands out, awq changes little and quarot says that it is out of place: loudly, and not at all under `--strict`.
#[test]
fn without_outliers_awq_does_no_harm_and_quarot_warns() {
    let case = Case::new();
    for kind in ["q2_k", "iq4_xs"] {
        let [rounded, ours] = ["rtn", "awq"].map(|method| {
            let file = case.convert(&case.plain, kind, method, true);
            case.divergence(&file, "exact")
        });
        assert!(ours < 1.02 * rounded, "{kind}: {ours}, rounding {rounded}");
    }
    let said = |model: &Path, method: &str, rest: &[&str]| {
        let args = ["convert", arg(model), "-t", "q4_0", "--method", method, "--dry-run"];
        let out = common::run(&[&args[..], rest].concat());
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, warned) = said(&case.plain, "quarot", &[]);
    assert!(code == Some(0) && warned.contains("warning: quarot: rounding loses 0.73"), "{warned}");
    assert_eq!(said(&case.plain, "quarot", &["--strict"]).0, Some(1));
    // Where there are some, or where the quantizer goes by the Hessian, the same is no warning.
    for (model, method) in [(&case.planted, "quarot"), (&case.plain, "quarot+gptq")] {
        let (code, told) = said(model, method, &["--strict", "--calibration", arg(&case.path("calibration.txt"))]);
        assert!(code == Some(0) && told.contains("quarot: rounding loses 0.73"), "{method}: {told}");
    }
}

/// What a rotation costs is importance, too: without a text stories260k looks as if it rounded better rotated; with one the warning
/// comes, and it is right.
#[test]
fn quarot_judges_by_the_importance_that_a_run_has() {
    let case = Case::new();
    let (model, text) = (common::fixture("models/stories260k"), common::fixture("texts/stories.txt"));
    let all = std::fs::read_to_string(text).unwrap();
    let at = all[..12_000].rfind(". ").unwrap();
    let (calibration, rest) = (case.path("seen.txt"), case.path("rest.txt"));
    std::fs::write(&calibration, &all[..at]).unwrap();
    std::fs::write(&rest, &all[at..]).unwrap();
    let convert = |method: &str, with: &[&str]| {
        let file = case.path(&format!("{method}.gguf"));
        let args = ["convert", arg(&model), "-t", "q4_0", "--method", method, "-o", arg(&file), "-f"];
        let done = common::run(&[&args[..], with].concat());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{said}");
        let args = ["perplexity", arg(&file), "--against", arg(&model), "--file", arg(&rest), "-c", "128", "--json"];
        let json: serde_json::Value = serde_json::from_str(&common::ok(&args)).unwrap();
        (said, json["kl_divergence"].as_f64().unwrap())
    };
    let (told, _) = convert("quarot", &[]);
    assert!(told.contains("quarot: rounding loses") && !told.contains("warning: quarot"), "{told}");
    let seen = ["--calibration", arg(&calibration), "--calibration-ctx", "128"];
    let ((warned, rotated), (_, plain)) = (convert("quarot", &seen), convert("rtn", &seen));
    assert!(warned.contains("warning: quarot: rounding loses") && warned.contains("weighed by the text"), "{warned}");
    assert!(rotated > plain, "{rotated}, rounding {plain}");
}

/// Rotation undoes all that norms do: with outliers or without, the same weights come out.
#[test]
fn quarot_does_not_see_the_outliers_of_norms() {
    let case = Case::new();
    let tensors = |model: &Path| {
        let file = Gguf::open(case.convert(model, "q4_0", "quarot", false)).unwrap();
        common::tensors(&file)
    };
    assert_eq!(tensors(&case.plain), tensors(&case.planted));
}

/// Without data nothing can tell that a column matters: hqq does what it promises, a smaller sum of its own norm over all weights,
/// and, with importance or without, no harm.
#[test]
fn hqq_keeps_its_promise_and_no_more() {
    let case = Case::new();
    let model = Model::open(&case.planted, &mut Vec::new()).unwrap();
    for (kind, with_text) in [("q4_0", false), ("q4_1", false), ("q3_k_s", false), ("q3_k_s", true)] {
        let [rounded, fitted] = ["rtn", "hqq"].map(|method| {
            let file = case.convert(&case.planted, kind, method, with_text);
            (norm(&model, &Gguf::open(&file).unwrap()), case.divergence(&file, "exact"))
        });
        assert!(with_text || fitted.0 < rounded.0, "{kind}: {} after {}", fitted.0, rounded.0);
        assert!(fitted.1 < 1.02 * rounded.1, "{kind}: divergence {} after {}", fitted.1, rounded.1);
    }
}

/// The sum of `|e|^(3/4)` over the errors of all weights: hqq's norm.
fn norm(model: &Model, file: &Gguf) -> f64 {
    let mut sum = 0.0;
    for tensor in model.tensors().iter().filter(|t| t.shape.dims().len() == 2) {
        let packed = file.tensor(&tensor.name).unwrap();
        let format: &BlockFormat = packed.format;
        let (cols, row_bytes) = (tensor.shape.cols(), format.row_bytes(tensor.shape.cols()).unwrap());
        let (mut row, mut back) = (vec![0f32; cols], vec![0f32; cols]);
        for (r, bytes) in file.bytes(packed).chunks_exact(row_bytes).enumerate() {
            model.rows(tensor, r, &mut row).unwrap();
            (format.dequantize.unwrap())(bytes, &mut back);
            sum += row.iter().zip(&back).map(|(w, x)| f64::from((w - x).abs()).powf(0.75)).sum::<f64>();
        }
    }
    sum
}
