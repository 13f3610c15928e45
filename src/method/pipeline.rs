//! The methods of one run: transforms, then a quantizer.

use super::{ALL, Method, Needs, QuantizeMatrix, QuantizeRows, Tools, Work, rtn};
use crate::error::caller;
use crate::model::Model;
use qconv_formats::block::BlockFormat;

/// The methods of one run, `awq+gptq`: any number of transforms, then one quantizer, which is `rtn` where none is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Methods {
    transforms: Vec<&'static Method>,
    quantizer: &'static Method,
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
        for name in names.split('+') {
            let method = Method::by_name(name.trim()).ok_or_else(|| {
                let known: Vec<&str> = ALL.iter().map(|m| m.name).collect();
                format!("there is no method {name}; the methods are {}", known.join(", "))
            })?;
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
                None if methods.transforms.contains(&method) => {
                    return Err(format!("{} is there twice; once does all that it can", method.name));
                }
                None if method.is_transform() => methods.transforms.push(method),
                None => quantizer = Some(method),
            }
        }
        methods.quantizer = quantizer.unwrap_or(methods.quantizer);
        Ok(methods)
    }

    /// As it is given on the command line; without the quantizer where that is the default and there is something else.
    pub fn name(&self) -> String {
        let mut names: Vec<&str> = self.transforms.iter().map(|m| m.name).collect();
        if names.is_empty() || self.quantizer != ALL[0] {
            names.push(self.quantizer.name);
        }
        names.join("+")
    }

    /// Round to nearest and nothing else.
    pub fn is_default(&self) -> bool {
        *self == Methods::default()
    }

    /// What changes the model, in order.
    pub fn transforms(&self) -> &[&'static Method] {
        &self.transforms
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
        match self.quantizer.work {
            Work::Rows(rows) => rows,
            Work::Matrix(_) | Work::Transform(_) => rtn::rows,
        }
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

    /// Applies the transforms, in order.
    pub fn transform(&self, model: &mut Model, tools: &Tools<'_>) -> anyhow::Result<()> {
        for method in &self.transforms {
            if let Work::Transform(transform) = method.work {
                transform(model, tools).map_err(|e| e.context(format!("--method {}", method.name)))?;
            }
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &'static Method> {
        self.transforms.iter().copied().chain([self.quantizer])
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
        if let Some(transform) = ALL.iter().find(|m| m.is_transform()) {
            let name = transform.name;
            assert!(Methods::parse(&format!("rtn+{name}")).unwrap_err().contains("before rtn"));
            assert!(Methods::parse(&format!("{name}+{name}")).unwrap_err().contains("twice"));
        }
    }
}
