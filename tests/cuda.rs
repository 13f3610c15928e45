//! The tool on the CUDA backend: through the stand-in for the driver that runs the kernels on the CPU, found on
//! `LD_LIBRARY_PATH` as a driver would be. Where there is no C++ compiler, a line on standard error says that nothing was tested.

#![allow(clippy::unwrap_used)] // a test

mod common;

use common::{arg, experts, fixture};
use qconv_formats::imatrix::Imatrix;
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;
use std::process::{Command, Output};

/// The binary with a stand-in driver. `None`: no compiler.
fn qconv(args: &[&str], environment: &[(&str, &str)]) -> Option<Output> {
    let folder = qconv_stand_in::folder()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_qconv"));
    command.args(args).env("LD_LIBRARY_PATH", folder).envs(environment.iter().copied());
    Some(command.output().unwrap())
}

/// Standard output of a run that must succeed, and what it told.
fn ok(args: &[&str], environment: &[(&str, &str)]) -> Option<(String, String)> {
    let out = qconv(args, environment)?;
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{args:?} failed:\n{told}");
    Some((String::from_utf8(out.stdout).unwrap(), told))
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn every_family_gives_the_logits_of_transformers() {
    // Of the largest logit. The cache keeps keys and values in half precision, and for prompts activations are rounded to the
    // type of the weights, which is BF16 in these fixtures: 2^-9 relative.
    const ALLOWED: f32 = 1e-2;
    let scratch = tempfile::tempdir().unwrap();
    let mut folders: Vec<_> = std::fs::read_dir(fixture("architectures"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir())
        .collect();
    folders.sort();
    assert!(folders.len() >= 5, "the fixtures are not there");
    // Machine code of other devices, with what they have not (Turing: tensor cores for BF16), and PTX; memory without pools.
    let everywhere = ["7.5", "8.6", "12.0"].map(|kind| (&folders[0], ("QCONV_STAND_IN_CAPABILITY", kind)));
    let all = folders.iter().map(|folder| (folder, ("QCONV_STAND_IN_CAPABILITY", "9.0"))).chain(everywhere);
    for (folder, kind) in all.chain([(&folders[0], ("QCONV_STAND_IN_POOLS", "0"))]) {
        let expected: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let (ids, out) = (scratch.path().join("ids.json"), scratch.path().join("out.f32"));
        std::fs::write(&ids, expected["tokens"].to_string()).unwrap();
        let args = ["run", arg(folder), "--tokens", arg(&ids), "--logits", arg(&out), "--backend", "cuda"];
        if ok(&args, &[kind]).is_none() {
            return;
        }
        let (got, want) = (floats(&out), floats(&folder.join("expected_logits.f32")));
        assert_eq!(got.len(), want.len());
        let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        // A difference that is NaN is not allowed either.
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d <= m { m } else { d });
        assert!(worst <= ALLOWED * largest, "{} on {kind:?}: {worst} of {largest}", folder.display());
    }
}

/// A checkpoint of 16-bit floats, in f32.
fn widened(folder: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::copy(folder.join("config.json"), to.join("config.json")).unwrap();
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let wide: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), Dtype::BF16, "{name}");
            let floats = view.data().chunks_exact(2).flat_map(|b| [0, 0, b[0], b[1]]).collect();
            (name.to_owned(), view.shape().to_vec(), floats)
        })
        .collect();
    let views = wide.iter().map(|(n, shape, b)| (n, TensorView::new(Dtype::F32, shape.clone(), b).unwrap()));
    std::fs::write(to.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Rotary scalings, windows, caps, biases, experts: with weights in f32, so that nothing but the cache is rounded.
#[test]
fn unusual_configurations_give_the_logits_of_transformers() {
    // Of the largest logit: keys and values have 11 bits.
    const ALLOWED: f32 = 3e-3;
    let scratch = tempfile::tempdir().unwrap();
    let entries = std::fs::read_dir(fixture("configurations")).unwrap().map(|e| e.unwrap().path());
    let folders: Vec<_> = entries.filter(|p| p.is_dir()).collect();
    assert!(folders.len() >= 13, "the fixtures are not there");
    for folder in folders {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let json = |file: &str| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap()
        };
        let (model, ids, out) = (scratch.path().join(name), scratch.path().join("ids"), scratch.path().join("out"));
        widened(&folder, &model);
        let tokens = json("expected.json")["tokens"].clone();
        std::fs::write(&ids, tokens.to_string()).unwrap();
        // All tokens together, and one by one as when generating: there a graph is replayed, and the card picks experts.
        for batch in ["512", "1"] {
            if ok(
                &["run", arg(&model), "--tokens", arg(&ids), "--logits", arg(&out), "--backend", "cuda", "-b", batch],
                &[],
            )
            .is_none()
            {
                return;
            }
            let (got, want) = (floats(&out), floats(&folder.join("expected_logits.f32")));
            assert_eq!(got.len(), want.len());
            let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let (rows, columns) = (tokens.as_array().unwrap().len(), want.len() / tokens.as_array().unwrap().len());
            let is_off = |row: &usize| {
                let at = row * columns..(row + 1) * columns;
                !got[at.clone()].iter().zip(&want[at]).all(|(a, b)| (a - b).abs() <= ALLOWED * largest)
            };
            let off: Vec<usize> = (0..rows).filter(is_off).collect();
            // A router that prefers an expert by less than that decides otherwise, for one token here.
            let config = json("config.json");
            let experts = ["num_local_experts", "num_experts"].iter().any(|key| config.get(key).is_some());
            assert!(off.len() <= usize::from(experts), "{name}, batches of {batch}: rows {off:?}");
        }
    }
}

