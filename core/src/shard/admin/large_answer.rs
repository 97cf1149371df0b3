//! Answers whose size a client, or the number of partitions, decides: memory is reserved before they are made
//! and charged until they are sent. An answer that has no room ends its connection; small ones always have.

use tidelog_net::response::{self, ResponseBody};

use crate::shard::types::Parts;
use crate::shard::{Origin, SendPart, Shard};

/// Answers up to this size are not charged, as those of the other APIs.
const UNCHARGED_BYTES: usize = 64 << 10;
/// What one item of an answer takes at most while it is made and encoded, its strings apart: those are the
/// request's own, or the image's.
pub(super) const ITEM_BYTES: usize = 256;

const _: () = {
    use tidelog_net::messages as kp;
    assert!(ITEM_BYTES >= 2 * size_of::<kp::create_acls_response::AclCreationResult>());
    assert!(ITEM_BYTES >= 2 * size_of::<kp::delete_acls_response::DeleteAclsFilterResult>());
};

impl Shard {
    /// Makes and sends an answer of `items` items.
    pub(super) fn answer_items(
        &mut self,
        origin: &Origin,
        items: usize,
        make: impl FnOnce(&Self) -> ResponseBody,
    ) {
        let Some(reserved) = self.reserve_items(items) else {
            self.refuse(origin, &format!("no memory for an answer of {items} items"));
            return;
        };
        let body = make(self);
        self.answer_reserved(origin, &body, reserved);
    }

    /// Memory for an answer of `items` items; `None`: there is not enough.
    pub(super) fn reserve_items(&mut self, items: usize) -> Option<usize> {
        self.reserve_answer(items.saturating_mul(ITEM_BYTES))
    }

    /// As [`Shard::reserve_items`], for an answer that takes at most this much while it is made.
    pub(super) fn reserve_answer(&mut self, bytes: usize) -> Option<usize> {
        if bytes <= UNCHARGED_BYTES {
            return Some(0);
        }
        self.fetch_budget.reserve(bytes).then_some(bytes)
    }

    /// Sends an answer for which memory is reserved; what is left of it is given back.
    pub(super) fn answer_reserved(&mut self, origin: &Origin, body: &ResponseBody, reserved_bytes: usize) {
        let encoded = response::encode_response(origin.version, origin.correlation_id, body);
        self.fetch_budget.release(reserved_bytes);
        match encoded {
            Ok(bytes) if bytes.len() <= UNCHARGED_BYTES => {
                self.respond(origin, Parts::One(SendPart::Bytes(bytes)), 0);
            }
            Ok(bytes) if self.fetch_budget.reserve(bytes.len()) => {
                let charge = bytes.len();
                self.respond(origin, Parts::One(SendPart::Bytes(bytes)), charge);
            }
            Ok(bytes) => self.refuse(
                origin,
                &format!("no memory for an answer of {} bytes", bytes.len()),
            ),
            Err(error) => {
                tracing::error!(%error, "an answer could not be encoded");
                self.refuse(origin, &error);
            }
        }
    }
}
