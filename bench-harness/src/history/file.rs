//! The history file: one JSON object a line, appended and fsynced.
//!
//! Owned by one thread. Invariant: a `acked` line that [`HistoryWriter::acked`] returned from is on
//! the device. A last line without its newline was cut by a crash and is left out on reading.
//!
//! | line | fields |
//! |---|---|
//! | `run` | run, topic: the first line |
//! | `sent` | topic, partition, sequence, crc (crc32 of the value), sent_ms |
//! | `acked` | the same and offset |

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::limits::HISTORY_LINE_BYTES_MAX;

/// A history that cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file system refused. Nothing more may count as acknowledged.
    #[error("history {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A line before the last is not one of a history: another file, or damage.
    #[error("history {}, line {line}: {detail}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Line number from 1.
        line: u64,
        /// What did not fit.
        detail: String,
    },
    /// The broker could not be asked.
    #[error(transparent)]
    Client(#[from] crate::client::ClientError),
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// First line: who writes.
    Run {
        /// Random number of this history.
        run: u64,
        /// Topic produced to.
        topic: String,
    },
    /// A record is about to be sent.
    Sent {
        /// Partition.
        partition: i32,
        /// Sequence within the partition.
        sequence: u64,
        /// crc32 of the value.
        crc: u32,
        /// When, in milliseconds since the epoch.
        sent_ms: i64,
    },
    /// A record was acknowledged.
    Acked {
        /// Partition.
        partition: i32,
        /// Sequence within the partition.
        sequence: u64,
        /// crc32 of the value.
        crc: u32,
        /// When it was sent, in milliseconds since the epoch.
        sent_ms: i64,
        /// Offset the broker gave it.
        offset: i64,
    },
}

/// A history read back whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Random number of this history.
    pub run: u64,
    /// Topic produced to.
    pub topic: String,
    /// All `sent` and `acked` events in order.
    pub events: Vec<Event>,
    /// Bytes of whole lines.
    pub whole_bytes: u64,
}

impl History {
    /// Reads `path`. A cut last line is left out; any other wrong line is an error.
    pub fn read(path: &Path) -> Result<Self, HistoryError> {
        let io_error = |source| HistoryError::Io {
            path: path.to_owned(),
            source,
        };
        let mut reader = BufReader::new(File::open(path).map_err(io_error)?);
        let mut history = History::default();
        let mut line = Vec::new();
        for number in 1u64.. {
            let damaged = |detail: String| HistoryError::Damaged {
                path: path.to_owned(),
                line: number,
                detail,
            };
            line.clear();
            let most = HISTORY_LINE_BYTES_MAX as u64;
            let read = (&mut reader)
                .take(most)
                .read_until(b'\n', &mut line)
                .map_err(io_error)?;
            if line.last() != Some(&b'\n') {
                if read as u64 == most {
                    return Err(damaged(format!("longer than {HISTORY_LINE_BYTES_MAX} bytes")));
                }
                break;
            }
            let event: Event = serde_json::from_slice(&line).map_err(|e| damaged(e.to_string()))?;
            match event {
                Event::Run { run, topic } if number == 1 => (history.run, history.topic) = (run, topic),
                Event::Run { .. } => return Err(damaged("a second first line".to_owned())),
                _ if number == 1 => return Err(damaged("does not begin with its run".to_owned())),
                event => history.events.push(event),
            }
            history.whole_bytes += read as u64;
        }
        if history.whole_bytes == 0 {
            return Err(HistoryError::Damaged {
                path: path.to_owned(),
                line: 1,
                detail: "holds no whole line".to_owned(),
            });
        }
        Ok(history)
    }
}

/// Appends to a history file.
#[derive(Debug)]
pub struct HistoryWriter {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
}

