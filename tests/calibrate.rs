//! `qconv calibrate`: the sums of llama-imatrix, and matrices that are collected while converting.

#![allow(clippy::unwrap_used)] // a test

mod common;

use common::{TestCheckpoint, arg, experts, fails, fixture, ok, tensors};
use qconv::calibrate::{self, Calibration, Wanted};
use qconv::model::Model;
use qconv::ui::Ui;
use qconv_formats::block;
use qconv_formats::gguf::Gguf;
use qconv_formats::imatrix::Imatrix;
use std::path::Path;
use std::sync::Arc;

/// Runs `qconv calibrate` where the text lies, so that it is called as in the fixture.
fn calibrate(model: &Path, text: &str, out: &Path, rest: &[&str]) {
    let args = [&["calibrate", arg(model), "--file", text, "-o", arg(out), "--json"], rest].concat();
    let done = common::qconv(&args).current_dir(fixture("texts")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Largest relative difference of two matrices' sums; their names, counts and keys must be the same.
#[track_caller]
fn difference(got: &Path, want: &Path) -> f32 {
    let (got, want) = (Imatrix::open(got).unwrap(), Imatrix::open(want).unwrap());
    assert_eq!((&got.datasets, got.chunk_count, got.chunk_size), (&want.datasets, want.chunk_count, want.chunk_size));
    assert_eq!(got.entries.keys().collect::<Vec<_>>(), want.entries.keys().collect::<Vec<_>>());
    let mut worst = 0.0f32;
    for (name, want) in &want.entries {
        let got = &got.entries[name];
        assert_eq!(got.counts(), want.counts(), "{name}");
        assert_eq!(got.sums().len(), want.sums().len(), "{name}");
        assert!(got.sums().iter().all(|x| x.is_finite()));
        worst = got.sums().iter().zip(want.sums()).map(|(a, b)| (a - b).abs() / b).fold(worst, f32::max);
    }
    worst
}

#[test]
fn sums_are_those_of_llama_imatrix() {
    let dir = tempfile::tempdir().unwrap();
    for (model, text, ctx, chunks) in
        [("prose-4m", "prose.txt", "128", "32"), ("stories260k", "stories.txt", "256", "16")]
    {
        let out = dir.path().join(format!("{model}.gguf"));
        let (model, want) = (fixture("models").join(model), fixture("imatrix").join(format!("{model}.gguf")));
        // The fixtures are of models in F32. With weights in BF16 activations are rounded, here as in llama.cpp.
        for (exactness, most) in [(&[][..], 1e-2), (&["--exact"], 1e-3)] {
            let args = [&["--ctx", ctx, "--chunks", chunks, "--force"], exactness].concat();
            calibrate(&model, text, &out, &args);
            let off = difference(&out, &want);
            assert!(off < most, "{} {exactness:?}: {off:e}", model.display());
        }
    }
    // A GGUF file gives what its folder gives, with any number of threads.
    let (gguf, again) = (dir.path().join("m.gguf"), dir.path().join("again.gguf"));
    ok(&["convert", arg(&fixture("models/stories260k")), "-o", arg(&gguf), "--type", "f32"]);
    calibrate(&gguf, "stories.txt", &again, &["--ctx", "256", "--chunks", "16", "--exact", "--threads", "1"]);
    assert!(std::fs::read(again).unwrap() == std::fs::read(dir.path().join("stories260k.gguf")).unwrap());
}

#[test]
fn experts_are_counted_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let model = experts(&dir.path().join("m"));
    model.write();
    let out = dir.path().join("x.gguf");
    calibrate(&model.folder, "stories.txt", &out, &["--ctx", "64", "--chunks", "4"]);
    let off = difference(&out, &fixture("imatrix/experts.gguf"));
    assert!(off < 1e-3, "{off:e}");
    let matrix = Imatrix::open(&out).unwrap();
    let counts = matrix.entries["blk.0.ffn_up_exps.weight"].counts();
    assert_eq!((counts.len(), counts.iter().sum::<u64>()), (4, 2 * 4 * 64), "two experts for every token");
    assert_eq!(matrix.entries["blk.0.ffn_gate_inp.weight"].counts(), [4 * 64]);
}

#[test]
fn the_output_matrix_is_processed_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = TestCheckpoint::llama(&dir.path().join("m"));
    c.config["tie_word_embeddings"] = false.into();
    c.add("lm_head.weight", &[512, 64]);
    c.write();
    let (plain, all) = (dir.path().join("plain.gguf"), dir.path().join("all.gguf"));
    calibrate(&c.folder, "stories.txt", &plain, &["--ctx", "32", "--chunks", "2"]);
    calibrate(&c.folder, "stories.txt", &all, &["--ctx", "32", "--chunks", "2", "--process-output"]);
    let (plain, mut all) = (Imatrix::open(plain).unwrap(), Imatrix::open(all).unwrap());
    let output = all.entries.remove("output.weight").unwrap();
    assert_eq!(plain, all);
    assert_eq!((output.counts(), output.sums().len()), (&[64u64][..], 64));
    // Inputs are normalized rows times the norm's weights, which are noise of at most 0.1: their mean square is below 0.01.
    let mean = output.means().iter().sum::<f32>() / 64.0;
    assert!((1e-4..0.01).contains(&mean), "{mean}");

    let tied = fixture("models/stories260k");
    let text = fixture("texts/stories.txt");
    let out = dir.path().join("tied.gguf");
    let args = ["calibrate", arg(&tied), "--file", arg(&text), "--chunks", "1", "--process-output", "-o", arg(&out)];
    fails(&[&args[..], &["--strict"]].concat(), 1, &["--process-output has no effect"]);
}

