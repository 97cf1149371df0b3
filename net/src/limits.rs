//! The named limits of this crate. Each bounds memory that a peer could otherwise make us spend.

/// Largest request frame taken by default: Kafka's `socket.request.max.bytes`.
pub const FRAME_BYTES_MAX_DEFAULT: usize = 100 * 1024 * 1024;

/// Largest record payload that decompression may give by default.
pub const DECOMPRESSED_BYTES_MAX_DEFAULT: usize = 128 * 1024 * 1024;

/// Largest zstd window a peer's frame may ask for, as a power of two (8 MiB, what the zstd format
/// asks every decoder to support).
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// First allocation of a decompression; it then grows with what really comes out.
pub const DECOMPRESS_RESERVE_BYTES: usize = 64 * 1024;

/// Bytes of decoded request granted per byte of frame, see [`decode_budget_bytes`].
pub const DECODE_BUDGET_FACTOR: usize = 8;

/// Bytes of decoded request granted to every frame, see [`decode_budget_bytes`].
pub const DECODE_BUDGET_BASE_BYTES: usize = 64 * 1024;

/// Charged for the first unknown tagged field of a struct: a map node of the codec crate.
pub const UNKNOWN_TAG_FIRST_BYTES: usize = 640;

/// Charged for each further unknown tagged field of a struct.
pub const UNKNOWN_TAG_NEXT_BYTES: usize = 160;

/// A budget for [`crate::decode_request`] that every sensible request of this size fits in. Record
/// bytes are not charged (they stay slices of the frame), only structs and arrays are.
pub const fn decode_budget_bytes(frame_bytes: usize) -> usize {
    frame_bytes
        .saturating_mul(DECODE_BUDGET_FACTOR)
        .saturating_add(DECODE_BUDGET_BASE_BYTES)
}
