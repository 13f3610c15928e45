//! `convert --target-size`, `--target-bpw`, `--target-kld`: the best formats within a budget.

mod common;

use common::{arg, fails, fixture, listing, ok};
use std::path::Path;

fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&ok(args)).expect("--json prints JSON")
}

/// The divergence of a file from its source on another text than the one it was calibrated on.
fn divergence(file: &Path, source: &Path) -> f64 {
    let text = fixture("texts/prose.txt");
    let args = ["perplexity", arg(file), "--against", arg(source), "--file", arg(&text), "-c", "128", "--chunks", "24"];
    json(&[&args[..], &["--json"]].concat())["kl_divergence"].as_f64().expect("there is an original")
}

#[test]
fn files_have_the_size_that_was_promised_and_are_better_than_a_type_of_that_size() {
    let (model, folder) = (fixture("models/prose-4m"), tempfile::tempdir().unwrap());
    let text = folder.path().join("calibration.txt");
    let all = std::fs::read_to_string(fixture("texts/prose.txt")).unwrap();
    // Behind the windows on which the divergence is measured.
    std::fs::write(&text, &all[all.len() * 2 / 3..]).unwrap();
    let calibration = ["--calibration", arg(&text), "--calibration-ctx", "128"];
    let plain = folder.path().join("plain.gguf");
    let first =
        [&["convert", arg(&model), "-o", arg(&plain), "-t", "q3_k_m", "--json", "-q"], &calibration[..]].concat();
    let bytes = json(&first)["bytes"].as_u64().unwrap().to_string();

    let file = folder.path().join("budget.gguf");
    let candidates = "q2_k,q3_k,q4_k,q5_k,q6_k,iq4_xs,iq3_s";
    let budget = ["--target-size", &bytes, "--measure", "--measure-chunks", "3", "--candidates", candidates];
    let args = [&["convert", arg(&model), "--json", "-q"], &calibration[..], &budget[..]].concat();
    let planned = json(&[&args[..], &["--dry-run"]].concat());
    assert_eq!(listing(folder.path()), ["calibration.txt", "plain.gguf"], "a plan writes nothing");
    let done = json(&[&args[..], &["-o", arg(&file)]].concat());
    let size = std::fs::metadata(&file).unwrap().len();
    assert_eq!(done["bytes"], size);
    assert_eq!(done["allocation"]["bytes"], size, "predicted and written");
    assert_eq!(planned["allocation"], done["allocation"]);
    let most: u64 = bytes.parse().unwrap();
    assert!(size <= most && size > most - most / 100, "{size} of {most}");
    let (ours, theirs) = (divergence(&file, &model), divergence(&plain, &model));
    assert!(ours < 0.85 * theirs, "{ours} where the type has {theirs}");
    let told = done["allocation"]["measured"].as_f64().unwrap();
    assert!((0.4..2.5).contains(&(told / ours)), "measured {told} on the calibration text, {ours} on another");

    // The recipe holds the answer: nothing is measured again.
    let again = folder.path().join("again.gguf");
    ok(&["convert", arg(&model), "--recipe-from", arg(&file), "-o", arg(&again)]);
    assert!(std::fs::read(&again).unwrap() == std::fs::read(&file).unwrap(), "another file");
    ok(&["verify", arg(&file), "--against", arg(&model)]);
}

#[test]
fn other_budgets_are_met() {
    let model = fixture("models/prose-4m");
    let bits = |args: &[&str]| {
        let all = json(&[&["convert", arg(&model), "--dry-run", "--json", "-q"], args].concat());
        all["bits_per_weight"].as_f64().unwrap()
    };
    // Without a text, by errors alone; what the caller gives himself stays.
    let some = ["--candidates", "q2_k,q3_k,q4_k,q6_k"];
    let plan = bits(&[&["--target-bpw", "4.25"], &some[..]].concat());
    assert!((4.2..=4.25).contains(&plan), "{plan}");
    let args =
        ["convert", arg(&model), "--target-bpw", "4.25", "--tensor-type", "attn_v=q8_0", "--dry-run", "--json", "-q"];
    let plan = json(&args);
    let tensors = plan["tensors"].as_array().unwrap();
    let given = tensors.iter().filter(|t| t["name"].as_str().unwrap().contains("attn_v"));
    assert!(given.clone().count() > 1 && given.clone().all(|t| t["to"] == "Q8_0"), "{plan}");

    let text = fixture("texts/prose.txt");
    let calibration = ["--calibration", arg(&text), "--calibration-ctx", "128", "--calibration-chunks", "8"];
    let measure = ["--measure", "--measure-chunks", "2"];
    let sizes = ["0.02", "0.005"].map(|most| {
        let all = [&["convert", arg(&model), "--dry-run", "--json", "-q", "--target-kld", most], &some[..]].concat();
        let plan = json(&[&all[..], &calibration[..], &measure[..]].concat());
        let measured = plan["allocation"]["measured"].as_f64().unwrap();
        assert!(measured <= most.parse().unwrap(), "{plan}");
        plan["bytes"].as_u64().unwrap()
    });
    assert!(sizes[0] < sizes[1], "a smaller divergence takes more bytes: {sizes:?}");
    // Nothing that is quantized is as near as that: a file of floats would be no answer.
    let all = [
        &["convert", arg(&model), "--dry-run", "-q", "--target-kld", "1e-12", "--candidates", "q8_0,bf16"],
        &calibration[..],
    ];
    fails(
        &[&all.concat()[..], &measure[..]].concat(),
        2,
        &["--target-kld 0.000000000001", "quantizes nothing", "--type"],
    );
}