#[test]
fn greedy_text_is_the_processors() {
    let run = |model: &Path, backend: &str, environment: &[(&str, &str)]| {
        let args =
            ["run", arg(model), "-p", "Once upon a time", "-n", "24", "--temp", "0", "--json", "--backend", backend];
        ok(&args, environment).map(|(json, _)| json)
    };
    let text = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap()["text"].clone();
    // Learned positions instead of rotated ones; random weights.
    let gpt2 = fixture("architectures/gpt2");
    let Some(cuda) = run(&gpt2, "cuda", &[]) else { return };
    assert_eq!(text(&cuda), text(&run(&gpt2, "cpu", &[]).unwrap()));
    let model = fixture("models/stories260k");
    let (cuda, cpu) = (run(&model, "cuda", &[]).unwrap(), run(&model, "cpu", &[]).unwrap());
    assert_eq!(text(&cuda), text(&cpu));
    assert!(text(&cpu).as_str().unwrap().len() > 40);
    // A driver that brings kernels to the device only with the first launch, so that one that is recorded may fail.
    let older = run(&model, "cuda", &[("QCONV_STAND_IN_DRIVER", "12020")]).unwrap();
    assert_eq!(text(&older), text(&cpu));
    // The prompt's time is the device's, not the time that it takes to ask for it: the first token takes not much longer.
    let number = |key: &str| serde_json::from_str::<serde_json::Value>(&cuda).unwrap()[key].as_f64().unwrap();
    let prompt = number("prompt_tokens") / number("prompt_tokens_per_second");
    assert!(prompt > number("time_to_first_token_seconds") / 4.0, "{cuda}");
}

