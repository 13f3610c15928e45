//! The methods of one run: transforms, then a quantizer.

use super::{ALL, Method, Needs, QuantizeMatrix, QuantizeRows, Tools, Work};
use crate::error::caller;
use crate::model::Model;
use qconv_formats::block::BlockFormat;

/// The methods of one run, `awq+gptq`: any number of transforms, then one quantizer, which is `rtn` where none is named.
#[derive(Debug, Clone, PartialEq)]
pub struct Methods {
    transforms: Vec<Step>,
    quantizer: &'static Method,
}

/// A transform and its setting, `smoothquant:alpha=0.7`.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    method: &'static Method,
    setting: Option<f64>,
}

impl Default for Methods {
    fn default() -> Self {
        Methods { transforms: Vec::new(), quantizer: ALL[0] }
    }
}

impl Methods {
    /// By names with `+` between them. The error is a sentence: an unknown name, or an order that makes no sense.
    pub fn parse(names: &str) -> Result<Self, String> {
        let mut methods = Methods::default();
        let mut quantizer: Option<&'static Method> = None;
        for word in names.split('+') {
            let (name, setting) = match word.split_once(':') {
                Some((name, setting)) => (name.trim(), Some(setting)),
                None => (word.trim(), None),
            };
            let method = Method::by_name(name).ok_or_else(|| {
                let known: Vec<&str> = ALL.iter().map(|m| m.name).collect();
                format!("there is no method {name}; the methods are {}", known.join(", "))
            })?;
            let setting = setting.map(|setting| parse_setting(method, setting)).transpose()?;
            match quantizer {
                Some(before) if method.is_transform() => {
                    return Err(format!(
                        "{} changes weights before they are quantized and has to stand before {}",
                        method.name, before.name
                    ));
                }
                Some(before) => {
                    return Err(format!(
                        "{} and {} both pick the codes; a run has one of them",
                        before.name, method.name
                    ));
                }
                None if methods.transforms.iter().any(|step| step.method == method) => {
                    return Err(format!("{} is there twice; once does all that it can", method.name));
                }
                None if method.is_transform() => methods.transforms.push(Step { method, setting }),
                None => quantizer = Some(method),
            }
        }
        methods.quantizer = quantizer.unwrap_or(methods.quantizer);
        Ok(methods)
    }

    /// As it is given on the command line; without the quantizer where that is the default and there is something else.
    pub fn name(&self) -> String {
        let mut names: Vec<String> = self.transforms.iter().map(Step::name).collect();
        if names.is_empty() || self.quantizer != ALL[0] {
            names.push(self.quantizer.name.to_owned());
        }
        names.join("+")
    }

    /// Round to nearest and nothing else.
    pub fn is_default(&self) -> bool {
        *self == Methods::default()
    }

