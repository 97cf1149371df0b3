//! Every bound of this crate, by name.

use std::time::Duration;

/// Largest answer the client reads. Kafka clients default to 100,000,000 bytes.
pub const FRAME_BYTES_MAX: usize = 100_000_000;
/// Largest request the client sends; the broker has a limit of its own.
pub const REQUEST_BYTES_MAX: usize = 100_000_000;
/// How long one address may take to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one request may take to be answered.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a fetch may park at the broker when there is nothing to read.
pub const FETCH_WAIT: Duration = Duration::from_millis(500);
/// Bytes asked for in one fetch over all partitions.
pub const FETCH_BYTES_MAX: i32 = 16 * 1024 * 1024;
/// Bytes asked for in one fetch for one partition.
pub const FETCH_PARTITION_BYTES_MAX: i32 = 1024 * 1024;
/// Bytes of records gathered before a batch is sent: as many as a batch may have, because each
/// acknowledged batch costs a sync of the broker's disk.
pub const BATCH_BYTES: usize = BATCH_BYTES_MAX;
/// Most bytes of records a batch may gather: below the usual `max.message.bytes` of 1,048,588.
pub const BATCH_BYTES_MAX: usize = 1_000_000;
/// How long records may wait for others to join their batch.
pub const LINGER: Duration = Duration::from_millis(5);
/// Pause between two tries of a request that may be repeated.
pub const RETRY_BACKOFF: Duration = Duration::from_millis(100);
/// Connections held open at once, one for each broker address.
pub const CONNECTIONS_MAX: usize = 64;
/// Largest line of a history file that is read back.
pub const HISTORY_LINE_BYTES_MAX: usize = 64 * 1024;
/// Violations kept for the report; more are only counted.
pub const VIOLATIONS_KEPT_MAX: usize = 100;
/// Largest value the history writer produces.
pub const HISTORY_VALUE_BYTES_MAX: usize = 512 * 1024;
/// Records of one batch of the history writer.
pub const HISTORY_BATCH_RECORDS_MAX: usize = 1_000;
/// Memory the decoded form of any answer may take.
pub const DECODED_BYTES_BASE: usize = 1024 * 1024;
/// Memory the decoded form of an answer may take for each of its bytes.
pub const DECODED_FACTOR: usize = 16;
/// Memory the decoded records of one answer may take, decompressed bytes included.
pub const DECODED_RECORDS_BYTES_MAX: usize = 512 * 1024 * 1024;
