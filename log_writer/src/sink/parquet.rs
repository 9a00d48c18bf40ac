//! Complete log files as Parquet: a column for each field, readable by DuckDB, pandas, Spark, ClickHouse and others.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type;

use super::{Record, Records, Sink};
use crate::format::Json;

/// Rows of a group: what is in memory at a time.
const ROWS_MAX: usize = 100_000;

/// Values of a column with gaps.
#[derive(Debug)]
enum Column {
    Text(Vec<ByteArray>, Vec<i16>),
    Bytes(Vec<ByteArray>, Vec<i16>),
    Int(Vec<i32>, Vec<i16>),
    Long(Vec<i64>, Vec<i16>),
    Time(Vec<i64>, Vec<i16>),
}

/// Names and kinds of columns. `line` has lines that are no access lines.
fn columns() -> Vec<(&'static str, Column)> {
    let text = || Column::Text(Vec::new(), Vec::new());
    let long = || Column::Long(Vec::new(), Vec::new());
    vec![
        ("time", Column::Time(Vec::new(), Vec::new())),
        ("vhost", text()),
        ("host", text()),
        ("user", text()),
        ("method", text()),
        ("target", text()),
        ("protocol", text()),
        ("status", Column::Int(Vec::new(), Vec::new())),
        ("bytes", long()),
        ("duration_us", long()),
        ("referer", text()),
        ("user_agent", text()),
        ("line", Column::Bytes(Vec::new(), Vec::new())),
        ("group", text()),
        ("source", text()),
        ("seq", long()),
    ]
}

impl Column {
    fn schema(&self, name: &str) -> parquet::errors::Result<Type> {
        let builder =
            |physical| Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
        match self {
            Self::Text(..) => builder(Physical::BYTE_ARRAY)
                .with_converted_type(ConvertedType::UTF8)
                .with_logical_type(Some(LogicalType::String))
                .build(),
            Self::Bytes(..) => builder(Physical::BYTE_ARRAY).build(),
            Self::Int(..) => builder(Physical::INT32).build(),
            Self::Long(..) => builder(Physical::INT64).build(),
            Self::Time(..) => builder(Physical::INT64)
                .with_logical_type(Some(LogicalType::timestamp(true, TimeUnit::MICROS)))
                .build(),
        }
    }

    fn bytes(&mut self, value: Option<&[u8]>) {
        match self {
            Self::Text(values, levels) => {
                levels.push(i16::from(value.is_some()));
                values.extend(
                    value.map(|v| ByteArray::from(String::from_utf8_lossy(v).into_owned().into_bytes())),
                );
            }
            Self::Bytes(values, levels) => {
                levels.push(i16::from(value.is_some()));
                values.extend(value.map(|v| ByteArray::from(v.to_vec())));
            }
            _ => {}
        }
    }

    fn number(&mut self, value: Option<i64>) {
        match self {
            Self::Long(values, levels) | Self::Time(values, levels) => {
                levels.push(i16::from(value.is_some()));
                values.extend(value);
            }
            Self::Int(values, levels) => {
                let value = value.and_then(|v| i32::try_from(v).ok());
                levels.push(i16::from(value.is_some()));
                values.extend(value);
            }
            _ => {}
        }
    }

    fn write(&mut self, mut out: SerializedColumnWriter<'_>) -> parquet::errors::Result<()> {
        match self {
            Self::Text(values, levels) | Self::Bytes(values, levels) => {
                out.typed::<ByteArrayType>().write_batch(values, Some(levels), None)?;
                values.clear();
                levels.clear();
            }
            Self::Int(values, levels) => {
                out.typed::<Int32Type>().write_batch(values, Some(levels), None)?;
                values.clear();
                levels.clear();
            }
            Self::Long(values, levels) | Self::Time(values, levels) => {
                out.typed::<Int64Type>().write_batch(values, Some(levels), None)?;
                values.clear();
                levels.clear();
            }
        }
        out.close()
    }
}

/// Writes rows.
pub struct Parquet<W: Write + Send> {
    writer: Option<SerializedFileWriter<W>>,
    columns: Vec<(&'static str, Column)>,
    rows: usize,
    json: Json,
}

impl<W: Write + Send> Parquet<W> {
    /// A file into `output`. Lines are read as combined, common or with virtual host.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn new(output: W) -> anyhow::Result<Self> {
        let columns = columns();
        let fields = columns
            .iter()
            .map(|(name, column)| column.schema(name).map(Arc::new))
            .collect::<parquet::errors::Result<Vec<_>>>()?;
        let schema = Type::group_type_builder("access_log").with_fields(fields).build()?;
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let writer = SerializedFileWriter::new(output, Arc::new(schema), Arc::new(properties))?;
        let json = Json::new(None).map_err(anyhow::Error::msg)?;
        Ok(Self { writer: Some(writer), columns, rows: 0, json })
    }

