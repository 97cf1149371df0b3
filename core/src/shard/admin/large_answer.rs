//! Answers whose size a client, or the number of partitions, decides: memory is reserved before they are made
//! and charged until they are sent. An answer that has no room ends its connection; small ones always have.

use tidelog_net::response::{self, ResponseBody};

use crate::shard::types::Parts;
use crate::shard::{Origin, SendPart, Shard};

/// Answers up to this size are not charged, as those of the other APIs.
const UNCHARGED_BYTES: usize = 64 << 10;
/// What one item of an answer takes at most while it is made and encoded, its name apart.
pub(super) const ITEM_BYTES: usize = 256;

const _: () = {
    use tidelog_net::messages as kp;
    assert!(ITEM_BYTES >= 2 * size_of::<kp::create_acls_response::AclCreationResult>());
    assert!(ITEM_BYTES >= 2 * size_of::<kp::delete_acls_response::DeleteAclsFilterResult>());
};

/// What an item takes whose name is copied, once to make the answer and once to encode it.
pub(super) const fn item_bytes(name: &str) -> usize {
    ITEM_BYTES + 2 * name.len()
}

impl Shard {
    /// Makes and sends an answer of `items` items, whose names are slices of the request.
    pub(super) fn answer_items(
        &mut self,
        origin: &Origin,
        items: usize,
        make: impl FnOnce(&Self) -> ResponseBody,
    ) {
        self.answer_within(origin, items.saturating_mul(ITEM_BYTES), make);
    }

    /// Makes and sends an answer that takes at most `bytes` while it is made and encoded.
    pub(super) fn answer_within(
        &mut self,
        origin: &Origin,
        bytes: usize,
        make: impl FnOnce(&Self) -> ResponseBody,
    ) {
        let Some(reserved) = self.reserve_answer(bytes) else {
            self.refuse(origin, &format!("no memory for an answer of up to {bytes} bytes"));
            return;
        };
        let body = make(self);
        self.answer_reserved(origin, &body, reserved);
    }

    /// What naming every topic takes.
    pub(super) fn topics_bytes(&self) -> usize {
        let topics = self.image.topics();
        topics.map(|topic| item_bytes(&topic.name)).sum()
    }

    /// Memory for an answer that takes at most this much while it is made; `None`: there is not enough.
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
