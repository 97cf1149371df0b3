//! Every named bound of this crate, in one place.
//!
//! A decoder never allocates more than its input is long, and refuses input that
//! is longer than the bound named here.

/// Most stored payload bytes of one entry: 256 MiB.
pub const ENTRY_PAYLOAD_BYTES_MAX: u32 = 256 << 20;

/// Highest index of an entry: there is always one behind it.
pub const ENTRY_INDEX_MAX: u64 = i64::MAX as u64;

/// Highest index that a log may go on with: what is left is more than any log appends.
pub const NEXT_INDEX_MAX: u64 = ENTRY_INDEX_MAX / 2;

/// Highest index that a claim of durability may reach beyond what is there: what is left below
/// [`NEXT_INDEX_MAX`] is more than any log appends, so a later open decides the same.
pub const CLAIMED_INDEX_MAX: u64 = NEXT_INDEX_MAX / 2;

/// Most bytes of one segment file: 2 GiB.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;

/// Log bytes between two points of a segment's index.
pub const INDEX_INTERVAL_BYTES: u64 = 4096;

/// Most points in one segment's index (a full segment at the usual interval).
pub const INDEX_POINTS_MAX: usize = (SEGMENT_BYTES_MAX / INDEX_INTERVAL_BYTES) as usize;

/// Leader epochs in one index file; a segment with more is read again at each open.
pub const INDEX_EPOCHS_MAX: usize = 65_536;

/// Most bytes of one index file.
pub const INDEX_FILE_BYTES_MAX: usize = 64 << 20;

/// A segment that takes appends gets another part of its index file when it has grown by a quarter, by at least this,
/// in bytes. An open after a crash reads about as much of each such segment.
pub const INDEX_PART_SEGMENT_BYTES_MIN: u64 = 256 << 10;

/// And at most by this, in bytes.
pub const INDEX_PART_SEGMENT_BYTES_MAX: u64 = 4 << 20;

/// What producers last wrote is kept with such a part up to this, in bytes.
pub const MARKED_PRODUCERS_BYTES_MAX: usize = 64 << 10;

/// Batches remembered per producer id and partition, as Kafka clients expect.
pub const PRODUCER_BATCHES_MAX: usize = 5;

/// Producer ids remembered per partition; beyond it the one that wrote longest ago is forgotten.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 65_536;

/// Most bytes of one `producer_state` payload.
pub const PRODUCER_STATE_BYTES_MAX: usize = 32 << 20;

/// Most partitions in one checkpoint file.
pub const CHECKPOINT_PARTITIONS_MAX: usize = 1 << 20;

/// Most segments named for one partition in a checkpoint.
pub const CHECKPOINT_SEGMENTS_MAX: usize = 1 << 20;

/// Most bytes of producer state caches in one checkpoint; what is beyond is left out of it.
pub const CHECKPOINT_PRODUCER_STATE_BYTES_MAX: usize = 64 << 20;

/// Most bytes of one checkpoint file.
pub const CHECKPOINT_FILE_BYTES_MAX: usize = 1 << 30;

/// Most bytes that a look at a partition keeps of what its journals hold and its segments do not.
pub const OVERLAY_BYTES_MAX: usize = 4 << 30;

/// Most bytes of one identity file or clean flag.
pub const IDENTITY_FILE_BYTES_MAX: usize = 4096;

/// Most bytes of a cluster id or a rack name.
pub const IDENTITY_NAME_BYTES_MAX: usize = 255;

/// First extent of a segment, bytes; each next one is twice as large.
pub const EXTENT_BYTES_MIN: u64 = 64 << 10;

/// Largest extent of a segment, bytes.
pub const EXTENT_BYTES_MAX: u64 = 16 << 20;

/// Entries below this size are copied into one buffer per partition and loop turn.
pub const STAGED_ENTRY_BYTES_MAX: usize = 16 << 10;

/// Bytes that may wait for the disk in one segment; one larger entry may wait alone.
pub const STAGED_BYTES_MAX: usize = 32 << 20;

/// Pieces of one gathering write.
pub const STAGED_PIECES_MAX: usize = 512;

/// Log starts of one log that wait for their commit; more are refused until some are durable.
pub const LOG_STARTS_PENDING_MAX: usize = 1_024;

/// A staging buffer up to this size is kept for the next loop turn.
pub const STAGING_KEPT_BYTES_MAX: usize = 64 << 10;

/// Parts of one read plan.
pub const READ_PARTS_MAX: usize = 16;

/// Reads of one page before recovery calls it unreadable.
pub const READ_ATTEMPTS_MAX: usize = 3;

/// Pages of a partition that recovery goes around; more are a failing device, and end the open.
pub const UNREADABLE_PAGES_MAX: usize = 1_024;

/// Leader epochs set apart for each start of a data directory.
pub const TERMS_PER_START: u64 = 1024;

/// Bytes of one file of a commit journal, and so the most that one commit puts there: 64 MiB.
pub const JOURNAL_FILE_BYTES: u64 = 64 << 20;

/// Most bytes of one frame of a journal.
pub const JOURNAL_FRAME_BYTES_MAX: u64 = JOURNAL_FILE_BYTES;

/// Bytes of one partition in one commit that may go through the journal; more are synced where they are.
pub const JOURNAL_RUN_BYTES_MAX: usize = 1 << 20;

/// Dirty files from which on a commit goes through the journal.
pub const JOURNAL_DIRTY_FILES_MIN: usize = 4;

/// Bytes per dirty file, on average, up to which a commit goes through the journal: a sync is paid for by more, and the
/// journal would write them twice.
pub const JOURNAL_BYTES_PER_FILE_MAX: u64 = 32 << 10;

/// Dirty files up to which a commit syncs them while the journal's next file is being made; more wait for it.
pub const JOURNAL_DIRECT_WHILE_MAKING_MAX: usize = 16;

/// Files of journals that a start reads.
pub const JOURNAL_FILES_MAX: usize = 65_536;

/// Trimmed files of a journal that are kept to be used again.
pub const JOURNAL_SPARE_FILES_MAX: usize = 2;

/// Syncs of segments under way at a time that let the oldest file of a journal go.
pub const JOURNAL_SETTLING_MAX: usize = 16;

/// Files shorter than this are not kept to be recycled: they are quickly made anew.
pub const SPARE_BYTES_MIN: u64 = 1 << 20;

/// Files that one log keeps to be recycled.
pub const SPARES_PER_LOG_MAX: usize = 16;

/// How long a log that begins no new segment keeps a file to be recycled, in ms.
pub const SPARE_KEPT_MS_MAX: i64 = 600_000;

/// Files that a disk which only reads keeps open.
pub const READ_ONLY_FILES_MAX: usize = 64;

/// Entries that a repair puts in the place of lost ones, in one partition.
pub const REPAIR_FILLERS_MAX: u64 = 1 << 20;

/// Names below a directory without an identity that are looked at for a log, at most.
pub const NAMES_LOOKED_AT_MAX: usize = 10_000;
