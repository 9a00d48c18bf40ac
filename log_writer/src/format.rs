//! In which form a line is written.
// spec: log_writer 5.9

use access_log::Format as LineFormat;
use base64::Engine as _;
use log_stream::SourceId;

/// Where a line comes from. No two lines have the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin<'a> {
    /// Group.
    pub group: &'a [u8],
    /// Source.
    pub source: SourceId,
    /// Number of the message in the group.
    pub seq: u64,
    /// Place among the lines of its message; most messages have one line.
    pub part: u64,
}

/// Forms of lines.
#[derive(Clone, Debug, Default)]
pub enum Form {
    /// As received.
    #[default]
    Raw,
    /// As received, with ` source=... seq=...` at the end.
    Meta,
    /// One JSON object: the fields of the line, its group, source and number.
    Json(Box<Json>),
}

/// How lines are read for JSON.
#[derive(Clone, Debug)]
pub struct Json {
    /// Formats that are tried one after another.
    formats: Vec<LineFormat>,
}

impl PartialEq for Form {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl Json {
    /// Reads lines of this format (a name or the string of a `LogFormat`); `None`: of the three known ones.
    ///
    /// # Errors
    /// When the format is not understood.
    pub fn new(format: Option<&str>) -> Result<Self, String> {
        let formats = match format {
            Some(text) => vec![LineFormat::compile(text).map_err(|error| error.to_string())?],
            None => {
                ["combined", "common", "vhost_combined"].into_iter().filter_map(LineFormat::named).collect()
            }
        };
        Ok(Self { formats })
    }

    /// The fields of a line, by the first format that fits.
    pub fn entry<'a>(&self, line: &'a [u8]) -> Option<access_log::Entry<'a>> {
        self.formats.iter().find_map(|format| format.parse(line).ok())
    }
}

impl Form {
    /// Reads a name: `raw`, `meta` or `json`.
    ///
    /// # Errors
    /// What is expected.
    pub fn parse(name: &str, line_format: Option<&str>) -> Result<Self, String> {
        match name {
            "raw" => Ok(Self::Raw),
            "meta" => Ok(Self::Meta),
            "json" => Ok(Self::Json(Box::new(Json::new(line_format)?))),
            _ => Err("one of raw, meta, json is expected".into()),
        }
    }

    /// True when lines are written as they are.
    pub fn is_raw(&self) -> bool {
        matches!(self, Self::Raw)
    }

    /// Appends the line in this form to `out`. A missing line feed at the end is added.
    pub fn write(&self, line: &[u8], origin: Option<Origin<'_>>, out: &mut Vec<u8>) {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        match self {
            Self::Raw => out.extend_from_slice(text),
            Self::Meta => {
                out.extend_from_slice(text);
                if let Some(Origin { source, seq, .. }) = origin {
                    out.extend_from_slice(format!(" source={source} seq={seq}").as_bytes());
                }
            }
            Self::Json(json) => json.write(line, text, origin, out),
        }
        out.push(b'\n');
    }
}

impl Json {
    fn write(&self, line: &[u8], text: &[u8], origin: Option<Origin<'_>>, out: &mut Vec<u8>) {
        let mut object = Object { out, first: true };
        object.out.push(b'{');
        let whole: Vec<u8>;
        let line = if line.ends_with(b"\n") {
            line
        } else {
            whole = [line, b"\n"].concat();
            &whole
        };
        match self.entry(line) {
            Some(entry) => object.entry(&entry),
            None => object.text("unparsed", Some(text)),
        }
        if std::str::from_utf8(text).is_err() {
            let raw = base64::engine::general_purpose::STANDARD.encode(text);
            object.text("raw_b64", Some(raw.as_bytes()));
        }
        if let Some(origin) = origin {
            object.text("group", Some(origin.group));
            object.text("source", Some(origin.source.to_string().as_bytes()));
            object.number("seq", Some(origin.seq));
            object.number("part", Some(origin.part).filter(|part| *part > 0));
        }
        object.out.push(b'}');
    }
}