#[test]
fn calibration_without_a_result_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("models/stories260k"), dir.path().join("x.gguf"));
    let (model, out) = (arg(&model), arg(&out));
    let short = dir.path().join("short.txt");
    std::fs::write(&short, "Once upon a time").unwrap();
    let short = arg(&short);
    fails(&["calibrate", model, "--file", short, "-o", out], 2, &["short.txt", "too few", "512", " --ctx"]);
    fails(&["calibrate", model, "--file", "no/such.txt", "-o", out], 2, &["no/such.txt"]);
    fails(&["calibrate", model, "--file", short, "--ctx", "0", "-o", out], 2, &["--ctx"]);
    fails(&["calibrate", model, "--file", short, "--ctx", "4", "-o", short, "--force"], 2, &["short.txt"]);
    assert_eq!(std::fs::read_to_string(short).unwrap(), "Once upon a time");
    let mut c = TestCheckpoint::llama(&dir.path().join("m"));
    c.tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().1[7] = f32::NAN;
    c.write();
    // The weight that is to blame is named, not the matrix behind it whose inputs it spoiled.
    let damaged = ["blk.0.ffn_up.weight, row 0, column 7", "NaN", "damaged"];
    fails(&["calibrate", arg(&c.folder), "--file", short, "--ctx", "4", "-o", out], 1, &damaged);
    for method in ["awq", "gptq", "rtn"] {
        let args =
            ["convert", arg(&c.folder), "-t", "q8_0", "--calibration", short, "--calibration-ctx", "4", "-o", out];
        fails(&[&args[..], &["--method", method]].concat(), 1, &damaged);
    }
    // Nothing but parts of characters: the vocabulary does not have the language.
    let foreign = dir.path().join("foreign.txt");
    std::fs::write(&foreign, "今天天气很好。".repeat(100)).unwrap();
    fails(&["calibrate", model, "--file", arg(&foreign), "-o", out], 2, &["foreign.txt", "100%", "language"]);
    assert_eq!(common::listing(dir.path()), ["foreign.txt", "m", "short.txt"]);
}

