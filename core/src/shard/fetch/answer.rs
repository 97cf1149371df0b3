//! The last step of a fetch: what was found becomes the answer.

use std::collections::{HashMap, VecDeque};

use tidelog_net::hot::FetchResponse;
use tidelog_net::response::{ResponsePiece, encode_fetch_response};

use crate::shard::fetch_session::SessionUse;
use crate::shard::{Parts, Pending, SendPart, Shard};

/// Which wanted partition is at a place (topic, partition) of the answer.
type Places = HashMap<(usize, usize), usize>;

impl Shard {
    pub(super) fn finish_fetch(&mut self, id: u64) {
        let Some(Pending::Fetch(mut pending)) = self.pending.remove(&id) else {
            return;
        };
        self.forget_fetch(pending.origin.socket, id);
        let mut places = Places::new();
        for (at, wanted) in pending.wanted.iter().enumerate() {
            places.insert((wanted.topic_at, wanted.partition_at), at);
            let place = pending
                .response
                .topics
                .get_mut(wanted.topic_at)
                .and_then(|topic| topic.partitions.get_mut(wanted.partition_at));
            let (Some(place), Some(found)) = (place, &wanted.found) else {
                continue;
            };
            place.error = found.error;
            place.high_watermark = found.high_watermark;
            place.last_stable_offset = found.high_watermark;
            place.log_start_offset = found.log_start_offset;
            let records = pending.records.get(at).map_or(&[][..], Vec::as_slice);
            for part in records {
                let bytes = part.bytes().len();
                place.records_len += bytes;
                match part {
                    SendPart::Log(..) => self.metrics.fetch_hot_bytes.add(bytes as u64),
                    SendPart::Bytes(_) => self.metrics.fetch_cold_bytes.add(bytes as u64),
                }
            }
            self.metrics.fetched_bytes.add(place.records_len as u64);
        }
        if let Some(session) = &pending.session {
            self.tell_session(session, &mut pending.response, &mut places);
            self.fetch_sessions.end(session);
        }
        let pieces = match encode_fetch_response(
            pending.origin.version,
            pending.origin.correlation_id,
            &pending.response,
        ) {
            Ok(pieces) => pieces,
            Err(error) => {
                tracing::error!(%error, "a fetch answer could not be encoded");
                self.refuse(&pending.origin, &error);
                return;
            }
        };
        let mut parts = VecDeque::with_capacity(pieces.len());
        for piece in pieces {
            match piece {
                ResponsePiece::Bytes(bytes) => parts.push_back(SendPart::Bytes(bytes)),
                ResponsePiece::Records {
                    topic_idx,
                    partition_idx,
                } => {
                    let records = places
                        .get(&(topic_idx, partition_idx))
                        .and_then(|at| pending.records.get_mut(*at));
                    parts.extend(records.map(std::mem::take).unwrap_or_default());
                }
            }
        }
        self.respond(&pending.origin, Parts::Many(parts), pending.fetch_charge);
    }

    /// Leaves in an incremental answer only what changed, and notes what is told.
    fn tell_session(&mut self, session: &SessionUse, response: &mut FetchResponse, places: &mut Places) {
        if let Err(error) = self.fetch_sessions.check(session) {
            if session.is_incremental {
                response.error = error;
                response.topics.clear();
                places.clear();
            }
            // A full answer holds by itself; the client is not told of a session.
            return;
        }
        response.session_id = session.id;
        let before = std::mem::take(places);
        for (topic_at, mut topic) in std::mem::take(&mut response.topics).into_iter().enumerate() {
            let changed = self.fetch_sessions.told(session, &topic);
            let partitions = std::mem::take(&mut topic.partitions);
            for (partition_at, (partition, changed)) in partitions.into_iter().zip(changed).enumerate() {
                if session.is_incremental && !changed {
                    continue;
                }
                if let Some(at) = before.get(&(topic_at, partition_at)) {
                    places.insert((response.topics.len(), topic.partitions.len()), *at);
                }
                topic.partitions.push(partition);
            }
            if !session.is_incremental || !topic.partitions.is_empty() {
                response.topics.push(topic);
            }
        }
    }
}