    fn write_rows(&mut self) -> anyhow::Result<()> {
        let Some(writer) = self.writer.as_mut().filter(|_| self.rows > 0) else { return Ok(()) };
        let mut group = writer.next_row_group()?;
        for (_, column) in &mut self.columns {
            if let Some(out) = group.next_column()? {
                column.write(out)?;
            }
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }
}

impl<W: Write + Send> Sink for Parquet<W> {
    fn put(&mut self, record: &Record) -> anyhow::Result<()> {
        let entry = self.json.entry(&record.line);
        let text = record.line.strip_suffix(b"\n").unwrap_or(&record.line);
        let request = entry.as_ref().and_then(access_log::Entry::request_line);
        let e = entry.unwrap_or_default();
        let (user, referer, agent) = (e.user(), e.referer(), e.user_agent());
        let source = record.origin.as_ref().map(|o| o.source.to_string());
        let long = |n: Option<u64>| n.and_then(|n| i64::try_from(n).ok());
        for (name, column) in &mut self.columns {
            match *name {
                "time" => column.number(e.time_us),
                "vhost" => column.bytes(e.vhost),
                "host" => column.bytes(Some(e.host).filter(|h| !h.is_empty())),
                "user" => column.bytes(user.as_deref()),
                "method" => column.bytes(request.as_ref().map(|r| &*r.method).or(e.method_raw)),
                "target" => column.bytes(request.as_ref().map(|r| &*r.target).or(e.path_raw)),
                "protocol" => column.bytes(request.as_ref().and_then(|r| r.protocol.as_deref())),
                "status" => column.number(e.status.map(i64::from)),
                "bytes" => column.number(long(e.bytes)),
                "duration_us" => column.number(long(e.duration_us)),
                "referer" => column.bytes(referer.as_deref()),
                "user_agent" => column.bytes(agent.as_deref()),
                "line" => column.bytes(Some(text).filter(|_| entry.is_none())),
                "group" => column.bytes(record.origin.as_ref().map(|o| &o.group[..])),
                "source" => column.bytes(source.as_deref().map(str::as_bytes)),
                _ => column.number(long(record.origin.as_ref().map(|o| o.seq))),
            }
        }
        self.rows += 1;
        if self.rows >= ROWS_MAX { self.write_rows() } else { Ok(()) }
    }

    /// Ends the file: nothing can be put after this.
    fn commit(&mut self) -> anyhow::Result<()> {
        self.write_rows()?;
        if let Some(writer) = self.writer.take() {
            writer.close()?;
        }
        Ok(())
    }
}

/// Makes a Parquet file of a log.
///
/// # Errors
/// When the log or its index cannot be read, or nothing can be written.
pub fn convert(log: &Path, output: &mut (impl Write + Send)) -> anyhow::Result<()> {
    let mut records = Records::open(log)?;
    let mut sink = Parquet::new(output)?;
    while let Some(record) = records.next_line()? {
        sink.put(&record)?;
    }
    sink.commit()
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    use super::*;

    #[test]
    fn rows_come_back_with_their_fields_and_numbers() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a.log");
        let good = "192.0.2.4 - bob [10/Oct/2000:13:55:36 -0700] \"GET /1 HTTP/1.1\" 200 5\n";
        std::fs::write(&path, format!("{good}no access line\n")).expect("write");
        let mut index =
            crate::index::Index::open(crate::index::Index::path_of(&path), 0, false, |_| Ok((0, 0)))
                .expect("index");
        index.line(&bytes::Bytes::from_static(b"site4"), log_stream::SourceId([7; 16]), 41, 1);
        index.plain(1);
        index.flush(good.len() as u64 + 15, 0, 2).expect("flush");
        let mut out = Vec::new();
        convert(&path, &mut out).expect("convert");
        let reader = SerializedFileReader::new(bytes::Bytes::from(out)).expect("parquet");
        assert_eq!(reader.metadata().file_metadata().num_rows(), 2);
        let rows: Vec<_> = reader.get_row_iter(None).expect("rows").map(|r| r.expect("row")).collect();
        assert_eq!(rows[0].get_timestamp_micros(0).expect("time"), 971_211_336_000_000);
        assert_eq!(rows[0].get_string(3).expect("user"), "bob");
        assert_eq!((rows[0].get_int(7).expect("status"), rows[0].get_long(15).expect("seq")), (200, 41));
        assert_eq!(rows[0].get_string(13).expect("group"), "site4");
        assert_eq!(rows[1].get_bytes(12).expect("line").data(), b"no access line");
    }
}
