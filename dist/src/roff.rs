//! Documents as man pages: the part of Markdown that `docs/reference` uses, as macros of `man(7)`.
//!
//! Headings, paragraphs, lists, tables, fenced blocks; code, links and emphasis inside them. A table becomes a list of
//! tagged paragraphs: the first column is the tag, the others are the text.

use std::fmt::Write as _;

/// Makes a page of section 5.
pub fn page(markdown: &str, name: &str, what: &str) -> String {
    let mut page = Page { out: String::new(), state: State::Text };
    let _ = writeln!(page.out, ".TH \"{name}\" 5 \"\" \"\" \"Spread\"\n.SH NAME\n{name} \\- {what}");
    page.out.push_str(".SH DESCRIPTION\n");
    for line in markdown.lines() {
        page.line(line);
    }
    page.out
}

enum State {
    /// In or before a paragraph.
    Text,
    /// In a fenced block.
    Fence,
    /// In a table: the heads of its columns, until the first row; then whether they were told.
    Table(Vec<String>),
}

struct Page {
    out: String,
    state: State,
}

impl Page {
    fn line(&mut self, line: &str) {
        if matches!(self.state, State::Fence) {
            if line.trim_start().starts_with("```") {
                self.out.push_str(".fi\n.RE\n");
                self.state = State::Text;
            } else {
                self.put(&escape(line));
            }
            return;
        }
        let text = line.trim();
        if let Some(row) = text.strip_prefix('|') {
            return self.row(row.strip_suffix('|').unwrap_or(row));
        }
        self.state = State::Text;
        if text.starts_with("```") {
            self.out.push_str(".PP\n.RS 4\n.nf\n");
            self.state = State::Fence;
        } else if let Some(title) = text.strip_prefix("## ") {
            let _ = writeln!(self.out, ".SH {}", quoted(&title.to_uppercase()));
        } else if let Some(title) = text.strip_prefix("### ").or_else(|| text.strip_prefix("#### ")) {
            let _ = writeln!(self.out, ".SS {}", quoted(title));
        } else if text.starts_with("# ") {
            // The name of the page says it.
        } else if text.is_empty() {
            self.out.push_str(".PP\n");
        } else if let Some(item) = text.strip_prefix("- ").or_else(|| text.strip_prefix("* ")) {
            self.out.push_str(".IP \\(bu 2\n");
            self.put(&inline(item));
        } else {
            self.put(&inline(text));
        }
    }

    fn row(&mut self, row: &str) {
        let cells = cells(row);
        if cells.iter().all(|cell| !cell.is_empty() && cell.chars().all(|c| matches!(c, '-' | ':'))) {
            return;
        }
        let State::Table(heads) = &self.state else {
            self.state = State::Table(cells);
            return;
        };
        let tag = cells.first().map_or("", String::as_str);
        self.out.push_str(".TP\n");
        let mut text = String::new();
        for (i, cell) in cells.iter().enumerate().skip(1).filter(|(_, cell)| !cell.is_empty()) {
            if !text.is_empty() {
                text.push_str("; ");
            }
            // With two columns the head says nothing that the text does not.
            if let Some(head) = heads.get(i).filter(|head| cells.len() > 2 && !head.is_empty()) {
                let _ = write!(text, "{}: ", inline(head));
            }
            text.push_str(&inline(cell));
        }
        let tag = if tag.is_empty() { "\\ ".to_owned() } else { inline(tag) };
        self.put(&tag);
        self.put(if text.is_empty() { "\\ " } else { &text });
    }

    /// A line of text, which must not be taken for a macro.
    fn put(&mut self, line: &str) {
        if line.starts_with(['.', '\'']) {
            self.out.push_str("\\&");
        }
        self.out.push_str(line);
        self.out.push('\n');
    }
}

/// Splits a row at its bars, but not at `\\|` nor inside code.
fn cells(row: &str) -> Vec<String> {
    let mut cells = Vec::new();
    let mut cell = String::new();
    let mut code = false;
    let mut chars = row.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.next_if_eq(&'|').is_some() => cell.push('|'),
            '|' if !code => cells.push(std::mem::take(&mut cell)),
            c => {
                code ^= c == '`';
                cell.push(c);
            }
        }
    }
    cells.push(cell);
    cells.iter().map(|cell| cell.trim().to_owned()).collect()
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", inline(text).replace('"', "\\(dq"))
}

/// Code becomes bold, a link its text, emphasis bold.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '[', '*']) {
        out.push_str(&escape(&rest[..at]));
        let tail = &rest[at..];
        let span = |open: &str, close: &str| {
            let inner = tail.strip_prefix(open)?;
            let end = inner.find(close).filter(|end| *end > 0)?;
            Some((&inner[..end], &inner[end + close.len()..]))
        };
        if let Some((code, after)) = span("`", "`") {
            let _ = write!(out, "\\fB{}\\fR", escape(code));
            rest = after;
        } else if let Some((strong, after)) = span("**", "**") {
            let _ = write!(out, "\\fB{}\\fR", inline(strong));
            rest = after;
        } else if let Some((label, after)) = span("[", "](")
            && let Some(end) = after.find(')')
        {
            out.push_str(&inline(label));
            rest = &after[end + 1..];
        } else {
            out.push_str(&escape(&tail[..1]));
            rest = &tail[1..];
        }
    }
    out.push_str(&escape(rest));
    out
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(markdown: &str) -> String {
        let page = page(markdown, "x", "about x");
        page.split_once(".SH DESCRIPTION\n").unwrap().1.to_owned()
    }

    #[test]
    fn text_and_headings() {
        assert_eq!(
            body("# x\n\nUse `a-b` or [this](y.md), **not** that.\n.dot\n## Words \"1\"\n### part\n"),
            ".PP\nUse \\fBa\\-b\\fR or this, \\fBnot\\fR that.\n\\&.dot\n.SH \"WORDS \\(dq1\\(dq\"\n.SS \"part\"\n"
        );
    }

    #[test]
    fn blocks_are_kept_as_they_are() {
        assert_eq!(
            body("```text\n| a `b` |\n.c\\d\n```\n"),
            ".PP\n.RS 4\n.nf\n| a `b` |\n\\&.c\\ed\n.fi\n.RE\n"
        );
    }

    #[test]
    fn tables_are_tagged_paragraphs() {
        assert_eq!(
            body("| w | form |\n|---|---|\n| `=` | a \\| b `|` |\n"),
            ".TP\n\\fB=\\fR\na | b \\fB|\\fR\n"
        );
        assert_eq!(
            body("| w | form | default |\n|---|---|---|\n| a | n | 5 |\n| b | | 6 |\n"),
            ".TP\na\nform: n; default: 5\n.TP\nb\ndefault: 6\n"
        );
    }

    #[test]
    fn lists_and_stray_marks() {
        assert_eq!(body("- one *two\n- [x\n"), ".IP \\(bu 2\none *two\n.IP \\(bu 2\n[x\n");
    }
}
