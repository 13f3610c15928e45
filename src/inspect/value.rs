//! Metadata values for people (one short line) and for programs (JSON).

use qconv_formats::gguf::{Array, Value};
use serde_json::{Value as Json, json};

/// Arrays with more elements are abbreviated in JSON.
pub const LONG_ARRAY: usize = 1024;
/// Elements of a long array that are shown in JSON.
const FIRST: usize = 16;

/// A metadata value, ready to be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// The type: `u32`, `string`, `f32[512]`.
    pub kind: String,
    /// One line, of any length.
    pub line: String,
    /// For programs. Long arrays are `{"length": n, "type": t, "first": [...]}`.
    pub json: Json,
}

impl Shown {
    /// A GGUF value.
    pub fn from_gguf(value: &Value) -> Self {
        let kind = format!("{:?}", value.value_type()).to_lowercase();
        match value {
            Value::String(s) => Shown { kind, line: escaped(s), json: Json::from(s.as_str()) },
            Value::Array(a) => {
                let kind = format!("{:?}[{}]", a.element_type(), a.len()).to_lowercase();
                let (n, element) = (a.len(), format!("{:?}", a.element_type()).to_lowercase());
                Shown { kind, line: list(&elements(a, FIRST), n), json: array_json(a, n, element) }
            }
            Value::U8(_) | Value::U16(_) | Value::U32(_) | Value::U64(_) => plain(kind, json!(value.as_u64())),
            Value::I8(v) => plain(kind, json!(v)),
            Value::I16(v) => plain(kind, json!(v)),
            Value::I32(v) => plain(kind, json!(v)),
            Value::I64(v) => plain(kind, json!(v)),
            Value::F32(v) => Shown { kind, line: v.to_string(), json: float(*v) },
            Value::F64(v) => Shown { kind, line: v.to_string(), json: json!(v) },
            Value::Bool(v) => plain(kind, json!(v)),
        }
    }

    /// A value of `config.json`.
    pub fn from_json(value: &Json) -> Self {
        let kind = match value {
            Json::Null => "null".to_owned(),
            Json::Bool(_) => "bool".to_owned(),
            Json::Number(_) => "number".to_owned(),
            Json::String(_) => "string".to_owned(),
            Json::Array(a) => format!("[{}]", a.len()),
            Json::Object(_) => "object".to_owned(),
        };
        let line = match value {
            Json::String(s) => escaped(s),
            Json::Array(a) => list(&a.iter().take(FIRST).cloned().collect::<Vec<_>>(), a.len()),
            other => escaped(&other.to_string()),
        };
        Shown { kind, line, json: value.clone() }
    }

    /// The line, cut to `width` characters; what is cut is told.
    pub fn cut(&self, width: usize) -> String {
        let length = self.line.chars().count();
        if length <= width {
            return self.line.clone();
        }
        let note = format!("... ({length} characters)");
        let note = if self.kind.ends_with(']') { "..." } else { &note };
        let keep: String = self.line.chars().take(width.saturating_sub(note.len())).collect();
        format!("{}{note}", keep.trim_end_matches([' ', ',']))
    }
}

/// Control characters as escapes, so that a file cannot play with the terminal.
pub fn escaped(s: &str) -> String {
    s.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn plain(kind: String, json: Json) -> Shown {
    Shown { kind, line: json.to_string(), json }
}

/// `1, 2, 3, ...`
fn list(first: &[Json], n: usize) -> String {
    let shown: Vec<String> = first.iter().map(|v| escaped(&v.to_string())).collect();
    format!("{}{}", shown.join(", "), if n > first.len() { ", ..." } else { "" })
}

fn array_json(a: &Array, n: usize, element: String) -> Json {
    if n > LONG_ARRAY {
        json!({ "length": n, "type": element, "first": elements(a, FIRST) })
    } else {
        Json::from(elements(a, n))
    }
}

/// The first elements as JSON.
fn elements(a: &Array, most: usize) -> Vec<Json> {
    fn some<T>(v: &[T], most: usize, to: impl Fn(&T) -> Json) -> Vec<Json> {
        v.iter().take(most).map(to).collect()
    }
    match a {
        Array::U8(v) => some(v, most, |x| json!(x)),
        Array::I8(v) => some(v, most, |x| json!(x)),
        Array::U16(v) => some(v, most, |x| json!(x)),
        Array::I16(v) => some(v, most, |x| json!(x)),
        Array::U32(v) => some(v, most, |x| json!(x)),
        Array::I32(v) => some(v, most, |x| json!(x)),
        Array::U64(v) => some(v, most, |x| json!(x)),
        Array::I64(v) => some(v, most, |x| json!(x)),
        Array::F32(v) => some(v, most, |x| float(*x)),
        Array::F64(v) => some(v, most, |x| json!(x)),
        Array::Bool(v) => some(v, most, |x| json!(x)),
        Array::String(v) => some(v, most, |x| json!(x)),
        Array::Array(v) => some(v, most, |x| array_json(x, x.len(), format!("{:?}", x.element_type()).to_lowercase())),
    }
}

/// The shortest number that reads back as the same f32; `null` for NaN and infinity, which JSON lacks.
pub(super) fn float(x: f32) -> Json {
    x.to_string().parse::<f64>().map_or(Json::Null, |x| json!(x))
}
