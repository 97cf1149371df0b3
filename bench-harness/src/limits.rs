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
/// Connections the load generator opens.
pub const LOAD_CONNECTIONS_MAX: usize = 10_000;
/// Requests of one connection of the load generator that may wait for their answers.
pub const LOAD_IN_FLIGHT_MAX: usize = 4_096;
/// Partitions the load generator writes to or reads from: each has a prebuilt request.
pub const LOAD_PARTITIONS_MAX: usize = 16_384;
/// Records the load generator sends in one second at a fixed rate.
pub const LOAD_RATE_MAX: u64 = 1_000_000;
/// Largest request of the load generator.
pub const LOAD_BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Requests up to this size are gathered by copying, larger ones are sent from where they were built.
pub const LOAD_COPIED_REQUEST_BYTES_MAX: usize = 4 * 1024;
/// Answers to produces and echoes are read into a buffer of this size.
pub const LOAD_ANSWERS_BYTES: usize = 64 * 1024;
/// How long the load generator waits for any answer before it gives up.
pub const LOAD_STALL: Duration = Duration::from_secs(30);
/// Longest latency that is told apart; longer ones count as this.
pub const LOAD_LATENCY_MAX: Duration = Duration::from_secs(60);
/// Memory the decoded form of one Fetch answer may take.
pub const LOAD_DECODED_BYTES_MAX: usize = 16 * 1024 * 1024;
