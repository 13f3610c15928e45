//! `qconv bench`: what is told of the machine's bounds.

mod common;

use common::{arg, fixture, ok};

#[test]
fn arithmetic_is_told_beside_the_bandwidth_for_all_weights_of_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m.gguf");
    ok(&["convert", arg(&fixture("models/prose-4m")), "-t", "q4_k_m", "-o", arg(&model), "-q"]);
    let bench = ["bench", arg(&model), "-p", "4", "-n", "8", "-r", "2", "--parallel", "1,2"];
    let records: serde_json::Value = serde_json::from_str(&ok(&[&bench[..], &["--json", "-q"]].concat())).unwrap();
    let (record, number) = (&records[0], |x: &serde_json::Value| x.as_f64().unwrap());
    let cached = &record["cached"];
    let rate = number(&cached["rate"]);
    let formats = cached["formats"].as_array().unwrap();
    let names: Vec<_> = formats.iter().map(|f| f["format"].as_str().unwrap()).collect();
    assert!(names.contains(&"Q4_K") && names.contains(&"Q6_K"), "the recipe mixes them: {names:?}");
    assert!(formats.is_sorted_by_key(|f| -number(&f["bytes"])), "{cached}");
    // All but the norms.
    let bytes: f64 = formats.iter().map(|f| number(&f["bytes"])).sum();
    let share = bytes / number(&record["bytes_per_token"]);
    assert!((0.98..=1.0).contains(&share), "{share} of what a token reads is measured");
    // The time of all is the sum of the formats' times.
    let seconds: f64 = formats.iter().map(|f| number(&f["bytes"]) / number(&f["rate"])).sum();
    assert!((bytes / seconds / rate - 1.0).abs() < 1e-9 && rate > 0.01, "{cached}");
    for test in record["tests"].as_array().unwrap() {
        // A product with several tokens is another one than what was measured.
        let one = test["test"] == "tg8";
        let shares = test["arithmetic_share"].as_f64().zip(test["gigabytes_per_second"].as_f64());
        assert_eq!(shares.is_some(), one, "{test}");
        if let Some((share, rate_of_all)) = shares {
            assert!((share * rate / rate_of_all - 1.0).abs() < 1e-9, "{test}");
        }
    }
    let table = ok(&bench);
    assert!(table.contains("of arithmetic") && table.contains("of bandwidth"), "{table}");
}
