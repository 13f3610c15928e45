//! What is changed in a model on its way: keys set, layers left out.

use crate::error::caller;
use crate::ui::Ui;
use anyhow::Result;
use qconv_formats::gguf::{Metadata, Value};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::str::FromStr;

/// Changes to a model's metadata and layers. The default changes nothing.
#[derive(Debug, Clone, Default)]
pub struct Edits {
    /// Keys to set, in this order.
    pub settings: Vec<Setting>,
    /// Layers that are left out.
    pub prune: Layers,
    /// What the source's folder counts as being called, where the model's name comes from that.
    pub folder: Option<String>,
}

/// A key and its new value.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Value,
}

/// Some layers, by number from 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers(BTreeSet<usize>);

/// Layer numbers beyond this belong to no model.
const MOST_LAYERS: usize = 1 << 16;

/// Keys behind `ARCH.` that may hold one value per layer.
const PER_LAYER: &[&str] =
    &["attention.head_count", "attention.head_count_kv", "feed_forward_length", "attention.sliding_window_pattern"];

/// Keys behind `ARCH.` that count layers of a kind: pruning may make them wrong, and only their author knows.
const COUNTS: &[&str] = &["leading_dense_block_count", "nextn_predict_layers", "attention.shared_kv_layers"];

/// Keys that qconv itself writes.
const OWN: &[&str] = &["split.", "qconv."];

impl Edits {
    /// The metadata with all keys set. Warns where a key gets another type.
    pub fn set(&self, metadata: &mut Metadata, ui: &Ui) {
        for Setting { key, value } in &self.settings {
            let integers = |v: &Value| v.as_u64().is_some();
            if let Some(old) = metadata.get(key)
                && old.value_type() != value.value_type()
                && !(integers(old) && integers(value))
            {
                let (old, new) = (old.value_type(), value.value_type());
                ui.warn(format!("key {key} was of type {old:?} and is now of type {new:?}; readers may refuse it"));
            }
            metadata.set(key.as_str(), value.clone());
        }
    }

    /// Number of layers and values per layer for what is left. As llama-quantize does, but that leaves arrays alone,
    /// which llama.cpp then refuses for their length.
    pub fn prune_keys(&self, metadata: &mut Metadata, ui: &Ui) -> Result<()> {
        if self.prune.is_empty() {
            return Ok(());
        }
        let arch = metadata.str("general.architecture").unwrap_or_default().to_owned();
        let count_key = format!("{arch}.block_count");
        let layers = metadata.u64(&count_key).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        self.prune.check(layers)?;
        metadata.set(count_key, (layers - self.prune.0.len()) as u32);
        for name in PER_LAYER {
            let key = format!("{arch}.{name}");
            if let Some(Value::Array(array)) = metadata.get(&key)
                && array.len() == layers
            {
                let mut array = array.clone();
                array.retain(|layer| !self.prune.0.contains(&layer));
                metadata.set(key, array);
            }
        }
        for name in COUNTS {
            let key = format!("{arch}.{name}");
            if let Some(n) = metadata.u64(&key).filter(|&n| n > 0) {
                ui.warn(format!(
                    "key {key} counts layers and stays {n}; set it with --override-kv if pruning changes it"
                ));
            }
        }
        Ok(())
    }
}

impl Setting {
    /// Parses `KEY=TYPE:VALUE`. `int`, `float`, `bool` and `str` are what llama-quantize makes of them (u32, f32);
    /// GGUF's own names (`u8` ... `f64`) are exact. Errors are the caller's.
    pub fn parse(text: &str) -> Result<Self> {
        let form = || caller(format!("`{text}`: KEY=TYPE:VALUE is needed, such as llama.context_length=int:4096"));
        let (key, typed) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(form)?;
        let (kind, value) = typed.split_once(':').ok_or_else(form)?;
        if let Some(own) = OWN.iter().find(|own| key.starts_with(*own)) {
            return Err(caller(format!("`{text}`: keys {own}* are written by qconv itself")));
        }
        fn number<T: FromStr + Into<Value>>(value: &str) -> Option<Value> {
            value.parse::<T>().ok().map(Into::into)
        }
        let parsed = match kind {
            "int" | "u32" => number::<u32>(value),
            "float" | "f32" => value.parse::<f32>().ok().filter(|x| x.is_finite()).map(Value::F32),
            "f64" => value.parse::<f64>().ok().filter(|x| x.is_finite()).map(Value::F64),
            "bool" => number::<bool>(value),
            "str" => Some(Value::String(value.to_owned())),
            "u8" => number::<u8>(value),
            "u16" => number::<u16>(value),
            "u64" => number::<u64>(value),
            "i8" => value.parse().ok().map(Value::I8),
            "i16" => value.parse().ok().map(Value::I16),
            "i32" => number::<i32>(value),
            "i64" => number::<i64>(value),
            _ => {
                let types = "int, float, bool, str, or one of GGUF's: u8, i8, u16, i16, u32, i32, u64, i64, f32, f64";
                return Err(caller(format!("`{text}`: there is no type {kind}; the types are {types}")));
            }
        };
        let value = parsed.ok_or_else(|| {
            let hint = if kind == "int" { "; int is written as u32, i32 and i64 take negative numbers" } else { "" };
            caller(format!("`{text}`: {value:?} is no {kind}{hint}"))
        })?;
        Ok(Setting { key: key.to_owned(), value })
    }
}