/// A JSON object that is being written. Fields that a line does not have are left out.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl Object<'_> {
    fn entry(&mut self, e: &access_log::Entry<'_>) {
        self.text("vhost", e.vhost);
        self.number("vhost_port", e.vhost_port);
        self.text("host", Some(e.host).filter(|h| !h.is_empty()));
        self.text("ident", e.ident);
        self.text("user", e.user().as_deref());
        self.text("time", e.time);
        self.number("time_us", e.time_us);
        self.number("utc_offset_s", e.utc_offset);
        self.text("request", e.request().as_deref());
        let request = e.request_line();
        self.text("method", request.as_ref().map(|r| &*r.method).or(e.method_raw));
        self.text("target", request.as_ref().map(|r| &*r.target).or(e.path_raw));
        self.text("protocol", request.as_ref().and_then(|r| r.protocol.as_deref()));
        self.number("status", e.status);
        self.number("bytes", e.bytes);
        self.number("duration_us", e.duration_us);
        self.text("referer", e.referer().as_deref());
        self.text("user_agent", e.user_agent().as_deref());
    }

    fn key(&mut self, key: &str) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn number(&mut self, key: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.key(key);
            self.out.extend_from_slice(value.to_string().as_bytes());
        }
    }

    /// A text; bytes that are no UTF-8 become U+FFFD.
    fn text(&mut self, key: &str, value: Option<&[u8]>) {
        let Some(value) = value else { return };
        self.key(key);
        self.out.push(b'"');
        for chunk in value.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '"' => self.out.extend_from_slice(b"\\\""),
                    '\\' => self.out.extend_from_slice(b"\\\\"),
                    '\n' => self.out.extend_from_slice(b"\\n"),
                    '\u{0}'..='\u{1f}' | '\u{7f}' => {
                        self.out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
                    }
                    c => self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
            if !chunk.invalid().is_empty() {
                self.out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
        self.out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"192.0.2.4 - bob [10/Oct/2000:13:55:36 -0700] \"GET /a\\\"b\\xff HTTP/1.1\" 200 5\n";
    const ORIGIN: Option<Origin<'_>> =
        Some(Origin { group: b"site4", source: SourceId([0xab; 16]), seq: 7, part: 0 });

    fn json(line: &[u8]) -> serde_json::Value {
        let mut out = Vec::new();
        Form::parse("json", None).expect("known").write(line, ORIGIN, &mut out);
        assert!(out.ends_with(b"}\n") && out.iter().filter(|b| **b == b'\n').count() == 1);
        serde_json::from_slice(&out).expect("valid JSON")
    }

    #[test]
    fn json_has_the_fields_the_source_and_the_number() {
        let value = json(LINE);
        assert_eq!(value["host"], "192.0.2.4");
        assert_eq!(value["user"], "bob");
        assert_eq!((&value["status"], &value["bytes"]), (&200.into(), &5.into()));
        assert_eq!(value["target"], "/a\"b\u{fffd}");
        assert_eq!(value["time_us"], 971_211_336_000_000u64);
        assert_eq!((&value["group"], &value["seq"]), (&"site4".into(), &7.into()));
        assert_eq!(value["source"], "ab".repeat(16));
        assert!(
            value.get("part").is_none() && value.get("referer").is_none() && value.get("raw_b64").is_none()
        );
    }

    #[test]
    fn what_is_no_access_line_is_kept_whatever_its_bytes() {
        let value = json(b"\x00\xff \"{}\\");
        assert_eq!(value["unparsed"], "\0\u{fffd} \"{}\\");
        let raw = base64::engine::general_purpose::STANDARD.decode(value["raw_b64"].as_str().expect("text"));
        assert_eq!(raw.expect("base64"), b"\x00\xff \"{}\\");
        assert_eq!(json(b"")["unparsed"], "");
        assert_eq!(json(&vec![b'x'; 65_536])["unparsed"].as_str().expect("text").len(), 65_536);
    }

    #[test]
    fn meta_adds_the_number_to_the_line() {
        let mut out = Vec::new();
        Form::parse("meta", None).expect("known").write(b"a\n", ORIGIN, &mut out);
        Form::Meta.write(b"b", None, &mut out);
        assert_eq!(out, format!("a source={} seq=7\nb\n", "ab".repeat(16)).as_bytes());
    }

    #[test]
    fn the_format_of_the_lines_can_be_given() {
        let form = Form::parse("json", Some("%h %s")).expect("good");
        let mut out = Vec::new();
        form.write(b"h 404\n", None, &mut out);
        assert_eq!(out, b"{\"host\":\"h\",\"status\":404}\n");
        Form::parse("json", Some("%h%s")).expect_err("cannot be told apart");
        Form::parse("xml", None).expect_err("unknown");
    }
}