#[test]
fn calibration_and_quantization_in_one_run_give_the_bytes_of_two() {
    let dir = tempfile::tempdir().unwrap();
    let (model, text) = (fixture("models/prose-4m"), fixture("texts/prose.txt"));
    let path = |name: &str| dir.path().join(name);
    let (matrix, two, one, again) = (path("i.gguf"), path("two.gguf"), path("one.gguf"), path("again.gguf"));
    ok(&["calibrate", arg(&model), "--file", arg(&text), "--chunks", "2", "-o", arg(&matrix)]);
    ok(&["convert", arg(&model), "-t", "iq2_xs", "--imatrix", arg(&matrix), "-o", arg(&two)]);
    let calibration = ["--calibration", arg(&text), "--calibration-chunks", "2"];
    let convert = |out: &Path, rest: &[&str]| {
        let args = [&["convert", arg(&model), "-o", arg(out)], rest].concat();
        ok(&args)
    };
    convert(&one, &[&["-t", "iq2_xs"], &calibration[..]].concat());
    let (a, b) = (Gguf::open(&one).unwrap(), Gguf::open(&two).unwrap());
    assert_eq!(tensors(&a), tensors(&b));
    let key = |file: &Gguf, key: &str| file.metadata().get(&format!("quantize.imatrix.{key}")).cloned();
    for name in ["dataset", "entries_count", "chunks_count"] {
        assert!(key(&a, name).is_some());
        assert_eq!(key(&a, name), key(&b, name));
    }
    assert!(key(&a, "file").is_none(), "there is no file");

    // The recipe holds it all, wherever the text lies now; another text is not taken.
    let moved = path("moved.txt");
    std::fs::copy(&text, &moved).unwrap();
    convert(&again, &["--recipe-from", arg(&one), "--calibration", arg(&moved)]);
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&again).unwrap());
    let other = fixture("texts/stories.txt");
    let out = path("x.gguf");
    let args = ["convert", arg(&model), "-o", arg(&out), "--recipe-from", arg(&one)];
    fails(&[&args[..], &["--calibration", arg(&other)]].concat(), 2, &["stories.txt", "importance"]);
    fails(&[&args[..], &["--imatrix", arg(&matrix)]].concat(), 2, &["--imatrix", "without it"]);

    let args = [&["convert", arg(&model), "-o", arg(&out), "-t", "iq2_xs"], &calibration[..]].concat();
    let plan = ok(&[&args[..], &["--dry-run"]].concat());
    assert!(plan.contains("nothing was written"), "{plan}");
    fails(&[&args[..], &["--part", "1/2"]].concat(), 2, &["--part", "qconv calibrate"]);
    fails(&[&args[..], &["--imatrix", arg(&matrix)]].concat(), 2, &["--imatrix"]);
    assert!(!out.exists());
}

/// A text goes through a changed model block by block; where the change is none, the same is seen.
#[test]
fn block_by_block_is_seen_what_a_run_shows() {
    let (text, mut compared) = (fixture("texts/stories.txt"), 0);
    for model in [fixture("models/stories260k"), fixture("models/prose-4m")] {
        let mut model = Model::open(&model, &mut Vec::new()).unwrap();
        let ui = Ui::muted();
        let request = calibrate::Request {
            file: &text,
            ctx: Some(96),
            chunks: Some(5),
            skip: 0,
            parse_special: false,
            from: calibrate::Activations::default(),
            computing: qconv::backend::BackendArgs::default(),
            flags: "--",
        };
        let text = Calibration::read(&model, &request, &ui).unwrap();
        let all = |model: &Model| calibrate::collect(model, &text, false, &ui).unwrap().matrix;
        let whole = all(&model);
        assert!(whole.entries.len() >= 7 * 4);
        let names: Vec<&str> = whole.entries.keys().map(String::as_str).collect();
        // Sums of the two parts of the text, which have every chunk once.
        let wanted = Wanted { names: &names, hessians: false, parts: &|chunk| text.parts(chunk) };
        let mut came = 0;
        calibrate::channel_sums(&model, &text, &wanted, &ui, &mut |name, [search, judge]| {
            let entry = &whole.entries[name];
            let root = entry.means().iter().map(|x| x.sqrt()).collect::<Vec<_>>();
            let largest = search.largest().iter().zip(judge.largest()).map(|(a, b)| a.max(*b));
            assert!(largest.zip(&root).all(|(largest, root)| largest >= *root), "{name}");
            let absolute = search.mean_absolute().into_iter().zip(judge.mean_absolute());
            assert!(absolute.zip(&root).all(|((a, b), root)| (4.0 * a + b) / 5.0 <= root * 1.0001), "{name}");
            came += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(came, names.len());
        // What is changed becomes F32; BF16 is multiplied with rounded activations.
        if model.tensor("blk.1.attn_v.weight").unwrap().format == &block::F32 {
            model.edit_rows("blk.1.attn_v.weight", Arc::new(|_: &mut [f32]| ())).unwrap();
            assert!(all(&model) == whole);
            compared += 1;
        }
    }
    assert_eq!(compared, 1);
}