impl std::fmt::Display for Setting {
    /// As [`Setting::parse`] reads it. (Arrays, which it does not read, as Rust shows them.)
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=", self.key)?;
        match &self.value {
            Value::U8(v) => write!(f, "u8:{v}"),
            Value::I8(v) => write!(f, "i8:{v}"),
            Value::U16(v) => write!(f, "u16:{v}"),
            Value::I16(v) => write!(f, "i16:{v}"),
            Value::U32(v) => write!(f, "u32:{v}"),
            Value::I32(v) => write!(f, "i32:{v}"),
            Value::F32(v) => write!(f, "f32:{v}"),
            Value::Bool(v) => write!(f, "bool:{v}"),
            Value::String(v) => write!(f, "str:{v}"),
            Value::U64(v) => write!(f, "u64:{v}"),
            Value::I64(v) => write!(f, "i64:{v}"),
            Value::F64(v) => write!(f, "f64:{v}"),
            Value::Array(v) => write!(f, "{v:?}"),
        }
    }
}

impl Layers {
    /// None.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a tensor is called without these layers; `None` if it is in one of them.
    pub fn rename<'n>(&self, name: &'n str) -> Option<Cow<'n, str>> {
        let Some(layer) = crate::recipe::layer_of(name).filter(|_| !self.is_empty()) else {
            return Some(Cow::Borrowed(name));
        };
        if self.0.contains(&layer) {
            return None;
        }
        let before = self.0.range(..layer).count();
        let rest = name["blk.".len()..].trim_start_matches(|c: char| c.is_ascii_digit());
        Some(if before == 0 { Cow::Borrowed(name) } else { Cow::Owned(format!("blk.{}{rest}", layer - before)) })
    }

    /// Errors, the caller's: a layer that a model of so many does not have, or none left.
    pub fn check(&self, layers: usize) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        if let Some(most) = self.0.last().filter(|&&most| most >= layers) {
            let what = format!("there is no layer {most}; the model's {layers} layers count from 0");
            return Err(caller(format!("--prune-layers {self}: {what}")));
        }
        if self.0.len() == layers {
            return Err(caller(format!("--prune-layers {self}: no layer would be left")));
        }
        Ok(())
    }
}

impl FromStr for Layers {
    type Err = String;

    /// `3,5-7`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut layers = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |s: &str| s.trim().parse().ok().filter(|&n: &usize| n < MOST_LAYERS);
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => layers.extend(first..=last),
                _ => return Err(format!("{part:?} is neither a layer nor a range of layers, such as 3,5-7")),
            }
        }
        Ok(Layers(layers))
    }
}

impl std::fmt::Display for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&list.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::exit_code;
    use qconv_formats::gguf::Array;

    #[test]
    fn values_have_the_types_that_were_asked_for() {
        for (text, want) in [
            ("a.b=int:4096", Value::U32(4096)),
            ("a=float:0.5", Value::F32(0.5)),
            ("a=bool:true", Value::Bool(true)),
            ("a=str:x=y:z", Value::String("x=y:z".into())),
            ("a=str:", Value::String(String::new())),
            ("a=i8:-1", Value::I8(-1)),
            ("a=u64:18446744073709551615", Value::U64(u64::MAX)),
            ("a=f64:1e300", Value::F64(1e300)),
        ] {
            let setting = Setting::parse(text).unwrap();
            assert_eq!(setting.value, want, "{text}");
            assert_eq!(Setting::parse(&setting.to_string()).unwrap(), setting, "{text}");
        }
        for text in [
            "a",
            "=int:1",
            "a=1",
            "a=int:x",
            "a=int:-1",
            "a=u8:256",
            "a=float:nan",
            "a=bool:1",
            "a=list:1",
            "split.no=int:1",
        ] {
            assert_eq!(exit_code(&Setting::parse(text).unwrap_err()), 2, "{text}");
        }
    }

    #[test]
    fn layers_move_up() {
        let layers: Layers = "1,3-4".parse().unwrap();
        assert_eq!(layers.to_string(), "1,3,4");
        for (name, want) in [
            ("token_embd.weight", Some("token_embd.weight")),
            ("blk.0.attn_q.weight", Some("blk.0.attn_q.weight")),
            ("blk.1.attn_q.weight", None),
            ("blk.2.attn_q.weight", Some("blk.1.attn_q.weight")),
            ("blk.4.attn_q.weight", None),
            ("blk.10.attn_q.weight", Some("blk.7.attn_q.weight")),
        ] {
            assert_eq!(layers.rename(name).as_deref(), want, "{name}");
        }
        for text in ["", "a", "1-", "3-1", "-1", "1,,2", "0-99999999999999"] {
            assert!(text.parse::<Layers>().is_err(), "{text}");
        }
    }

    #[test]
    fn pruned_keys_are_those_of_the_layers_left() {
        let mut m = Metadata::new();
        m.set("general.architecture", "llama");
        m.set("llama.block_count", 4u32);
        m.set("llama.attention.head_count_kv", Array::U32(vec![1, 2, 3, 4]));
        m.set("llama.rope.dimension_sections", Array::I32(vec![1, 2, 3, 4]));
        let edits = Edits { prune: "1-2".parse().unwrap(), ..Edits::default() };
        let ui = Ui::default();
        edits.prune_keys(&mut m, &ui).unwrap();
        assert_eq!(m.get("llama.block_count"), Some(&Value::U32(2)));
        assert_eq!(m.get("llama.attention.head_count_kv"), Some(&Value::Array(Array::U32(vec![1, 4]))));
        assert_eq!(m.get("llama.rope.dimension_sections").unwrap().as_array().unwrap().len(), 4);
        assert!(ui.warnings().is_empty());
        for wrong in ["0-1", "2"] {
            let edits = Edits { prune: wrong.parse().unwrap(), ..Edits::default() };
            assert_eq!(exit_code(&edits.prune_keys(&mut m.clone(), &ui).unwrap_err()), 2, "{wrong}");
        }
    }
}
