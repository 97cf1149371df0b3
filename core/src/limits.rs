//! Named bounds of this crate: every queue, loop, frame and array has one.

/// Shards a broker may run; `core_listeners` gives each node 1,024 ids, so more would not fit either.
pub const SHARDS_MAX: u16 = 64;
/// Highest node id; node id x 1,024 + shard must stay an `i32`.
pub const NODE_ID_MAX: i32 = 2_097_150;
/// Least memory a broker runs with, in bytes.
pub const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// Least memory per shard, in bytes; fewer shards are asked for below it.
pub const MEMORY_PER_SHARD_BYTES_MIN: u64 = 16 << 20;
/// Partitions one topic may have.
pub const PARTITIONS_PER_TOPIC_MAX: i32 = 10_000;
/// Partitions one CreateTopics or CreatePartitions request may add in total.
pub const PARTITIONS_PER_REQUEST_MAX: i64 = 10_000;
/// Partitions in one answer of DescribeTopicPartitions (Kafka's `max.request.partition.size.limit`).
pub const DESCRIBED_PARTITIONS_MAX: i32 = 2_000;
/// Longest topic name, in bytes (Kafka's own bound).
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Longest value of one topic configuration, in bytes.
pub const CONFIG_VALUE_BYTES_MAX: usize = 8 << 10;
/// Configurations one topic may carry.
pub const CONFIGS_PER_TOPIC_MAX: usize = 128;
/// Records that a Produce answer names as being at fault, of one batch.
pub const RECORD_ERRORS_MAX: usize = 100;
/// Longest error message sent to a client, in bytes.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 1 << 10;
/// Largest encoded metadata record, in bytes.
pub const METADATA_RECORD_BYTES_MAX: usize = 4 << 20;
/// Producer ids handed to a shard in one allocation.
pub const PRODUCER_ID_BLOCK: i64 = 1_000;
/// Largest configuration file, in bytes.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;
/// Deepest nesting of tables in a configuration file.
pub const CONFIG_DEPTH_MAX: usize = 8;
/// Listeners a broker may have.
pub const LISTENERS_MAX: usize = 16;
/// Data directories a broker may have.
pub const DATA_DIRS_MAX: usize = 64;
/// Largest secret read from a file, in bytes.
pub const SECRET_BYTES_MAX: u64 = 64 << 10;
/// Components the health registry holds.
pub const HEALTH_COMPONENTS_MAX: usize = 1_024;
/// How long the admin page waits for the shards' metric cells, in milliseconds.
pub const METRICS_GATHER_TIMEOUT_MS: u64 = 2_000;
/// Requests the admin and metrics listeners answer at once; more get 503.
pub const ADMIN_REQUESTS_IN_FLIGHT_MAX: usize = 32;
/// Descriptors below which the broker does not start.
pub const DESCRIPTORS_MIN: u64 = 256;
/// Descriptors kept for what is neither a log file nor a connection: of the process (listeners, admin page,
/// checkpoints) and of each shard (ring, eventfd, listeners, directories that are synced).
pub const DESCRIPTORS_OF_PROCESS: u64 = 48;
/// See [`DESCRIPTORS_OF_PROCESS`].
pub const DESCRIPTORS_PER_SHARD: u64 = 16;
/// Descriptors of log files that each shard has at least.
pub const OPEN_FILES_PER_SHARD_MIN: u64 = 8;
/// Descriptors that opening a partition may take, at most, and a little.
pub const OPENING_DESCRIPTORS: usize = 4;
/// Partitions that a shard opens at once, however many descriptors there are.
pub const OPENINGS_PER_SHARD_MAX: usize = 256;
/// Connections that a descriptor is kept for at least.
pub const CONNECTIONS_MIN: u64 = 16;
/// Descriptors divided where there is no limit.
pub const DESCRIPTORS_UNLIMITED: u64 = 1 << 20;
/// Descriptors below which the broker warns.
pub const DESCRIPTORS_RECOMMENDED: u64 = 4_096;

/// Fetch sessions of a shard (Kafka's `max.incremental.fetch.session.cache.slots`); further clients are served without.
pub const FETCH_SESSIONS_PER_SHARD_MAX: usize = 1_000;
/// How long a fetch session must have been idle before another may take its place, in milliseconds.
pub const FETCH_SESSION_IDLE_MS: u64 = 120_000;

const _: () = assert!((NODE_ID_MAX as i64) * 1_024 + 1_023 <= i32::MAX as i64);
const _: () = assert!(MEMORY_PER_SHARD_BYTES_MIN <= MEMORY_BYTES_MIN);

/// Part of `memory.limit` that topics with `storage = memory` may fill, unless `storage.memory_max` says otherwise.
pub const MEMORY_STORAGE_PART: u64 = 4;
/// The most that it may be: the rest is for frames, answers and all else.
pub const MEMORY_STORAGE_PART_MAX: u64 = 2;

/// Least bytes of a journal that is not switched off.
pub const JOURNAL_BYTES_MIN: u64 = 16 << 20;
