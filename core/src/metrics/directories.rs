//! The room on each data directory's file system, as Prometheus text.

use std::fmt::Write as _;
use std::path::PathBuf;

/// One directory's figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryMetrics {
    /// The directory.
    pub path: PathBuf,
    /// Bytes of its file system; -1 when not known.
    pub total_bytes: i64,
    /// Bytes that may still be written; -1 when not known.
    pub usable_bytes: i64,
    /// Whether clients may write.
    pub takes_writes: bool,
    /// Bytes of files that are kept to be recycled.
    pub spare_bytes: i64,
    /// Segments that were made of such files.
    pub recycled: i64,
    /// Writes and syncs of segments, and openings of partitions, that failed for the device.
    pub errors: i64,
}

/// A family: its name without prefix, its type, its help line, and how to read it.
type Family = (
    &'static str,
    &'static str,
    &'static str,
    fn(&DirectoryMetrics) -> i64,
);

const FAMILIES: [Family; 6] = [
    (
        "storage_total_bytes",
        "gauge",
        "Bytes of the file system of a data directory.",
        |d| d.total_bytes,
    ),
    (
        "storage_usable_bytes",
        "gauge",
        "Bytes that may still be written there.",
        |d| d.usable_bytes,
    ),
    (
        "storage_takes_writes",
        "gauge",
        "1 while producers may write there, 0 below storage.min_free.",
        |d| i64::from(d.takes_writes),
    ),
    (
        "storage_spare_bytes",
        "gauge",
        "Bytes of files there that are kept to become segments again.",
        |d| d.spare_bytes,
    ),
    (
        "storage_segments_recycled_total",
        "counter",
        "Segments there that were made of such files, since the start.",
        |d| d.recycled,
    ),
    (
        "storage_segment_errors_total",
        "counter",
        "Writes and syncs of segments there, and openings of partitions, that failed for the device.",
        |d| d.errors,
    ),
];

/// Writes all families, a series for each directory.
pub fn render_directories(directories: &[DirectoryMetrics]) -> String {
    let mut out = String::new();
    for (name, kind, help, read) in FAMILIES {
        let _ = writeln!(out, "# HELP tidelog_{name} {help}\n# TYPE tidelog_{name} {kind}");
        for directory in directories {
            let path = escaped(&directory.path.to_string_lossy());
            let value = read(directory);
            let _ = writeln!(out, "tidelog_{name}{{directory=\"{path}\"}} {value}");
        }
    }
    out
}

/// As a label's value is written.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_has_its_series() {
        let directory = |path: &str, takes_writes| DirectoryMetrics {
            path: path.into(),
            total_bytes: 10,
            usable_bytes: -1,
            takes_writes,
            spare_bytes: 7,
            recycled: 3,
            errors: 2,
        };
        let text = render_directories(&[directory("/a", true), directory("/b \"\\\n", false)]);
        for line in [
            "# TYPE tidelog_storage_total_bytes gauge",
            "tidelog_storage_total_bytes{directory=\"/a\"} 10",
            "tidelog_storage_usable_bytes{directory=\"/a\"} -1",
            "tidelog_storage_takes_writes{directory=\"/a\"} 1",
            "tidelog_storage_spare_bytes{directory=\"/a\"} 7",
            "# TYPE tidelog_storage_segments_recycled_total counter",
            "tidelog_storage_segments_recycled_total{directory=\"/a\"} 3",
            "# TYPE tidelog_storage_segment_errors_total counter",
            "tidelog_storage_segment_errors_total{directory=\"/a\"} 2",
            "tidelog_storage_takes_writes{directory=\"/b \\\"\\\\\\n\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert_eq!(text.lines().count(), 6 * 4);
    }
}
