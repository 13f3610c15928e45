//! Chat templates: Jinja as Hugging Face's `apply_chat_template` runs it.
//!
//! Same environment as theirs: blocks are trimmed, loop controls, Python's string and list methods, `raise_exception`,
//! `strftime_now` (local time), `tojson` with Python's spacing, and `{% generation %}` regions, which mean nothing here.

use anyhow::{Context, anyhow};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Serialize;

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: &'static str, content: impl Into<String>) -> Self {
        Message { role, content: content.into() }
    }
}

/// A model's chat template.
pub struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

const NAME: &str = "chat_template";

impl Template {
    /// Parses a template. `bos` and `eos` are the texts of the special tokens, empty where the model has none.
    pub fn new(source: &str, bos: &str, eos: &str) -> anyhow::Result<Self> {
        let mut environment = Environment::new();
        let whitespace = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        environment.set_syntax(whitespace);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |sentence: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, sentence))
        });
        environment.add_function("strftime_now", |format: String| -> Result<String, minijinja::Error> {
            let now = jiff::Zoned::now();
            jiff::fmt::strtime::format(&format, &now)
                .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
        });
        environment.add_filter("tojson", to_json);
        // minijinja iterates over none as if it were empty; Python refuses, and templates ask before they do.
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| anyhow!("the model's chat template does not parse: {e}"))?;
        Ok(Template { environment, bos: bos.into(), eos: eos.into() })
    }

    /// The text of a conversation. With `prompt_for_answer` it ends where the assistant is to begin.
    pub fn render(&self, messages: &[Message], prompt_for_answer: bool) -> anyhow::Result<String> {
        let template = self.environment.get_template(NAME).context("the template was added")?;
        let messages: Vec<Value> =
            messages.iter().map(|m| context! { role => m.role, content => m.content.as_str() }).collect();
        template
            .render(context! {
                messages => messages,
                add_generation_prompt => prompt_for_answer,
                bos_token => self.bos.as_str(),
                eos_token => self.eos.as_str(),
                tools => Value::from(()),
                documents => Value::from(()),
            })
            .map_err(|e| anyhow!("the model's chat template refuses this conversation: {e}"))
    }
}

/// `{% generation %}` marks what to train on; a block that is always taken keeps the white space as it is.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |e| e + 2);
        let (tag, behind) = tag.split_at(end);
        let name = tag.trim_start_matches(['{', '%', '-', '+']).trim_end_matches(['}', '%', '-', '+']).trim();
        match name {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// `json.dumps(value, ensure_ascii=False, indent=...)`.
fn to_json(value: Value, _positional: Rest<Value>, options: Kwargs) -> Result<Value, minijinja::Error> {
    let failed = |e: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    let indent: Option<usize> = options.get("indent")?;
    let mut out = Vec::new();
    match indent {
        Some(n) => {
            let spaces = vec![b' '; n.min(64)];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter)).map_err(failed)?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Python)).map_err(failed)?,
    }
    let text = String::from_utf8(out).map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(Value::from_safe_string(text))
}

/// Python's separators: `", "` and `": "`.
struct Python;

impl serde_json::ser::Formatter for Python {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> anyhow::Result<String> {
        Template::new(source, "<s>", "</s>")?.render(messages, true)
    }

    fn talk() -> Vec<Message> {
        vec![
            Message::new("system", " Be brief. "),
            Message::new("user", "Hi"),
            Message::new("assistant", "Hello."),
            Message::new("user", "1 < 2?"),
        ]
    }

    #[test]
    fn header_style_of_llama_3() {
        let source = "{% set loop_messages = messages %}\n{% for message in loop_messages %}\n    \
            {% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}\n    \
            {% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}\n{{ content }}{% endfor %}\n\
            {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
        let turn = |role: &str, text: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>");
        let want = [
            "<s>".to_string(),
            turn("system", "Be brief."),
            turn("user", "Hi"),
            turn("assistant", "Hello."),
            turn("user", "1 < 2?"),
            "<|start_header_id|>assistant<|end_header_id|>\n\n".into(),
        ];
        assert_eq!(render(source, &talk()).unwrap(), want.concat());
    }

    #[test]
    fn chat_ml_with_tools_and_a_default_system_message() {
        let source = "{%- if tools %}\n    {{- 'TOOLS' }}\n    {{- tools | tojson }}\n{%- else %}\n    \
            {%- if messages[0]['role'] == 'system' %}\n        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n    \
            {%- else %}\n        {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}\n    {%- endif %}\n{%- endif %}\n\
            {%- for message in messages %}\n    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or (message.role == \"assistant\" and not message.tool_calls) %}\n        \
            {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor %}\n\
            {%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n";
        let got = render(source, &[Message::new("user", "Hi")]).unwrap();
        let want =
            "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(got, want);
        let got = render(source, &talk()).unwrap();
        assert!(got.starts_with("<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi"), "{got}");
    }

    #[test]
    fn mistral_style_raises_what_it_does_not_take() {
        let source = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] | trim + '\\n\\n' %}\
            {% set messages = messages[1:] %}{% else %}{% set system_message = '' %}{% endif %}{% for message in messages %}\
            {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}\
            {% if message['role'] == 'user' %}{{ '[INST] ' + (system_message if loop.first else '') + message['content'].strip() + ' [/INST]' }}\
            {% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}";
        assert_eq!(
            render(source, &talk()).unwrap(),
            "<s>[INST] Be brief.\n\nHi [/INST] Hello.</s>[INST] 1 < 2? [/INST]"
        );
        let two = [Message::new("user", "a"), Message::new("user", "b")];
        let error = render(source, &two).unwrap_err().to_string();
        assert!(error.contains("Roles must alternate"), "{error}");
    }

    #[test]
    fn namespaces_python_methods_loop_controls_and_reversed_slices() {
        let source = "{%- set ns = namespace(last=-1) %}{%- for m in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}\
            {%- if m.role == 'user' %}{%- set ns.last = index %}{%- break %}{%- endif %}{%- endfor %}{{ ns.last }} \
            {{ messages[0].content.strip().split(' ')[-1].upper() }} {{ 'x'.startswith('x') }} {{ messages[1] is mapping }} {{ messages[1].content is string }}";
        assert_eq!(render(source, &talk()).unwrap(), "3 BRIEF. True True True");
    }

    #[test]
    fn json_is_spaced_as_python_does() {
        let source = "{{ [{'a': 1, 'b': ['<ü>', none, true]}] | tojson }}|{{ {'a': [1]} | tojson(indent=2) }}";
        let want = "[{\"a\": 1, \"b\": [\"<ü>\", null, true]}]|{\n  \"a\": [\n    1\n  ]\n}";
        assert_eq!(render(source, &[]).unwrap(), want);
    }

    #[test]
    fn generation_regions_and_dates() {
        let source = "{% for m in messages %}{%- generation -%} [{{ m.role }}] {%- endgeneration -%}{% endfor %}{{ strftime_now('%Y')|length }}";
        assert_eq!(render(source, &[Message::new("user", "")]).unwrap(), "[user]4");
    }

    #[test]
    fn none_is_not_iterable() {
        let source =
            "{% if tools is iterable and tools | length > 0 %}tools{% else %}none{% endif %} {{ [] is iterable }}";
        assert_eq!(render(source, &[]).unwrap(), "none True");
    }

    #[test]
    fn broken_templates_are_told() {
        let error = Template::new("{% if %}", "", "").err().unwrap().to_string();
        assert!(error.contains("does not parse"), "{error}");
    }
}
