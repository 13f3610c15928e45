//! `qconv compare`: the main job on the smallest real model.

mod common;

use common::{arg, fails, fixture, ok};

#[test]
fn the_study_of_a_small_model() {
    let (model, text) = (fixture("models/stories260k"), fixture("texts/stories.txt"));
    let json = ok(&[
        "compare",
        arg(&model),
        "--file",
        arg(&text),
        "--types",
        "q8_0,q4_0",
        "--ctx",
        "128",
        "--chunks",
        "4",
        "-p",
        "16",
        "-n",
        "4",
        "--json",
        "-q",
    ]);
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 3);
    assert!(rows[0]["kl_divergence"].is_null());
    let kl: Vec<f64> = rows[1..].iter().map(|r| r["kl_divergence"].as_f64().unwrap()).collect();
    assert!(kl[0] > 0.0 && kl[0] < 0.005 && kl[1] > 10.0 * kl[0], "{kl:?}");
    for row in &rows[1..] {
        assert_eq!(row["verified"], true);
        assert!(row["bytes"].as_u64() < rows[0]["bytes"].as_u64());
        assert!(row["generation_tokens_per_second"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn methods_stand_side_by_side() {
    let (model, text) = (fixture("models/stories260k"), fixture("texts/stories.txt"));
    let args = ["compare", arg(&model), "--file", arg(&text), "--types", "q4_0", "--methods", "rtn,hqq"];
    let table = ok(&[&args[..], &["--ctx", "64", "--chunks", "2", "-p", "8", "-n", "2"]].concat());
    assert!(table.contains("Q4_0 hqq"), "{table}");
    fails(&[&args[..5], &["q4_0", "--methods", "magic"]].concat(), 2, &["magic", "hqq"]);
}

#[test]
fn impossible_studies_are_refused() {
    let (model, text) = (fixture("models/stories260k"), fixture("texts/stories.txt"));
    fails(&["compare", arg(&model), "--file", "no/such/text"], 2, &["no/such/text"]);
    fails(&["compare", arg(&model), "--file", arg(&text), "--ctx", "100000"], 2, &["--ctx"]);
    fails(&["compare", arg(&model), "--file", arg(&text), "--types", "q4_k_m,nope"], 2, &["nope"]);
}
