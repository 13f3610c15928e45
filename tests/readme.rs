//! Lists in the README are generated; this fails when they are stale. `QCONV_BLESS=1 cargo test --test readme` renews them.

use qconv::{arch, recipe};
use std::path::Path;

#[test]
fn lists_are_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let old = std::fs::read_to_string(&path).unwrap();
    let families: Vec<String> =
        arch::ALL.iter().map(|a| format!("`{}` ({})", a.name, a.hf_classes.join(", "))).collect();
    let types: Vec<String> = recipe::ALL.iter().map(|m| format!("`{}`", m.name)).collect();
    let new = replace(&old, "families", &wrap(&families.join(", ")));
    let new = replace(&new, "types", &wrap(&types.join(", ")));
    if std::env::var_os("QCONV_BLESS").is_some() {
        std::fs::write(&path, &new).unwrap();
    } else {
        assert!(old == new, "README.md is stale: QCONV_BLESS=1 cargo test --test readme");
    }
}

fn replace(text: &str, name: &str, with: &str) -> String {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let (head, rest) = text.split_once(&begin).expect("the README has the marker");
    let (_, tail) = rest.split_once(&end).expect("the README has the end marker");
    format!("{head}{begin}\n{with}\n{end}{tail}")
}

fn wrap(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is always a line");
        if last.len() + word.len() > 118 {
            lines.push(word.to_owned());
        } else {
            *last = format!("{last}{}{word}", if last.is_empty() { "" } else { " " });
        }
    }
    lines.join("\n")
}