#[test]
fn a_model_that_is_split_gives_the_same_text() {
    let model = fixture("models/stories260k");
    let args = ["run", arg(&model), "-p", "Once upon a time", "-n", "24", "--temp", "0", "--json"];
    let run = |more: &[&str], memory: &str| ok(&[&args[..], more].concat(), &[("QCONV_STAND_IN_MEMORY", memory)]);
    const PLENTY: &str = "1000000000";
    let Some((cpu, _)) = run(&["--backend", "cpu"], PLENTY) else { return };
    let field = |json: &str, key: &str| serde_json::from_str::<serde_json::Value>(json).unwrap()[key].clone();
    for n in 0..=6 {
        let (split, told) = run(&["--backend", "cuda", "--gpu-layers", &n.to_string()], PLENTY).unwrap();
        assert_eq!(field(&split, "text"), field(&cpu, "text"), "{n} layers on the card");
        let backend = field(&split, "backend").as_str().unwrap().to_owned();
        assert_eq!(backend.starts_with("cpu"), n < 6, "{backend}");
        assert_eq!(backend.contains("cuda"), n > 0, "{backend}");
        if (1..=5).contains(&n) {
            assert!(told.contains(&format!("the last {n} of 5 layers")), "{told}");
            assert!(told.contains(&format!("the first {} layers, embeddings and output", 5 - n)), "{told}");
        }
    }
    // A prompt's time is that of both sides: the card, which has not computed when the processor has asked for it, is waited for.
    let (told, _) = run(&["--backend", "cuda", "--gpu-layers", "4"], PLENTY).unwrap();
    let number = |key: &str| field(&told, key).as_f64().unwrap();
    let prompt = number("prompt_tokens") / number("prompt_tokens_per_second");
    assert!(prompt > number("time_to_first_token_seconds") / 4.0, "{told}");
    // What does not fit as a whole says how much of it would, and then it does.
    let out = qconv(&[&args[..], &["--backend", "cuda"]].concat(), &[("QCONV_STAND_IN_MEMORY", "900000")]).unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    let layers =
        told.split("--gpu-layers ").nth(1).and_then(|t| t.split(' ').next()).unwrap_or_else(|| panic!("{told}"));
    let out = qconv(
        &[&args[..], &["--backend", "cuda", "--gpu-layers", "5"]].concat(),
        &[("QCONV_STAND_IN_MEMORY", "500000")],
    );
    let told = String::from_utf8_lossy(&out.as_ref().unwrap().stderr);
    assert!(out.as_ref().unwrap().status.code() == Some(2) && told.contains("the weights of 5 layers take"), "{told}");
    let (split, _) = run(&["--backend", "cuda", "--gpu-layers", layers], PLENTY).unwrap();
    assert_eq!(field(&split, "text"), field(&cpu, "text"));
    let out = qconv(&[&args[..], &["--backend", "cpu", "--gpu-layers", "2"]].concat(), &[]).unwrap();
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Kernels and graphs that a run has launched, and copies to the host; kernels within graphs do not count.
fn counts(told: &str) -> [usize; 3] {
    let (_, counts) = told.split_once("stand-in libcuda: launched ").unwrap_or_else(|| panic!("no counts: {told}"));
    let mut numbers = counts.split_whitespace().filter_map(|word| word.parse().ok());
    [(); 3].map(|()| numbers.next().unwrap())
}

/// Kernels and graphs alone.
fn launches(told: &str) -> (usize, usize) {
    let [kernels, graphs, _] = counts(told);
    (kernels, graphs)
}

/// A prompt's experts are picked on the card: nothing comes back to the host but the logits, or what a split model's last layer gives.
#[test]
fn a_mixtures_prompt_stays_on_the_card() {
    // Of the largest logit. Activations are rounded to the weights' BF16 (2^-9) for every product.
    const ALLOWED: f32 = 2e-2;
    let scratch = tempfile::tempdir().unwrap();
    let (ids, out) = (scratch.path().join("ids"), scratch.path().join("out"));
    for name in ["mixtral-defaults", "qwen3moe-window"] {
        let folder = fixture("configurations").join(name);
        let expected: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        std::fs::write(&ids, expected["tokens"].to_string()).unwrap();
        let rows = expected["tokens"].as_array().unwrap().len();
        let want = floats(&folder.join("expected_logits.f32"));
        let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        // In tiles, in several batches, the last layer alone. Turing's tensor cores know no BF16: there the host picks, in both layers.
        for (more, kind, copies) in [
            (&["-b", "512"][..], "9.0", 1),
            (&["-b", "7"], "9.0", rows.div_ceil(7)),
            (&["-b", "512"], "7.5", 1 + 2),
            (&["-b", "512", "--gpu-layers", "1"], "9.0", 1),
        ] {
            let model = ["run", arg(&folder), "--tokens", arg(&ids), "--logits", arg(&out), "--backend", "cuda"];
            let environment = [("QCONV_STAND_IN_COUNTS", "1"), ("QCONV_STAND_IN_CAPABILITY", kind)];
            let Some((_, told)) = ok(&[&model[..], more].concat(), &environment) else { return };
            assert_eq!(counts(&told)[2], copies, "{name} {more:?} on {kind}: {told}");
            let (got, columns) = (floats(&out), want.len() / rows);
            let is_off = |row: &usize| {
                let at = row * columns..(row + 1) * columns;
                !got[at.clone()].iter().zip(&want[at]).all(|(a, b)| (a - b).abs() <= ALLOWED * largest)
            };
            // A router that prefers an expert by less than that decides otherwise.
            let off = (0..rows).filter(is_off).count();
            assert!(off <= 1, "{name} {more:?} on {kind}: {off} of {rows} rows");
        }
    }
}

/// The layers on the card are one graph a token, whatever the family, and no bit of any logit differs from those of the same kernels
/// launched one by one.
#[test]
fn a_token_of_a_split_model_is_a_graph() {
    let scratch = tempfile::tempdir().unwrap();
    let (ids, out) = (scratch.path().join("ids"), scratch.path().join("out"));
    const TOKENS: usize = 5;
    std::fs::write(&ids, serde_json::to_string(&[3, 1, 4, 1, 5][..TOKENS]).unwrap()).unwrap();
    let list = |of: &str| std::fs::read_dir(fixture(of)).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir());
    let folders: Vec<_> = list("architectures").chain(list("configurations")).collect();
    assert!(folders.len() >= 20, "the fixtures are not there");
    for folder in folders {
        let run = |graphs| {
            let model = ["run", arg(&folder), "--tokens", arg(&ids), "--logits", arg(&out), "-b", "1"];
            let args = [&model[..], &["--backend", "cuda", "--gpu-layers", "1"]].concat();
            let (_, told) = ok(&args, &[("QCONV_STAND_IN_COUNTS", "1"), ("QCONV_CUDA_GRAPHS", graphs)])?;
            Some((launches(&told), std::fs::read(&out).unwrap()))
        };
        let Some(((plain, none), want)) = run("0") else { return };
        let ((kernels, graphs), got) = run("1").unwrap();
        // The first token runs plainly; behind every token's layers its row is taken for the output.
        assert_eq!((none, graphs), (0, TOKENS - 1), "{}", folder.display());
        let of_a_token = (plain - TOKENS) / TOKENS;
        assert_eq!(kernels, of_a_token + TOKENS, "{}: {plain} launched one by one", folder.display());
        assert!(got == want, "{}: logits differ", folder.display());
    }
}

