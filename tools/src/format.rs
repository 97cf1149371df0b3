//! `consume -f`: a format string in the manner of kcat, parsed once and applied to each record.
//!
//! `%t` topic, `%p` partition, `%o` offset, `%k` key, `%K` key length, `%s` value, `%S` value length,
//! `%T` timestamp (ms), `%h` headers (`a=1,b=2`), `%%` a percent sign; `\n`, `\r`, `\t`, `\0`, `\\`, `\xHH`.

use std::io::{self, Write};

use tidelog_bench::client::Record;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Key,
    KeyLength,
    Value,
    ValueLength,
    Timestamp,
    Headers,
}

/// A parsed format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordFormat {
    pieces: Vec<Piece>,
}

impl RecordFormat {
    /// The value and a newline.
    pub fn value_lines() -> Self {
        RecordFormat {
            pieces: vec![Piece::Value, Piece::Text(b"\n".to_vec())],
        }
    }

    /// Parses a format string.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' => {
                    let token = letters
                        .next()
                        .ok_or("ends with a lone %; write %% for a percent sign")?;
                    if token == '%' {
                        plain.push(b'%');
                        continue;
                    }
                    let piece = piece_of(token)
                        .ok_or_else(|| format!("%{token} is not one of %t %p %o %k %K %s %S %T %h %%"))?;
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(piece);
                }
                '\\' => plain.push(escape(&mut letters)?),
                other => plain.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(RecordFormat { pieces })
    }

    /// Writes `record` of `topic`-`partition`.
    pub fn write(
        &self,
        out: &mut impl Write,
        topic: &str,
        partition: i32,
        record: &Record,
    ) -> io::Result<()> {
        let length = |field: &Option<bytes::Bytes>| field.as_ref().map_or(-1, |f| f.len() as i64);
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.write_all(text)?,
                Piece::Topic => out.write_all(topic.as_bytes())?,
                Piece::Partition => write!(out, "{partition}")?,
                Piece::Offset => write!(out, "{}", record.offset)?,
                Piece::Key => out.write_all(record.key.as_deref().unwrap_or_default())?,
                Piece::KeyLength => write!(out, "{}", length(&record.key))?,
                Piece::Value => out.write_all(record.value.as_deref().unwrap_or_default())?,
                Piece::ValueLength => write!(out, "{}", length(&record.value))?,
                Piece::Timestamp => write!(out, "{}", record.timestamp_ms)?,
                Piece::Headers => write_headers(out, record)?,
            }
        }
        Ok(())
    }
}

fn piece_of(token: char) -> Option<Piece> {
    Some(match token {
        't' => Piece::Topic,
        'p' => Piece::Partition,
        'o' => Piece::Offset,
        'k' => Piece::Key,
        'K' => Piece::KeyLength,
        's' => Piece::Value,
        'S' => Piece::ValueLength,
        'T' => Piece::Timestamp,
        'h' => Piece::Headers,
        _ => return None,
    })
}

/// One byte written as an escape; also used for key delimiters.
fn escape(letters: &mut std::str::Chars<'_>) -> Result<u8, String> {
    match letters.next() {
        Some('n') => Ok(b'\n'),
        Some('r') => Ok(b'\r'),
        Some('t') => Ok(b'\t'),
        Some('0') => Ok(0),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let digits: String = letters.take(2).collect();
            u8::from_str_radix(&digits, 16)
                .ok()
                .filter(|_| digits.len() == 2)
                .ok_or_else(|| {
                    format!("\\x{digits} is not a byte; write two hexadecimal digits, such as \\x1f")
                })
        }
        Some(other) => Err(format!("\\{other} is not one of \\n \\r \\t \\0 \\\\ \\xHH")),
        None => Err("ends with a lone \\; write \\\\ for a backslash".to_owned()),
    }
}

/// Replaces escapes in a delimiter.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => plain.push(escape(&mut letters)?),
            other => plain.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(plain)
}

fn write_headers(out: &mut impl Write, record: &Record) -> io::Result<()> {
    for (at, (name, value)) in record.headers.iter().enumerate() {
        if at > 0 {
            out.write_all(b",")?;
        }
        write!(out, "{name}=")?;
        out.write_all(value.as_deref().unwrap_or(b"NULL"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(format: &str) -> String {
        let record = Record {
            offset: 7,
            timestamp_ms: 99,
            key: Some("k1".into()),
            value: None,
            headers: vec![("a".into(), Some("1".into())), ("b".into(), None)],
        };
        let mut out = Vec::new();
        RecordFormat::parse(format)
            .expect(format)
            .write(&mut out, "logs", 3, &record)
            .expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn every_token_is_replaced() {
        assert_eq!(
            show("%t/%p@%o %k(%K)=%s(%S) %T %h%%\\n"),
            "logs/3@7 k1(2)=(-1) 99 a=1,b=NULL%\n"
        );
        assert_eq!(show("\\x41\\t\\\\é"), "A\t\\é");
        assert_eq!(show(""), "");
    }

    #[test]
    fn wrong_formats_are_named() {
        for (format, named) in [
            ("%q", "%q"),
            ("%", "lone %"),
            ("\\", "lone \\"),
            ("\\q", "\\q"),
            ("\\xZZ", "\\xZZ"),
        ] {
            let error = RecordFormat::parse(format).expect_err(format);
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn delimiters_take_escapes() {
        assert_eq!(unescape("\\t"), Ok(b"\t".to_vec()));
        assert_eq!(unescape(":"), Ok(b":".to_vec()));
        assert!(unescape("\\").is_err());
    }
}
