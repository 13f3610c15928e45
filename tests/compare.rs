//! `qconv compare`: the main job on the smallest real model.

mod common;

use common::{arg, fails, fixture, listing, ok};

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

/// What is in the folder counts; a page needs nothing from elsewhere; what fails ends nothing.
#[test]
fn a_study_is_kept_and_taken_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let (out, text) = (folder.path().join("study"), folder.path().join("text.txt"));
    std::fs::copy(fixture("texts/stories.txt"), &text).unwrap();
    let model = fixture("models/stories260k");
    let args = ["compare", arg(&model), "--file", arg(&text), "--types", "q4_0,iq2_xs", "--methods", "rtn,hqq"];
    let args = [&args[..], &["--ctx", "64", "--chunks", "2", "-p", "8", "-n", "2", "--out", arg(&out)]].concat();
    let run = |args: &[&str]| {
        let out = common::run(args);
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    // Rows of 64 weights fall back from IQ2_XS to IQ4_NL, which has scalar codes: nothing fails.
    let (code, table, notes) = run(&args);
    assert_eq!(code, Some(0), "{notes}");
    assert!(table.contains("Recommended:") && !notes.contains("taken from"), "{table}{notes}");
    assert_eq!(listing(&out), ["index.html", "results.csv", "results.json", "results.md", "variants"]);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let variants = listing(&out.join("variants"));
    let names = ["iq2_xs-hqq", "iq2_xs-rtn", "original", "q4_0-hqq", "q4_0-rtn"];
    assert_eq!(variants, names.map(|n| format!("{n}.json")));
    let one: serde_json::Value = serde_json::from_str(&read("variants/q4_0-hqq.json")).unwrap();
    assert_eq!(one["made_from"]["method"], "hqq");
    assert!(one["output_sha256"].as_str().unwrap().len() == 64 && one["row"]["kl_divergence"].as_f64().unwrap() > 0.0);
    assert!(!one["row"]["file"].as_str().unwrap().contains('/'), "the file is gone, its folder means nothing: {one}");
    assert!(one["row"]["convert_peak_memory"].as_u64().unwrap() > 1 << 20, "{one}");

    let page = read("index.html");
    assert_eq!(page.matches("<svg role=\"img\"").count(), 5, "five charts");
    for outside in ["<script", "<link", "url(", "@import", "src=", "href="] {
        assert!(!page.contains(outside), "the page asks for something: {outside}");
    }
    assert!(page.contains("Q4_0 hqq") && page.contains("prefers-color-scheme: dark"));
    let csv = read("results.csv");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 6);
    assert!(lines[0].starts_with("type,method,bits_per_weight,bytes,") && lines[3].starts_with("Q4_0,hqq,"), "{csv}");

    // A second run measures nothing; what is damaged, and all after another text, is measured again.
    let (_, again, notes) = run(&args);
    assert_eq!(notes.matches("taken from").count(), 5, "{notes}");
    assert_eq!(again, table);
    // Figures are nobody's measurements once they were changed.
    let better = read("variants/q4_0-hqq.json").replacen("\"kl_divergence\": 0.", "\"kl_divergence\": 0.0", 1);
    std::fs::write(out.join("variants/q4_0-hqq.json"), better).unwrap();
    let (_, again, notes) = run(&args);
    assert_eq!(notes.matches("taken from").count(), 4, "{notes}");
    assert!(notes.contains("q4_0-hqq.json: is not what was written then"), "{notes}");
    let quality = |table: &str| -> Vec<String> {
        let cells = |l: &str| l.split_whitespace().take(5).collect::<Vec<_>>().join(" ");
        table.lines().filter(|l| l.contains("Q4_0 hqq")).map(cells).take(1).collect()
    };
    assert_eq!(quality(&again), quality(&table));
    std::fs::write(out.join("variants/q4_0-rtn.json"), "{").unwrap();
    let (_, _, notes) = run(&args);
    assert_eq!(notes.matches("taken from").count(), 4, "{notes}");
    assert!(notes.contains("q4_0-rtn.json: is not what was written then"), "{notes}");
    let longer = std::fs::read_to_string(&text).unwrap() + " And so on.";
    std::fs::write(&text, longer).unwrap();
    let (_, _, notes) = run(&args);
    assert!(!notes.contains("taken from") && notes.contains("another text"), "{notes}");
}