#[test]
fn perplexity_is_the_processors_within_half_a_percent() {
    let (scratch, model) = (tempfile::tempdir().unwrap(), fixture("models/stories260k"));
    let file = scratch.path().join("model.gguf");
    for mix in ["q8_0", "q4_0"] {
        let convert = ["convert", arg(&model), "-t", mix, "-o", arg(&file), "--force"];
        if ok(&convert, &[]).is_none() {
            return;
        }
        let text = fixture("texts/prose.txt");
        let perplexity = |backend, more: &[&str]| {
            let text = ["--file", arg(&text), "-c", "64", "--chunks", "3", "--json", "--backend", backend];
            // AMX would round to brain floats, and not to 8 bits as cards and other processors do.
            let environment = [("QCONV_ISA", "avx512vbmi")];
            let (json, told) = ok(&[&["perplexity", arg(&file)], &text[..], more].concat(), &environment).unwrap();
            // Neither computes one window after the other.
            assert!(told.contains("windows at a time"), "{told}");
            serde_json::from_str::<serde_json::Value>(&json).unwrap()["perplexity"].as_f64().unwrap()
        };
        let (cuda, cpu) = (perplexity("cuda", &[]), perplexity("cpu", &[]));
        assert!((cuda / cpu - 1.0).abs() < 0.005, "{mix}: {cuda} on CUDA, {cpu} on the processor");
        // Wherever activations are rounded otherwise this model's perplexity changes; with none rounded it is 0.9% lower.
        let split = perplexity("cuda", &["--gpu-layers", "2"]);
        assert!((split / cpu - 1.0).abs() < 0.01, "{mix}: {split} on both, {cpu} on the processor");
    }
}

