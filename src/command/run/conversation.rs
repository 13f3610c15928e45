//! `--chat`: one answer, or turns on a terminal.

use super::generate::{Generated, Setting, forgive_interrupt, interrupted, watch_interrupts};
use super::report::{Report, Stop, Tally};
use crate::engine::chat::{Message, Template};
use crate::engine::{Sampler, Session};
use crate::error::{caller, malformed};
use crate::tokenizer::EncodeOptions;
use qconv_kernels::Backend;
use std::io::BufRead;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Positions of a conversation unless told otherwise.
const POSITIONS: usize = 8192;

/// With `said` one answer to it; otherwise turns until the input ends.
pub fn hold<B: Backend>(
    setting: &Setting<'_, B>,
    system: Option<&str>,
    said: Option<String>,
) -> anyhow::Result<Report> {
    let template = template(setting)?;
    let mut messages: Vec<Message> = system.map(|text| Message::new("system", text)).into_iter().collect();
    let context = setting.ctx.unwrap_or(setting.engine.plan().context.min(POSITIONS));
    let mut session = setting.session(context)?;
    watch_interrupts()?;
    let mut talk = Talk { fed: Vec::new(), sampler: Sampler::new(setting.sampling, setting.seed) };
    if let Some(said) = said {
        messages.push(Message::new("user", said.trim_end_matches(['\r', '\n'])));
        let answer = talk.answer(setting, &template, &mut session, &messages)?;
        return Ok(setting.report(answer, context));
    }

    setting.ui.note("Ctrl-C ends an answer; Ctrl-D, or Ctrl-C at the prompt, ends the conversation.");
    let lines = lines();
    let mut all: Option<Generated> = None;
    while let Some(line) = next_line(&lines) {
        messages.push(Message::new("user", line));
        let answer = match talk.answer(setting, &template, &mut session, &messages) {
            Ok(answer) => answer,
            Err(e) if all.is_some() => {
                // What was said before still has its figures.
                setting.ui.warn(format!("{e:#}"));
                break;
            }
            Err(e) => return Err(e),
        };
        messages.push(Message::new("assistant", answer.text.clone()));
        let stop = answer.stop;
        match &mut all {
            None => all = Some(answer),
            Some(all) => all.join(answer),
        }
        // Ctrl-C ended the answer only; without it, nobody reads the output any more.
        if stop == Stop::Interrupted && !forgive_interrupt() {
            break;
        }
    }
    crate::ui::tell("\n");
    let nothing = Generated {
        text: String::new(),
        tokens: Vec::new(),
        stop: Stop::Interrupted,
        first_token: None,
        prompt: Tally::default(),
        generation: Tally::default(),
    };
    Ok(setting.report(all.unwrap_or(nothing), context))
}

/// The model's template with its special tokens. Errors: there is none, or it does not parse.
fn template<B: Backend>(setting: &Setting<'_, B>) -> anyhow::Result<Template> {
    let metadata = setting.model.metadata();
    let Some(source) = metadata.str("tokenizer.chat_template") else {
        let what = "is missing: the model was not made for conversations; use -p without --chat to continue a text";
        return Err(malformed(setting.model.path(), "key tokenizer.chat_template", what));
    };
    let piece = |id: Option<u32>| {
        String::from_utf8_lossy(id.and_then(|id| setting.tokenizer.piece(id)).unwrap_or_default()).into_owned()
    };
    Template::new(source, &piece(setting.tokenizer.bos()), &piece(setting.tokenizer.eos()))
}

/// What was fed so far; only what a new turn changes is computed again.
struct Talk {
    fed: Vec<u32>,
    sampler: Sampler,
}

impl Talk {
    fn answer<B: Backend>(
        &mut self,
        setting: &Setting<'_, B>,
        template: &Template,
        session: &mut Session<'_, B>,
        messages: &[Message],
    ) -> anyhow::Result<Generated> {
        // The template writes all special tokens itself.
        let options = EncodeOptions { add_special: false, parse_special: true };
        let tokens = setting.tokenizer.encode(&template.render(messages, true)?, options);
        if tokens.is_empty() {
            return Err(caller("the model's chat template makes nothing of this conversation"));
        }
        let common = self.fed.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        // The last token must be computed to get logits.
        let kept = common.min(session.length()).min(tokens.len().saturating_sub(1));
        session.truncate(kept);
        if tokens.len() >= session.positions() {
            return Err(caller(format!(
                "the conversation has {} tokens and leaves no room in a context of {}; use a larger --ctx",
                tokens.len(),
                session.positions()
            )));
        }
        let answer = setting.generate(session, &mut self.sampler, &tokens[kept..])?;
        self.fed = tokens;
        self.fed.extend_from_slice(&answer.tokens);
        Ok(answer)
    }
}

impl Generated {
    /// The figures of a conversation: sums, and the first answer's time to the first token.
    fn join(&mut self, other: Generated) {
        self.text.push('\n');
        self.text.push_str(&other.text);
        self.tokens.extend(other.tokens);
        self.stop = other.stop;
        self.prompt.add(other.prompt);
        self.generation.add(other.generation);
    }
}

/// Lines of standard input, read by a thread of their own so that Ctrl-C is noticed while nobody types.
fn lines() -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The next line that is not empty; `None` at the end of input or after Ctrl-C.
fn next_line(lines: &Receiver<String>) -> Option<String> {
    loop {
        crate::ui::tell("> ");
        let line = loop {
            match lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => break line,
                Err(RecvTimeoutError::Timeout) if !interrupted() => {}
                Err(_) => return None,
            }
        };
        if !line.trim().is_empty() {
            return Some(line);
        }
    }
}
