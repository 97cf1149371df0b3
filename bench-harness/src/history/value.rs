//! The values the history writer produces: made from their place alone, so they need not be kept.
//!
//! A value is `tidelog-history <run> <topic-hash> <partition> <sequence> ` followed by pseudo-random
//! bytes whose number and content follow from the same four numbers.

use bytes::{BufMut, Bytes, BytesMut};

const MARK: &str = "tidelog-history";

/// Who a value belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp {
    /// The run of the writer, random per history file.
    pub run: u64,
    /// Partition it was produced to.
    pub partition: i32,
    /// Sequence within the partition, from 0.
    pub sequence: u64,
}

/// The value of `stamp`: its mark, then between 0 and `filler_bytes` bytes that follow from it.
pub fn make_value(stamp: Stamp, filler_bytes: usize) -> Bytes {
    let seed = stamp.run ^ (stamp.partition as u64).rotate_left(40) ^ stamp.sequence.rotate_left(17);
    let mut state = SplitMix(seed);
    let filler = match filler_bytes {
        0 => 0,
        most => (state.next() % (most as u64 + 1)) as usize,
    };
    let head = format!(
        "{MARK} {:016x} {} {} {filler_bytes} ",
        stamp.run, stamp.partition, stamp.sequence
    );
    let mut value = BytesMut::with_capacity(head.len() + filler + 8);
    value.extend_from_slice(head.as_bytes());
    let end = head.len() + filler;
    while value.len() < end {
        value.put_u64_le(state.next());
    }
    value.truncate(end);
    value.freeze()
}

/// Reads who made `value` and with which filler limit; none when it is not of this kind.
pub fn read_stamp(value: &[u8]) -> Option<(Stamp, usize)> {
    let mut fields = value.splitn(6, |b| *b == b' ').map(std::str::from_utf8);
    let mut next = || fields.next()?.ok();
    if next()? != MARK {
        return None;
    }
    let run = u64::from_str_radix(next()?, 16).ok()?;
    let partition = next()?.parse().ok()?;
    let sequence = next()?.parse().ok()?;
    let filler_bytes = next()?.parse().ok()?;
    Some((
        Stamp {
            run,
            partition,
            sequence,
        },
        filler_bytes,
    ))
}

struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_its_maker_and_is_the_same_each_time() {
        for sequence in 0..200 {
            let stamp = Stamp {
                run: 0xfeed,
                partition: 3,
                sequence,
            };
            let value = make_value(stamp, 300);
            assert_eq!(read_stamp(&value), Some((stamp, 300)));
            assert_eq!(value, make_value(stamp, 300));
        }
        let one = make_value(
            Stamp {
                run: 1,
                partition: 0,
                sequence: 5,
            },
            300,
        );
        assert_ne!(
            one,
            make_value(
                Stamp {
                    run: 2,
                    partition: 0,
                    sequence: 5
                },
                300
            )
        );
    }

    #[test]
    fn foreign_values_have_no_stamp() {
        for foreign in [
            &b""[..],
            b"hello",
            b"tidelog-history",
            b"tidelog-history zz 1 2 3 ",
            b"\xff \xff",
        ] {
            assert_eq!(read_stamp(foreign), None);
        }
    }
}