#[test]
fn other_constants_are_named_and_checked() {
    let model = fixture("models/stories260k");
    let args = ["run", arg(&model), "-p", "Once", "-n", "8", "--temp", "0", "--json", "--backend", "cuda"];
    let Some((plain, _)) = ok(&args, &[]) else { return };
    let (tuned, _) = ok(&args, &[("QCONV_CUDA_WARPS", "1")]).unwrap();
    let field = |json: &str, key: &str| serde_json::from_str::<serde_json::Value>(json).unwrap()[key].clone();
    assert_eq!(field(&tuned, "text"), field(&plain, "text"));
    assert!(field(&tuned, "backend").as_str().unwrap().ends_with("; QCONV_CUDA_WARPS=1)"), "{tuned}");
    // A folder without images leaves the embedded ones.
    let (empty, damaged) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (same, _) = ok(&args, &[("QCONV_CUDA_IMAGES", arg(empty.path()))]).unwrap();
    assert_eq!(field(&same, "text"), field(&plain, "text"));
    std::fs::write(damaged.path().join("matvec.zlib"), b"no images").unwrap();
    for (variable, value, said) in [
        ("QCONV_CUDA_WARPS", "many", "QCONV_CUDA_WARPS=many"),
        ("QCONV_CUDA_IMAGES", "no/such/folder", "no/such/folder"),
        ("QCONV_CUDA_IMAGES", arg(damaged.path()), "the compiled kernels of matvec are damaged"),
    ] {
        let out = qconv(&args, &[(variable, value)]).unwrap();
        let told = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && told.contains(said), "{told}");
        assert!(variable != "QCONV_CUDA_WARPS" || out.status.code() == Some(2), "the caller's fault: {:?}", out.status);
    }
}

/// Whoever watches sees the inputs of every expert, which the host picks then.
#[test]
fn calibration_of_a_mixture_is_the_processors() {
    let scratch = tempfile::tempdir().unwrap();
    let model = experts(&scratch.path().join("m"));
    model.write();
    let text = fixture("texts/prose.txt");
    let counts = |backend: &str| {
        let out = scratch.path().join(format!("{backend}.gguf"));
        let args =
            ["calibrate", arg(&model.folder), "--file", arg(&text), "-o", arg(&out), "-c", "32", "--chunks", "2"];
        ok(&[&args[..], &["--backend", backend]].concat(), &[])?;
        let matrix = Imatrix::open(&out).unwrap();
        let [up, router] =
            ["ffn_up_exps", "ffn_gate_inp"].map(|of| matrix.entries[&format!("blk.0.{of}.weight")].counts());
        Some((up.iter().sum::<u64>(), router.to_vec()))
    };
    let Some(cuda) = counts("cuda") else { return };
    assert_eq!(cuda, (2 * 64, vec![64]));
    assert_eq!(cuda, counts("cpu").unwrap());
}

/// A grid has at most 65535 blocks along two of its dimensions: larger batches are computed in parts of so many tokens.
#[test]
fn a_batch_is_no_larger_than_a_grid() {
    let model = fixture("models/stories260k");
    let scratch = |backend: &str, batch: &str| {
        let args = ["run", arg(&model), "-p", "Once", "-n", "1", "-c", "70000", "-b", batch, "--backend", backend];
        let (_, told) = ok(&args, &[])?;
        let line = told.lines().find(|line| line.contains(" scratch = ")).unwrap_or_else(|| panic!("{told}"));
        Some(line.split(" + ").nth(2).unwrap().split(" = ").next().unwrap().to_owned())
    };
    let Some(most) = scratch("cuda", "65535") else { return };
    assert_eq!(scratch("cuda", "70000").unwrap(), most);
    assert_ne!(scratch("cpu", "70000"), scratch("cpu", "65535"));
}

