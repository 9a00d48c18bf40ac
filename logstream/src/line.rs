//! Cutting over-long lines.
// spec: mod_log_spread M-6

/// Default of the longest line, its line feed included.
pub const LINE_BYTES_DEFAULT: usize = 65_536;
/// Shortest limit that can be configured: room for the cut mark and something before it.
pub const LINE_BYTES_MIN: usize = 256;
/// Longest limit that can be configured: a message with one such line stays below the message limit.
pub const LINE_BYTES_MAX: usize = 131_072 - 64;

/// Bytes kept free for `...[cut N bytes]`, a closing quote and the line feed.
const MARK_BYTES: usize = 48;

/// Cuts `line` to at most `max` bytes when it is longer, and says so. The head is kept, `...[cut N bytes]` appended,
/// an open quote closed, an escape (`\x41`, `\"`) never split, and the line ends with a line feed.
pub fn cut(line: &mut Vec<u8>, max: usize) -> bool {
    if line.len() <= max {
        return false;
    }
    let max = max.max(LINE_BYTES_MIN);
    let (keep, quoted) = boundary(line, max - MARK_BYTES);
    let gone = line.len() - keep - usize::from(line.ends_with(b"\n"));
    line.truncate(keep);
    line.extend_from_slice(format!("...[cut {gone} bytes]").as_bytes());
    if quoted {
        line.push(b'"');
    }
    line.push(b'\n');
    true
}

/// The last place at or before `limit` that is not inside an escape, and whether it is inside quotes.
fn boundary(line: &[u8], limit: usize) -> (usize, bool) {
    let mut at = 0;
    let mut quoted = false;
    while at < limit {
        let step = match line[at] {
            b'\\' if line.get(at + 1) == Some(&b'x') => 4,
            b'\\' => 2,
            _ => 1,
        };
        if at + step > limit {
            break;
        }
        if line[at] == b'"' {
            quoted = !quoted;
        }
        at += step;
    }
    (at, quoted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut_of(text: &[u8], max: usize) -> Vec<u8> {
        let mut line = text.to_vec();
        cut(&mut line, max);
        line
    }

    #[test]
    fn short_lines_stay() {
        let mut line = b"abc\n".to_vec();
        assert!(!cut(&mut line, 4));
        assert_eq!(line, b"abc\n");
    }

    #[test]
    fn a_quote_is_closed() {
        let text = [&b"h - - [t] \"GET /"[..], &[b'a'; 400], b" HTTP/1.1\" 200 5\n"].concat();
        let line = cut_of(&text, 256);
        // 208 bytes are kept of 432 without the line feed.
        assert!(line.ends_with(b"a...[cut 224 bytes]\"\n"), "{}", String::from_utf8_lossy(&line));
        assert!(line.len() <= 256);
    }

    #[test]
    fn outside_of_quotes_none_is_added() {
        let line = cut_of(&[b'a'; 500], 256);
        assert!(line.ends_with(b"a...[cut 292 bytes]\n"), "{}", String::from_utf8_lossy(&line));
    }

    #[test]
    fn escapes_stay_whole() {
        for lead in 0..4 {
            let text = [&b"aaaa"[..lead], &b"\\xc3".repeat(200)].concat();
            let line = cut_of(&text, 256);
            let body = &line[lead..line.iter().position(|b| *b == b'.').expect("mark")];
            assert_eq!(body.len() % 4, 0, "{}", String::from_utf8_lossy(&line));
        }
        let line = cut_of(&[&b"\""[..], &b"\\\"".repeat(200)].concat(), 256);
        assert!(line.ends_with(b"\\\"...[cut 194 bytes]\"\n"), "{}", String::from_utf8_lossy(&line));
    }

    proptest! {
        #[test]
        fn cut_lines_fit_and_end(text in prop::collection::vec(any::<u8>(), 0..2000), max in 256usize..1500) {
            let line = cut_of(&text, max);
            prop_assert!(line.len() <= max.max(text.len().min(max)));
            prop_assert!(text.len() <= max || line.ends_with(b"\n"));
        }
    }
}
