//! A shard's memory budgets: counted in bytes, reserved before use, never overdrawn.
//!
//! What a budget lends moves its bound; `used <= limit` holds throughout.

/// A lease is at least this part of a budget, so that few are needed.
pub const LEASE_PART: usize = 16;

/// One pool of a shard. Owned by the shard's thread.
#[derive(Debug)]
pub struct Budget {
    /// Its own share, lent or not.
    base_bytes: usize,
    limit_bytes: usize,
    /// Not to be used now: records in memory have them.
    withheld_bytes: usize,
    /// Borrowed bytes that go back as soon as they are not in use: nothing more is reserved of them.
    owed_bytes: usize,
    used_bytes: usize,
}

impl Budget {
    /// An empty pool of `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            base_bytes: limit_bytes,
            limit_bytes,
            withheld_bytes: 0,
            owed_bytes: 0,
            used_bytes: 0,
        }
    }

    /// Reserves, or answers false.
    #[must_use]
    pub fn reserve(&mut self, bytes: usize) -> bool {
        if bytes > (self.limit_bytes() - self.owed_bytes).saturating_sub(self.used_bytes) {
            return false;
        }
        self.used_bytes += bytes;
        true
    }

    /// Gives back what was reserved.
    ///
    /// # Panics
    /// If more is given back than was reserved: a defect of ours.
    pub fn release(&mut self, bytes: usize) {
        assert!(
            bytes <= self.used_bytes,
            "{bytes} bytes released, {} reserved",
            self.used_bytes
        );
        self.used_bytes -= bytes;
    }

    /// Whether a reservation of this size could ever succeed.
    pub fn could_ever_hold(&self, bytes: usize) -> bool {
        bytes <= self.base_bytes.saturating_sub(self.withheld_bytes)
    }

    /// Lends up to `bytes` to another shard: at most half of what is free, never more in all than half of the
    /// budget, and nothing rather than a crumb. Answers how much.
    pub fn lend(&mut self, bytes: usize) -> usize {
        let free = (self.limit_bytes() - self.used_bytes) / 2;
        let may = self.limit_bytes().saturating_sub(self.base_bytes / 2);
        let lent = bytes.min(free).min(may);
        if lent < self.base_bytes / LEASE_PART {
            return 0;
        }
        self.limit_bytes -= lent;
        lent
    }

    /// What was lent has come back.
    pub fn take_back(&mut self, bytes: usize) {
        self.limit_bytes += bytes;
    }

    /// Another shard lends.
    pub fn borrow(&mut self, bytes: usize) {
        self.limit_bytes += bytes;
    }

    /// Borrowed bytes are to go back: from now on what is released is not reserved again until
    /// [`Budget::give_up`] has them.
    pub fn owe(&mut self, bytes: usize) {
        self.owed_bytes += bytes;
        assert!(self.owed_bytes <= self.limit_bytes, "more owed than there is");
    }

    /// Gives up what was borrowed and is owed. False: it is in use.
    #[must_use]
    pub fn give_up(&mut self, bytes: usize) -> bool {
        let may = bytes <= self.owed_bytes && bytes <= self.limit_bytes - self.used_bytes;
        if may {
            self.limit_bytes -= bytes;
            self.owed_bytes -= bytes;
        }
        may
    }

    /// The budget's own share.
    pub fn base_bytes(&self) -> usize {
        self.base_bytes
    }

    /// Bytes reserved.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// So many bytes of the share are used by something else from now on. What is in use of them stays so until it
    /// is released, and is not reserved again.
    pub fn withhold(&mut self, bytes: usize) {
        self.withheld_bytes = bytes;
    }

    /// Bytes that may be reserved now: the own share, less what is lent or withheld, plus what is borrowed; never
    /// less than what is in use, or owed.
    pub fn limit_bytes(&self) -> usize {
        let limit = self.limit_bytes.saturating_sub(self.withheld_bytes);
        limit.max(self.used_bytes).max(self.owed_bytes)
    }
}

/// The receive pool as the engine sees it.
pub trait ReceivePool {
    /// Reserves, or answers false.
    #[must_use]
    fn reserve_receive(&mut self, bytes: usize) -> bool;
    /// Gives back what was reserved.
    fn release_receive(&mut self, bytes: usize);
    /// Whether a reservation of this size could ever succeed.
    fn can_ever_receive(&self, bytes: usize) -> bool;
}

impl ReceivePool for Budget {
    fn reserve_receive(&mut self, bytes: usize) -> bool {
        self.reserve(bytes)
    }

    fn release_receive(&mut self, bytes: usize) {
        self.release(bytes);
    }

    fn can_ever_receive(&self, bytes: usize) -> bool {
        self.could_ever_hold(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_cannot_be_used_and_what_is_used_is_not_lent() {
        let mut budget = Budget::new(100);
        assert!(budget.reserve(40));
        assert_eq!(budget.lend(1_000), 30, "half of what is free");
        assert!(!budget.reserve(31) && budget.reserve(30));
        assert_eq!(budget.lend(1_000), 0, "nothing is free");
        budget.release(70);
        assert_eq!(budget.lend(1_000), 20, "half is kept");
        assert_eq!(budget.lend(1_000), 0);
        budget.take_back(5);
        assert_eq!(budget.lend(1_000), 0, "a crumb");
        budget.take_back(45);
        assert_eq!(budget.lend(50), 50);
        assert!(budget.could_ever_hold(100) && !budget.reserve(51));
        budget.take_back(50);
        assert!(budget.reserve(100));
        budget.borrow(10);
        assert!(budget.reserve(10) && !budget.could_ever_hold(101));
        budget.owe(10);
        assert!(!budget.give_up(10), "it is in use");
        budget.release(5);
        assert!(!budget.reserve(5), "what is owed is not used again");
        budget.release(5);
        assert!(budget.give_up(10));
        assert_eq!((budget.limit_bytes(), budget.used_bytes()), (100, 100));
    }

    #[test]
    fn what_is_withheld_is_not_reserved_and_what_was_in_use_is_released_first() {
        let mut budget = Budget::new(100);
        assert!(budget.reserve(80));
        budget.withhold(40);
        assert_eq!(budget.limit_bytes(), 80, "in use");
        assert!(!budget.reserve(1) && !budget.could_ever_hold(61));
        budget.release(30);
        assert_eq!((budget.limit_bytes(), budget.lend(100)), (60, 0));
        assert!(!budget.reserve(11) && budget.reserve(10));
        budget.withhold(0);
        assert!(budget.reserve(40) && !budget.reserve(1));
        budget.borrow(30);
        budget.owe(30);
        budget.withhold(50);
        assert!(!budget.reserve(1) && budget.give_up(30));
        assert_eq!(budget.limit_bytes(), 100, "in use");
    }

    #[test]
    fn a_budget_is_never_overdrawn() {
        let mut budget = Budget::new(100);
        assert!(budget.reserve(60));
        assert!(!budget.reserve(41));
        assert!(budget.reserve(40));
        assert_eq!(budget.used_bytes(), 100);
        budget.release(100);
        assert!(!budget.could_ever_hold(101) && budget.could_ever_hold(100));
        assert!(!budget.reserve(usize::MAX));
    }
}