#[test]
fn bench_and_calibrate_run() {
    let (scratch, model) = (tempfile::tempdir().unwrap(), fixture("models/stories260k"));
    let bench = ["bench", arg(&model), "-p", "8", "-n", "4", "-r", "1", "--json", "--backend", "cuda"];
    let Some((json, _)) = ok(&bench, &[]) else { return };
    let records: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(records[0]["backend"].as_str().unwrap().starts_with("cuda (stand-in on the CPU"), "{json}");
    assert_eq!(records[0]["stand_in"], true);
    assert!(records[0]["read_bandwidth"].as_f64().unwrap() > 0.1, "{json}");
    for test in records[0]["tests"].as_array().unwrap() {
        assert!(test["tokens_per_second"].as_f64().unwrap() > 0.0, "{json}");
        let generation = test["test"] == "tg4";
        assert_eq!(test["bandwidth_share"].as_f64().is_some_and(|s| s > 0.0), generation, "{json}");
    }
    // Sequences side by side: a graph for a token of all, four to warm up and six that are timed; the first is plain.
    let several =
        ["bench", arg(&model), "-p", "0", "-n", "6", "--parallel", "3", "-r", "1", "--json", "--backend", "cuda"];
    let (_, told) = ok(&several, &[("QCONV_STAND_IN_COUNTS", "1")]).unwrap();
    assert_eq!(launches(&told).1, 4 + 6 - 1, "{told}");
    // What the stand-in's management library tells, and that it tells nothing.
    let card = &records[0]["card"];
    assert!(card["peak_memory_bytes"].as_u64().unwrap() > 1_000_000, "the weights: {json}");
    assert_eq!((card["peak_watts"].as_f64(), card["busy"].as_f64()), (Some(12.345), Some(0.5)), "{json}");
    let run = ["run", arg(&model), "-p", "x", "-n", "2", "--backend", "cuda"];
    for (nvml, said) in [("1", "12 W on average, 12 W at most, busy 50%"), ("0", "not available: libnvidia-ml.so.1")] {
        let (_, told) = ok(&run, &[("QCONV_STAND_IN_NVML", nvml)]).unwrap();
        assert!(told.contains(said), "{told}");
    }
    let (table, told) = ok(&[&bench[..6], &["-r", "1", "--kernels", "--backend", "cuda"]].concat(), &[]).unwrap();
    assert!(table.contains("norm_rms") && table.contains("argmax") && table.contains("launches"), "{table}");
    assert!(told.contains("times of the stand-in"), "{told}");
    let text = fixture("texts/prose.txt");
    let matrix = |backend| {
        let out = scratch.path().join(format!("{backend}.gguf"));
        let args = [
            "calibrate",
            arg(&model),
            "--file",
            arg(&text),
            "-o",
            arg(&out),
            "-c",
            "32",
            "--chunks",
            "2",
            "--backend",
            backend,
        ];
        ok(&args, &[]).unwrap();
        std::fs::metadata(out).unwrap().len()
    };
    assert_eq!(matrix("cuda"), matrix("cpu"));
}

#[test]
fn devices_that_cannot_be_used_are_refused_in_a_sentence_and_auto_takes_the_processor() {
    let model = fixture("models/stories260k");
    let args = |backend| ["run", arg(&model), "-p", "x", "-n", "1", "--backend", backend];
    for (name, value, why) in [
        ("QCONV_STAND_IN_DEVICES", "0", "finds no device"),
        ("QCONV_STAND_IN_INIT", "34", "the stub of a CUDA toolkit"),
        ("QCONV_STAND_IN_INIT", "802", "CUDA_ERROR_SYSTEM_NOT_READY"),
        ("QCONV_STAND_IN_INIT", "999", "starting: error 999"),
        ("QCONV_STAND_IN_DRIVER", "11080", "knows CUDA 11.8; version 12.0 (driver 525) or newer is needed"),
        ("QCONV_STAND_IN_CAPABILITY", "7.0", "7.5 (Turing) or newer is needed"),
        ("QCONV_STAND_IN_MEMORY", "1000000", "the weights take"),
    ] {
        let Some(out) = qconv(&args("cuda"), &[(name, value)]) else { return };
        let told = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{told}");
        assert!(told.contains(why) && !told.contains("panicked"), "{told}");
        let (_, told) = ok(&args("auto"), &[(name, value)]).unwrap();
        assert!(told.contains("computing on the CPU") && told.contains(why), "{told}");
        let quiet = [&["-q"], &args("auto")[..]].concat();
        assert_eq!(ok(&quiet, &[(name, value)]).unwrap().1, "");
    }
    // The weights fit, the cache does not: the memory is gone only then.
    let out =
        qconv(&[&args("cuda")[..], &["--ctx", "100000"]].concat(), &[("QCONV_STAND_IN_MEMORY", "20000000")]).unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{told}");
    assert!(told.contains("CUDA memory") && told.contains("--ctx") && !told.contains("panicked"), "{told}");
    let (_, told) = ok(&args("auto"), &[]).unwrap();
    assert!(told.contains("cuda (stand-in on the CPU") && !told.contains("computing on the CPU:"), "{told}");
    let out = qconv(&[&args("cuda")[..], &["--kv", "f32"]].concat(), &[]).unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("--kv f32 is not for --backend cuda"));
}
