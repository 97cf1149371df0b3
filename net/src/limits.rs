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

/// Bytes of decoded request granted per byte of any frame, see [`decode_budget_bytes`].
pub const DECODE_BUDGET_FACTOR: usize = 2;

/// Bytes of decoded request granted per byte of a small frame: short names in structs of many fields.
pub const DECODE_BUDGET_SMALL_FACTOR: usize = 8;

/// What the larger factor may grant at most: 10,000 topics in one CreateTopics take half of it.
pub const DECODE_BUDGET_SMALL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of decoded request granted to every frame, see [`decode_budget_bytes`].
pub const DECODE_BUDGET_BASE_BYTES: usize = 64 * 1024;

/// Charged for the first unknown tagged field of a struct: a map node of the codec crate.
pub const UNKNOWN_TAG_FIRST_BYTES: usize = 640;

/// Charged for each further unknown tagged field of a struct.
pub const UNKNOWN_TAG_NEXT_BYTES: usize = 160;

/// A budget for [`crate::decode_request`] that every sensible request of this size fits in: twice the frame,
/// more only where that is little. Record bytes are not charged (they stay slices of the frame), only structs
/// and arrays are.
pub const fn decode_budget_bytes(frame_bytes: usize) -> usize {
    let any = frame_bytes.saturating_mul(DECODE_BUDGET_FACTOR);
    let small = frame_bytes.saturating_mul(DECODE_BUDGET_SMALL_FACTOR);
    let small = if small < DECODE_BUDGET_SMALL_BYTES_MAX {
        small
    } else {
        DECODE_BUDGET_SMALL_BYTES_MAX
    };
    let granted = if any > small { any } else { small };
    granted.saturating_add(DECODE_BUDGET_BASE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_frame_is_granted_twice_its_bytes_and_a_small_one_a_bounded_part_more() {
        assert_eq!(decode_budget_bytes(0), DECODE_BUDGET_BASE_BYTES);
        assert_eq!(decode_budget_bytes(1_000), 8_000 + DECODE_BUDGET_BASE_BYTES);
        for frame_bytes in [2 << 20, 100 << 20] {
            assert_eq!(
                decode_budget_bytes(frame_bytes),
                2 * frame_bytes + DECODE_BUDGET_BASE_BYTES
            );
        }
        let mut last = 0;
        for frame_bytes in (0..8 << 20).step_by(4_096) {
            let granted = decode_budget_bytes(frame_bytes);
            assert!(
                granted >= last,
                "{frame_bytes} bytes are granted less than a smaller frame"
            );
            last = granted;
        }
        assert!(decode_budget_bytes(usize::MAX) >= usize::MAX - 1);
    }
}
