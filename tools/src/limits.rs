//! Every bound of the command line, by name.

use std::time::Duration;

/// Largest line `produce` reads; the broker's own limit is lower.
pub const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes read from the input at once.
pub const INPUT_CHUNK_BYTES: usize = 256 * 1024;
/// Chunks of input read ahead of the broker.
pub const INPUT_CHUNKS_MAX: usize = 4;
/// Bytes of records that `produce` gathers over all partitions before it sends what there is.
pub const BATCHED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long records may wait beyond their linger time while more input keeps coming.
pub const BUSY_LINGER_MAX: Duration = Duration::from_secs(1);
/// How long a topic that is being created may stay unknown.
pub const AUTO_CREATE_WAIT: Duration = Duration::from_secs(2);
/// How long a client command may take to end by itself after a signal.
pub const SIGNAL_GRACE: Duration = Duration::from_millis(700);
/// Directories below a path that `segment verify` walks into.
pub const DIRECTORY_DEPTH_MAX: usize = 8;
/// Entries of a segment that `segment inspect` lists unless told otherwise.
pub const ENTRIES_LISTED: u64 = 20;
/// Bytes read at once when a segment is walked.
pub const READ_CHUNK_BYTES: usize = 256 * 1024;
/// Threads of `segment verify`.
pub const VERIFY_THREADS_MAX: usize = 16;
/// Bytes that the records of one batch may decompress to, unless told otherwise.
pub const DECOMPRESSED_BYTES_DEFAULT: usize = 256 * 1024 * 1024;
/// How often a partition is walked when its files go away meanwhile.
pub const EXAMINE_ATTEMPTS_MAX: usize = 5;