    /// What changes the model, in order.
    pub fn transforms(&self) -> Vec<&'static Method> {
        self.transforms.iter().map(|step| step.method).collect()
    }

    /// Who picks the codes.
    pub fn quantizer(&self) -> &'static Method {
        self.quantizer
    }

    /// The most that any of them needs.
    pub fn needs(&self) -> Needs {
        self.all().map(|m| m.needs).max().unwrap_or(Needs::Nothing)
    }

    /// Who quantizes rows that nothing more is known about.
    pub fn rows(&self) -> QuantizeRows {
        self.quantizer.rows()
    }

    /// Who quantizes whole matrices with their Hessians, if the quantizer does.
    pub fn matrix(&self) -> Option<QuantizeMatrix> {
        match self.quantizer.work {
            Work::Matrix(matrix) => Some(matrix),
            Work::Rows(_) | Work::Transform(_) => None,
        }
    }

    /// Whether all make sense for a format; the error is the reason, as a sentence.
    pub fn suits(&self, format: &BlockFormat) -> Result<(), String> {
        self.all().try_for_each(|m| (m.suits)(format).map_err(|why| format!("{}: {why}", m.name)))
    }

    /// An error, the caller's, if one of them needs a text and there is none.
    pub fn check_text(&self, there: bool) -> anyhow::Result<()> {
        match self.all().find(|m| m.needs > Needs::Nothing && !there) {
            Some(m) => {
                let what = "has to see what goes into the matrices: give a text by --calibration TEXT";
                Err(caller(format!("--method {}: {} {what}", self.name(), m.name)))
            }
            None => Ok(()),
        }
    }

    /// Applies the transforms, in order; without a text only those that need none.
    pub fn transform(&self, model: &mut Model, tools: &Tools<'_>) -> anyhow::Result<()> {
        for Step { method, setting } in &self.transforms {
            if let Work::Transform(transform) = method.work
                && (tools.calibration.is_some() || method.needs == Needs::Nothing)
            {
                let default = transform.setting.map_or(0.0, |s| s.default);
                let tools = Tools { setting: setting.unwrap_or(default), ..*tools };
                (transform.apply)(model, &tools).map_err(|e| e.context(format!("--method {}", method.name)))?;
            }
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &'static Method> {
        self.transforms.iter().map(|step| step.method).chain([self.quantizer])
    }
}

impl Step {
    fn name(&self) -> String {
        match (self.method.setting(), self.setting) {
            (Some(setting), Some(value)) => format!("{}:{}={value}", self.method.name, setting.name),
            _ => self.method.name.to_owned(),
        }
    }
}

/// The number in `alpha=0.7`. The error is a sentence.
fn parse_setting(method: &'static Method, text: &str) -> Result<f64, String> {
    let name = method.name;
    let Some(setting) = method.setting() else { return Err(format!("{name} has no setting, and {text:?} is one")) };
    let (least, most) = setting.range;
    let number =
        text.split_once('=').filter(|(key, _)| key.trim() == setting.name).and_then(|(_, v)| v.trim().parse().ok());
    match number.filter(|x: &f64| *x >= least && *x <= most && (!setting.whole || x.fract() == 0.0)) {
        Some(number) => Ok(number),
        None => Err(format!(
            "{name} takes {name}:{}={}, {}, from {least} to {most}; not {text:?}",
            setting.name,
            if setting.whole { "N" } else { "X" },
            setting.help
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for method in ALL {
            let methods = Methods::parse(method.name).unwrap();
            assert_eq!(methods.name(), method.name);
            assert_eq!(Methods::parse(&methods.name()).unwrap(), methods);
            assert_eq!(methods.transforms().is_empty(), !method.is_transform());
        }
        assert!(Methods::parse("rtn").unwrap().is_default());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (names, word) in
            [("rtn+hqq", "both pick"), ("quick", "there is no method quick"), ("", "the methods are rtn")]
        {
            let e = Methods::parse(names).unwrap_err();
            assert!(e.contains(word), "{names}: {e}");
        }
        for method in ALL {
            let Some(setting) = method.setting() else {
                assert!(Methods::parse(&format!("{}:a=1", method.name)).unwrap_err().contains("no setting"));
                continue;
            };
            let with = format!("{}:{}={}", method.name, setting.name, setting.range.1);
            assert_eq!(Methods::parse(&with).unwrap().name(), with);
            for wrong in ["", "1", "x=1", &format!("{}=-1", setting.name), &format!("{}=x", setting.name)] {
                let e = Methods::parse(&format!("{}:{wrong}", method.name)).unwrap_err();
                assert!(e.contains(setting.help), "{e}");
            }
        }
        if let Some(transform) = ALL.iter().find(|m| m.is_transform()) {
            let name = transform.name;
            assert!(Methods::parse(&format!("rtn+{name}")).unwrap_err().contains("before rtn"));
            assert!(Methods::parse(&format!("{name}+{name}")).unwrap_err().contains("twice"));
        }
    }
}
