//! Which shard owns a partition: the one function every look-up goes through.

use uuid::Uuid;

/// A stable, well-mixed number of a topic id.
pub fn topic_hash(topic_id: Uuid) -> u64 {
    let (high, low) = topic_id.as_u64_pair();
    // splitmix64's finaliser: ids made by hand (1, 2, 3) spread as well as random ones.
    let mut z = high.rotate_left(32) ^ low ^ 0x9e37_79b9_7f4a_7c15;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// (hash(topic id) + partition) mod shards, so that a topic spreads evenly.
///
/// `override_shard`: the metadata log's entry for this partition; one that names a shard that no longer
/// exists (fewer shards at this start) is ignored. `shards` of 0 counts as 1.
pub fn shard_of(topic_id: Uuid, partition: i32, shards: u16, override_shard: Option<u16>) -> u16 {
    let shards = shards.max(1);
    if let Some(shard) = override_shard.filter(|shard| *shard < shards) {
        return shard;
    }
    let shards = u64::from(shards);
    // The two remainders are below 2^16 each, so nothing wraps and neighbours stay neighbours.
    let sum = topic_hash(topic_id) % shards + u64::from(partition.unsigned_abs()) % shards;
    u16::try_from(sum % shards).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_spreads_evenly() {
        let id = Uuid::from_u128(7);
        for shards in [1_u16, 2, 3, 16] {
            let mut owned = vec![0; usize::from(shards)];
            for partition in 0..i32::from(shards) * 4 {
                owned[usize::from(shard_of(id, partition, shards, None))] += 1;
            }
            assert!(owned.iter().all(|n| *n == 4), "{shards}: {owned:?}");
        }
    }

    #[test]
    fn topics_spread_evenly() {
        let mut owned = [0; 4];
        for id in 0..4_000 {
            owned[usize::from(shard_of(Uuid::from_u128(id), 0, 4, None))] += 1;
        }
        assert!(owned.iter().all(|n| (850..1150).contains(n)), "{owned:?}");
    }

    #[test]
    fn overrides_hold_while_their_shard_exists() {
        let id = Uuid::from_u128(1);
        assert_eq!(shard_of(id, 5, 4, Some(3)), 3);
        assert_eq!(shard_of(id, 5, 2, Some(3)), shard_of(id, 5, 2, None));
        assert_eq!(shard_of(id, 5, 0, None), 0);
        // A change of the function would move every partition at an upgrade.
        assert_eq!(topic_hash(Uuid::nil()), 0xe220_a839_7b1d_cdaf);
    }
}