/// Each model as a study of it alone has it, and all together.
#[test]
fn several_models_have_rows_and_sections_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    let (one, two) = (fixture("models/stories260k"), fixture("models/prose-4m"));
    let text = fixture("texts/prose.txt");
    let options = ["--file", arg(&text), "--types", "q8_0,q4_0", "-c", "64", "--chunks", "1", "-p", "0", "-n", "2"];
    let study = |sources: &[&str], rest: &[&str]| {
        let done = common::run(&[&["compare"], sources, &options[..], rest].concat());
        let (table, said) =
            (String::from_utf8(done.stdout).unwrap(), String::from_utf8_lossy(&done.stderr).into_owned());
        assert!(done.status.success(), "{said}");
        (table, said)
    };
    let (table, said) = study(&[arg(&one), arg(&two)], &["--out", arg(&out)]);
    assert!(!said.contains("taken from") && said.contains("stories260k: warning: Q8_0: "), "{said}");
    for model in ["stories260k", "prose-4m"] {
        assert_eq!(
            table.lines().filter(|l| l.trim_start().starts_with(model)).count(),
            4,
            "three rows and a heading: {table}"
        );
        let own = listing(&out.join(model));
        assert_eq!(own, ["index.html", "results.csv", "results.json", "results.md", "variants"]);
    }
    assert_eq!(table.matches("Recommended:").count(), 2, "{table}");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let (csv, page) = (read("results.csv"), read("index.html"));
    assert!(csv.starts_with("model,type,method,") && csv.lines().count() == 7, "{csv}");
    assert_eq!(csv.lines().filter(|l| l.starts_with("prose-4m,")).count(), 3, "{csv}");
    let (all, alone): (serde_json::Value, String) =
        (serde_json::from_str(&read("results.json")).unwrap(), read("prose-4m/index.html"));
    assert_eq!(all["models"][1]["rows"].as_array().unwrap().len(), 3);
    assert_eq!(page.matches("<section").count(), 2);
    let charts = |page: &str| page.matches("<svg role").count();
    assert_eq!(charts(&page), 2 * charts(&alone));
    assert!(page.contains("href=\"#m1\"") && page.contains("id=\"m1\"") && !alone.contains("<section"));
    for outside in ["<script", "<link", "url(", "@import", "src=", "http:", "https:"] {
        assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(outside), "the page asks for {outside}");
    }

    // Again, in JSON: nothing is measured. One alone takes its figures from its folder.
    let (rows, said) = study(&[arg(&one), arg(&two)], &["--out", arg(&out), "--json"]);
    assert_eq!(said.matches("taken from").count(), 6, "{said}");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&rows).unwrap();
    assert!(rows.len() == 6 && rows[0]["model"] == "stories260k" && rows[5]["model"] == "prose-4m", "{rows:?}");
    let (_, said) = study(&[arg(&two)], &["--out", arg(&out.join("prose-4m"))]);
    assert_eq!(said.matches("taken from").count(), 3, "{said}");
    // Models of one name are told apart by their folders; one model twice is none to compare.
    let again = folder.path().join("stories260k");
    common::copy_folder(&one, &again);
    let (rows, _) = study(&[arg(&one), arg(&again)], &["--csv"]);
    assert!(rows.contains(&format!("stories260k ({})", again.display())), "{rows}");
    let twice = [&["compare", arg(&one), arg(&one)], &options[..]].concat();
    fails(&twice, 2, &["give each model once"]);
}

#[test]
fn a_variant_that_fails_has_a_row_that_says_why() {
    let (model, text) = (fixture("models/prose-4m"), fixture("texts/prose.txt"));
    let args = ["compare", arg(&model), "--file", arg(&text), "--ctx", "64", "--chunks", "1", "-p", "0", "-n", "0"];
    let table = ok(&[&args[..], &["--types", "iq2_xs,q8_0"]].concat());
    let failed = table.lines().find(|l| l.contains("- IQ2_XS: failed: ")).unwrap_or_else(|| panic!("{table}"));
    assert!(failed.contains("importance matrix"), "{failed}");
    assert!(table.lines().any(|l| l.contains("Q8_0") && l.contains("yes")), "{table}");
    fails(&[&args[..], &["--types", "iq2_xs"]].concat(), 1, &["every variant failed", "IQ2_XS"]);
}

#[test]
fn impossible_studies_are_refused() {
    let (model, text) = (fixture("models/stories260k"), fixture("texts/stories.txt"));
    fails(&["compare", arg(&model), "--file", "no/such/text"], 2, &["no/such/text"]);
    fails(&["compare", arg(&model), "--file", arg(&text), "--ctx", "100000"], 2, &["--ctx"]);
    fails(&["compare", arg(&model), "--file", arg(&text), "--types", "q4_k_m,nope"], 2, &["nope"]);
}