/// Speeds are measured, so that little is certain but the order.
#[test]
fn speeds_are_kept_or_refused() {
    let (model, folder) = (fixture("models/prose-4m"), tempfile::tempdir().unwrap());
    let some = ["--candidates", "q3_k,q4_k,q6_k,iq3_s", "--dry-run", "--json", "-q"];
    let plan = |args: &[&str]| json(&[&["convert", arg(&model)], &some[..], args].concat());
    // Slow enough for every plan: nothing changes but that the speed is told.
    let plain = plan(&["--target-bpw", "4.5"]);
    let slow = plan(&["--target-bpw", "4.5", "--target-tokens-per-second", "0.1"]);
    assert_eq!(plain["tensors"], slow["tensors"]);
    assert!(plain["allocation"].get("predicted_tokens_per_second").is_none(), "{plain}");
    let rate = |plan: &serde_json::Value, what: &str| {
        plan["allocation"]["predicted_tokens_per_second"][what].as_f64().unwrap()
    };
    let [low, median, high] = ["low", "median", "high"].map(|what| rate(&slow, what));
    assert!(low > 10.0 && low <= median && median <= high, "{slow}");
    // Alone: the best that is fast enough, here the largest formats.
    let alone = plan(&["--target-tokens-per-second", "0.1"]);
    assert!(alone["bits_per_weight"].as_f64().unwrap() > 6.5, "{alone}");
    // The prediction is a measurement of the plan, so that what comes of it is of the same size; other tests run beside this one.
    let file = folder.path().join("slow.gguf");
    let args = ["convert", arg(&model), "-o", arg(&file), "-q", "--target-bpw", "4.5", "--candidates", some[1]];
    ok(&[&args[..], &["--target-tokens-per-second", "0.1"]].concat());
    let bench = json(&["bench", arg(&file), "-p", "0", "-n", "64", "-r", "20", "--json", "-q"]);
    let best =
        bench[0]["tests"][0]["samples"].as_array().unwrap().iter().filter_map(|x| x.as_f64()).fold(0.0, f64::max);
    assert!((0.2..5.0).contains(&(best / high)), "{best} measured, {high} predicted");
    std::fs::remove_file(&file).unwrap();
    let out = folder.path().join("x.gguf");
    let args = ["convert", arg(&model), "-o", arg(&out), "--candidates", "q4_k,q6_k", "--target-tokens-per-second"];
    // What is out of reach is refused with what is within: the slowest and the fastest plan, and how large they are.
    let words =
        ["--target-tokens-per-second 1000000000", "fastest plan", "expected", "reach from about ", " MB of weights"];
    fails(&[&args[..], &["1e9"]].concat(), 2, &words);
    fails(&[&args[..], &["0"]].concat(), 2, &["--target-tokens-per-second 0", "more than 0"]);
    let text = fixture("texts/prose.txt");
    let with = ["100", "--target-kld", "0.1", "--measure", "--calibration", arg(&text)];
    fails(&[&args[..], &with].concat(), 2, &["cannot be used with"]);
    assert!(listing(folder.path()).is_empty());
}

#[test]
fn impossible_budgets_are_refused() {
    let (model, folder) = (fixture("models/prose-4m"), tempfile::tempdir().unwrap());
    let out = folder.path().join("x.gguf");
    let refused = |args: &[&str], words: &[&str]| {
        fails(&[&["convert", arg(&model), "-o", arg(&out)], args].concat(), 2, words);
    };
    let q4 = ["--candidates", "q4_k,q6_k"];
    refused(&[&["--target-size", "1MB"], &q4[..]].concat(), &["--target-size 1.00 MB", "smallest plan", "2."]);
    refused(&[&["--target-size", "1GB"], &q4[..]].concat(), &["largest plan", "--type"]);
    refused(&[&["--target-bpw", "1.5"], &q4[..]].concat(), &["smallest plan", "4.5"]);
    refused(&["--target-bpw", "40"], &["largest plan", "16."]);
    refused(&["--target-bpw", "0"], &["--target-bpw 0", "more than 0"]);
    refused(&["--target-size", "many"], &["700MB"]);
    refused(&["--target-kld", "0.1"], &["--measure"]);
    refused(&["--target-size", "2MB", "--target-bpw", "4"], &["cannot be used with"]);
    refused(&["--target-bpw", "4", "--pure"], &["--pure"]);
    refused(&["--target-bpw", "4", "--candidates", "q9"], &["q9"]);
    assert!(listing(folder.path()).is_empty());
}
