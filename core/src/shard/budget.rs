//! A shard's memory budgets: counted in bytes, reserved before use, never overdrawn.

/// One pool of a shard. Owned by the shard's thread.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    used_bytes: usize,
}

impl Budget {
    /// An empty pool of `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            used_bytes: 0,
        }
    }

    /// Reserves, or answers false.
    #[must_use]
    pub fn reserve(&mut self, bytes: usize) -> bool {
        if bytes > self.limit_bytes - self.used_bytes {
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
        bytes <= self.limit_bytes
    }

    /// Bytes reserved.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Bytes of the pool.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
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