impl HistoryWriter {
    /// Begins a new history or goes on with the one at `path`, whose cut last line is removed.
    pub fn open(path: &Path, topic: &str, new_run: u64) -> Result<(Self, History), HistoryError> {
        let io_error = |source| HistoryError::Io {
            path: path.to_owned(),
            source,
        };
        let is_new = std::fs::metadata(path).map_or(true, |m| m.len() == 0);
        let history = match is_new {
            true => History {
                run: new_run,
                topic: topic.to_owned(),
                ..History::default()
            },
            false => History::read(path)?,
        };
        if history.topic != topic {
            let detail = format!("is about topic {}, not {topic}", history.topic);
            return Err(HistoryError::Damaged {
                path: path.to_owned(),
                line: 1,
                detail,
            });
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(io_error)?;
        file.set_len(history.whole_bytes).map_err(io_error)?;
        file.seek(SeekFrom::End(0)).map_err(io_error)?;
        let mut writer = HistoryWriter {
            file,
            path: path.to_owned(),
            buffer: Vec::new(),
        };
        if is_new {
            writer.push(&Event::Run {
                run: new_run,
                topic: topic.to_owned(),
            })?;
            writer.sync()?;
            let parent = path
                .parent()
                .filter(|p| !p.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            File::open(parent).and_then(|d| d.sync_all()).map_err(io_error)?;
        }
        Ok((writer, history))
    }

    /// Notes what is about to be sent; written before this returns, but not synced.
    pub fn sent(&mut self, events: &[Event]) -> Result<(), HistoryError> {
        for event in events {
            self.push(event)?;
        }
        self.write()
    }

    /// Notes acknowledgements; on the device when this returns.
    pub fn acked(&mut self, events: &[Event]) -> Result<(), HistoryError> {
        for event in events {
            self.push(event)?;
        }
        self.sync()
    }

    fn push(&mut self, event: &Event) -> Result<(), HistoryError> {
        serde_json::to_writer(&mut self.buffer, event).map_err(|e| self.failed(e.into()))?;
        self.buffer.push(b'\n');
        Ok(())
    }

    fn write(&mut self) -> Result<(), HistoryError> {
        let written = self.file.write_all(&self.buffer);
        self.buffer.clear();
        written.map_err(|e| self.failed(e))
    }

    fn sync(&mut self) -> Result<(), HistoryError> {
        self.write()?;
        self.file.sync_data().map_err(|e| self.failed(e))
    }

    fn failed(&self, source: io::Error) -> HistoryError {
        HistoryError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acked(sequence: u64) -> Event {
        Event::Acked {
            partition: 0,
            sequence,
            crc: 7,
            sent_ms: 1,
            offset: sequence as i64,
        }
    }

    #[test]
    fn a_history_goes_on_after_a_cut_line() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("history");
        let (mut writer, history) = HistoryWriter::open(&path, "logs", 42).expect("new");
        assert_eq!((history.run, history.events.len()), (42, 0));
        writer.acked(&[acked(0)]).expect("acked");
        drop(writer);
        OpenOptions::new()
            .append(true)
            .open(&path)
            .expect("open")
            .write_all(b"{\"acked\":{")
            .expect("cut");

        let (mut writer, history) = HistoryWriter::open(&path, "logs", 43).expect("again");
        assert_eq!((history.run, history.events), (42, vec![acked(0)]));
        writer.acked(&[acked(1)]).expect("acked");
        assert_eq!(
            History::read(&path).expect("whole").events,
            vec![acked(0), acked(1)]
        );
    }

    #[test]
    fn a_foreign_or_damaged_file_is_refused_by_line() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("history");
        std::fs::write(&path, "hello\nworld\n").expect("write");
        let error = History::read(&path).expect_err("foreign").to_string();
        assert!(error.contains("line 1"), "{error}");
        std::fs::remove_file(&path).expect("remove");
        drop(HistoryWriter::open(&path, "logs", 1).expect("new"));
        let error = HistoryWriter::open(&path, "other", 1)
            .expect_err("other topic")
            .to_string();
        assert!(error.contains("logs"), "{error}");
    }
}
