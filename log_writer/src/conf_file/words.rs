//! Words of a `spreadlogd.conf`.
// spec: log_writer 2.1

use super::Note;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Word {
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) quoted: bool,
}

/// All words with their lines; braces are words.
pub(super) fn split(text: &str) -> (Vec<Word>, Vec<Note>) {
    let (mut words, mut errors) = (Vec::new(), Vec::new());
    let mut line = 1;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\n' => line += 1,
            ' ' | '\t' | '\r' => {}
            '#' => while chars.next_if(|(_, c)| *c != '\n').is_some() {},
            '{' | '}' => words.push(Word { line, text: c.into(), quoted: false }),
            '"' | '\'' => {
                let start = line;
                let mut word = String::new();
                let mut closed = false;
                for (_, inner) in chars.by_ref() {
                    if inner == c {
                        closed = true;
                        break;
                    }
                    line += usize::from(inner == '\n');
                    word.push(inner);
                }
                if !closed {
                    errors.push(Note { line: start, text: format!("the quote {c} is not closed") });
                }
                words.push(Word { line: start, text: word, quoted: true });
            }
            _ => {
                let mut end = at + c.len_utf8();
                while let Some((i, next)) = chars.next_if(|(i, c)| {
                    // `Match="a b"`: the value is a quoted word of its own.
                    let value = matches!(*c, '"' | '\'') && is_key_with_equals(&text[at..*i]);
                    !" \t\r\n#{}".contains(*c) && !value
                }) {
                    end = i + next.len_utf8();
                }
                words.push(Word { line, text: text[at..end].into(), quoted: false });
            }
        }
    }
    (words, errors)
}

pub(super) const GLOBAL: [&str; 6] =
    ["BufferSize", "ModuleDir", "LoadModule", "PerlLib", "PerlUse", "PythonImport"];
pub(super) const LOG: [&str; 9] = [
    "Group",
    "File",
    "Match",
    "VhostDir",
    "RewriteTimestamp",
    "ModuleLog",
    "PerlLog",
    "PerlHup",
    "PythonLog",
];
pub(super) const SPREAD: [&str; 3] = ["Port", "Host", "Log"];

pub(super) fn is_keyword(word: &Word) -> bool {
    !word.quoted && is_key(&word.text)
}

fn is_key(text: &str) -> bool {
    let all = GLOBAL.iter().chain(&LOG).chain(&SPREAD).chain(&["Spread", "VhostGroup", "CommonLogFormat"]);
    all.into_iter().any(|k| *k == text)
}

/// True for `=` and `Key=`.
fn is_key_with_equals(text: &str) -> bool {
    text.strip_suffix('=').is_some_and(|key| key.is_empty() || is_key(key))
}

/// Same word but for case, or one letter missing, added or changed, or two neighbors exchanged.
pub(super) fn near(keyword: &str, word: &str) -> bool {
    if keyword.eq_ignore_ascii_case(word) {
        return true;
    }
    let (a, b) = (keyword.as_bytes(), word.as_bytes());
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (left_a, left_b) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    left_a.len().max(left_b.len()) <= 1 || matches!((left_a, left_b), ([x, y], [z, w]) if (x, y) == (w, z))
}
