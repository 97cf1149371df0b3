//! ListOffsets on the connection's shard.
//!
//! A search by time asks the owner for the batch to begin with, reads on from there, and looks at
//! the records inside: the answer is the first record whose timestamp is large enough.

use bytes::Bytes;
use tidelog_net::ErrorCode;
use tidelog_net::messages as kp;
use tidelog_net::records::Batch;
use tidelog_net::response::ResponseBody;
use tidelog_segment_log::batch::split_first;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;
use tidelog_segment_log::log::ReadPart;

use super::look_up::MAX_TIMESTAMP;
use super::newest::{Found, NewestSearch};
use super::partition::{PartitionAnswer, PartitionOp};
use super::{Now, Origin, Pending, ReplyTo, Shard, topic_id};
use crate::guard::{Operation, Resource};
use crate::request_context::RequestContext;

/// Bytes read at a time by a search.
const SCAN_BYTES: usize = 1 << 20;
/// What a compressed batch may decompress to during a search.
pub(super) const SCAN_DECOMPRESSED_MAX: usize = 128 << 20;

struct Search {
    topic_at: usize,
    partition_at: usize,
    key: PartitionKey,
    timestamp: i64,
    leader_epoch: i32,
    /// While the batch with the largest timestamp is looked for.
    newest: Option<NewestSearch>,
    /// Where a read continues, while one is under way.
    next: i64,
    /// Hot and cold pieces of the read under way, in order; a cold one is `None` until it is here.
    pieces: Vec<Option<Vec<Bytes>>>,
    fetch_charge: usize,
    answered: bool,
}

impl Search {
    /// What its owner is asked first.
    fn question(&self) -> PartitionOp {
        PartitionOp::ListOffset {
            timestamp: self.timestamp,
            leader_epoch: self.leader_epoch,
        }
    }
}

pub(super) struct PendingListOffsets {
    origin: Origin,
    response: kp::ListOffsetsResponse,
    searches: Vec<Search>,
    missing: usize,
}

impl PendingListOffsets {
    /// The parts that wait for their owner; one that reads by itself asks again and is told then.
    pub(super) fn waiting(&self) -> Vec<(u32, PartitionKey)> {
        let searches = (0..).zip(&self.searches);
        searches
            .filter(|(_, search)| !search.answered && search.pieces.is_empty())
            .map(|(at, search)| (at, search.key))
            .collect()
    }
}

/// What a look into loaded batches gives.
pub(super) enum Scanned {
    /// The record that is asked for.
    Found { offset: i64, timestamp_ms: i64 },
    /// Not among these: read on there.
    ReadOn { next: i64 },
    /// There is nothing more to read.
    Ended,
    /// This is answered.
    Failed(ErrorCode),
}

impl Shard {
    pub(super) fn list_offsets(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        request: kp::ListOffsetsRequest,
    ) {
        let image = std::sync::Arc::clone(&self.image);
        let mut response = kp::ListOffsetsResponse::default();
        let mut searches = Vec::new();
        for (topic_at, topic) in request.topics.iter().enumerate() {
            let found = image.topic(&topic.name.0);
            let allowed = self
                .guard
                .check(context, &[(Resource::Topic(&topic.name.0), Operation::Describe)])
                .is_allowed();
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for (partition_at, partition) in topic.partitions.iter().enumerate() {
                let mut answer = kp::list_offsets_response::ListOffsetsPartitionResponse::default()
                    .with_partition_index(partition.partition_index);
                answer.offset = -1;
                answer.timestamp = -1;
                answer.leader_epoch = -1;
                match found {
                    _ if !allowed => answer.error_code = ErrorCode::TopicAuthorizationFailed.code(),
                    Some(found) if found.has_partition(partition.partition_index) => {
                        searches.push(Search {
                            topic_at,
                            partition_at,
                            key: PartitionKey {
                                topic: topic_id(found),
                                partition: partition.partition_index,
                            },
                            timestamp: partition.timestamp,
                            leader_epoch: partition.current_leader_epoch,
                            newest: None,
                            next: -1,
                            pieces: Vec::new(),
                            fetch_charge: 0,
                            answered: false,
                        });
                    }
                    _ => answer.error_code = ErrorCode::UnknownTopicOrPartition.code(),
                }
                partitions.push(answer);
            }
            response.topics.push(
                kp::list_offsets_response::ListOffsetsTopicResponse::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        let missing = searches.len();
        let asks: Vec<(PartitionKey, PartitionOp)> = searches
            .iter()
            .map(|search| (search.key, search.question()))
            .collect();
        let id = self.add_pending(Pending::ListOffsets(PendingListOffsets {
            origin,
            response,
            searches,
            missing,
        }));
        self.ask_owners(now, disk, id, asks);
        if missing == 0 {
            self.finish_list_offsets(id);
        }
    }

    pub(super) fn on_offset_listed(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        reply: ReplyTo,
        answer: PartitionAnswer,
    ) {
        let part = reply.part as usize;
        match answer {
            PartitionAnswer::OffsetFound {
                offset,
                timestamp_ms,
                leader_epoch,
            } => {
                self.set_offset(reply.pending, part, Ok((offset, timestamp_ms, leader_epoch)));
            }
            PartitionAnswer::Failed(code, _) => self.set_offset(reply.pending, part, Err(code)),
            PartitionAnswer::ScanFrom { offset, leader_epoch } => {
                let Some(search) = self.search(reply.pending, part) else {
                    return;
                };
                search.leader_epoch = leader_epoch;
                self.read_on(now, disk, reply, offset);
            }
            PartitionAnswer::ScanNewest(newest, leader_epoch) => {
                let Some(search) = self.search(reply.pending, part) else {
                    return;
                };
                search.leader_epoch = leader_epoch;
                let newest = search.newest.insert(NewestSearch::new(newest));
                match newest.reads_on_at() {
                    Some(offset) => self.read_on(now, disk, reply, offset),
                    None => self.on_all_scanned(now, disk, reply),
                }
            }
            PartitionAnswer::Fetched {
                error,
                plan,
                high_watermark,
                log_start_offset,
            } => {
                let Some(search) = self.search(reply.pending, part) else {
                    return;
                };
                if error == ErrorCode::OffsetOutOfRange && search.next < log_start_offset {
                    // The log start has moved past this search: it begins again.
                    search.newest = None;
                    let (key, op) = (search.key, search.question());
                    self.ask_partition(now, disk, reply, key, op);
                    return;
                }
                if !error.is_ok() {
                    self.set_offset(reply.pending, part, Err(error));
                    return;
                }
                if search.next >= high_watermark || plan.parts.is_empty() {
                    self.on_all_scanned(now, disk, reply);
                    return;
                }
                self.load_scan(now, disk, reply, plan.parts);
            }
            PartitionAnswer::Produced { .. }
            | PartitionAnswer::RecordsRefused(..)
            | PartitionAnswer::Watching { .. }
            | PartitionAnswer::LogStart { .. }
            | PartitionAnswer::EpochEnd { .. } => {}
        }
    }

    /// A search that goes on; what comes late for one that has ended finds none.
    fn search(&mut self, id: u64, part: usize) -> Option<&mut Search> {
        match self.pending.get_mut(&id) {
            Some(Pending::ListOffsets(pending)) => {
                let search = pending.searches.get_mut(part);
                search.filter(|search| !search.answered)
            }
            _ => None,
        }
    }

    fn read_on(&mut self, now: Now, disk: &mut dyn Disk, reply: ReplyTo, offset: i64) {
        let Some(search) = self.search(reply.pending, reply.part as usize) else {
            return;
        };
        search.next = offset;
        let key = search.key;
        self.ask_partition(
            now,
            disk,
            reply,
            key,
            PartitionOp::Fetch {
                offset,
                max_bytes: SCAN_BYTES,
                leader_epoch: -1,
            },
        );
    }

    fn load_scan(&mut self, now: Now, disk: &mut dyn Disk, reply: ReplyTo, parts: Vec<ReadPart>) {
        let part = reply.part as usize;
        let mut pieces = Vec::with_capacity(parts.len());
        let mut cold = Vec::new();
        let mut charge = 0;
        for read in parts {
            match read {
                ReadPart::Hot(batches) => {
                    pieces.push(Some(
                        batches
                            .iter()
                            .map(|batch| Bytes::copy_from_slice(batch))
                            .collect(),
                    ));
                }
                ReadPart::Cold(range) => {
                    let bytes =
                        usize::try_from(range.position.end - range.position.start).unwrap_or(usize::MAX);
                    if !self.fetch_budget.reserve(bytes) {
                        break;
                    }
                    charge += bytes;
                    pieces.push(None);
                    cold.push(range);
                }
            }
        }
        if pieces.is_empty() {
            self.set_offset(reply.pending, part, Err(ErrorCode::NotLeaderOrFollower));
            return;
        }
        if let Some(search) = self.search(reply.pending, part) {
            search.pieces = pieces;
            search.fetch_charge = charge;
        }
        if cold.is_empty() {
            self.scan(now, disk, reply.pending, part);
        }
        for range in cold {
            self.cold.read(disk, reply.pending, part, range);
        }
    }

    pub(super) fn on_scan_loaded(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        id: u64,
        part: usize,
        batches: Result<Vec<Bytes>, ErrorCode>,
    ) {
        let batches = match batches {
            Ok(batches) => batches,
            Err(code) => {
                self.set_offset(id, part, Err(code));
                return;
            }
        };
        let Some(search) = self.search(id, part) else {
            return;
        };
        if let Some(place) = search.pieces.iter_mut().find(|piece| piece.is_none()) {
            *place = Some(batches);
        }
        if search.pieces.iter().all(Option::is_some) {
            self.scan(now, disk, id, part);
        }
    }

    fn scan(&mut self, now: Now, disk: &mut dyn Disk, id: u64, part: usize) {
        let Some(search) = self.search(id, part) else {
            return;
        };
        let charge = std::mem::take(&mut search.fetch_charge);
        // Pieces of several reads arrive in any order, so batches are looked at by offset.
        let mut batches: Vec<Bytes> = std::mem::take(&mut search.pieces)
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        batches.sort_by_key(|batch| split_first(batch).map_or(i64::MAX, |(header, ..)| header.base_offset.0));
        let from = search.next;
        let scanned = match &mut search.newest {
            Some(newest) => newest.scan(&batches, from),
            None => scan_batches(&batches, from, search.timestamp),
        };
        let leader_epoch = search.leader_epoch;
        self.fetch_budget.release(charge);
        let reply = ReplyTo {
            shard: self.own,
            pending: id,
            part: part as u32,
        };
        match scanned {
            Scanned::Found { offset, timestamp_ms } => {
                self.set_offset(id, part, Ok((offset, timestamp_ms, leader_epoch)))
            }
            Scanned::Failed(code) => self.set_offset(id, part, Err(code)),
            Scanned::ReadOn { next } if next > from => self.read_on(now, disk, reply, next),
            Scanned::ReadOn { .. } | Scanned::Ended => self.on_all_scanned(now, disk, reply),
        }
    }

    /// All there was to be looked through is: nothing was found, or the batch with the largest timestamp is
    /// known and looked into.
    fn on_all_scanned(&mut self, now: Now, disk: &mut dyn Disk, reply: ReplyTo) {
        let (id, part) = (reply.pending, reply.part as usize);
        let Some(search) = self.search(id, part) else {
            return;
        };
        let leader_epoch = search.leader_epoch;
        match search.newest.take().and_then(|newest| newest.found()) {
            None => self.set_offset(id, part, Ok((-1, -1, -1))),
            Some(Found::Batch(offset)) => self.read_on(now, disk, reply, offset),
            Some(Found::Record { offset, timestamp_ms }) => {
                self.set_offset(id, part, Ok((offset, timestamp_ms, leader_epoch)))
            }
        }
    }

    fn set_offset(&mut self, id: u64, part: usize, result: Result<(i64, i64, i32), ErrorCode>) {
        let Some(Pending::ListOffsets(pending)) = self.pending.get_mut(&id) else {
            return;
        };
        let Some(search) = pending.searches.get_mut(part) else {
            return;
        };
        if std::mem::replace(&mut search.answered, true) {
            return;
        }
        self.fetch_budget
            .release(std::mem::take(&mut search.fetch_charge));
        let place = pending
            .response
            .topics
            .get_mut(search.topic_at)
            .and_then(|topic| topic.partitions.get_mut(search.partition_at));
        if let Some(place) = place {
            match result {
                Ok((offset, timestamp, leader_epoch)) => {
                    place.offset = offset;
                    place.timestamp = timestamp;
                    place.leader_epoch = leader_epoch;
                }
                Err(code) => place.error_code = code.code(),
            }
        }
        pending.missing -= 1;
        if pending.missing == 0 {
            self.finish_list_offsets(id);
        }
    }

    fn finish_list_offsets(&mut self, id: u64) {
        if let Some(Pending::ListOffsets(pending)) = self.pending.remove(&id) {
            self.answer(&pending.origin, &ResponseBody::ListOffsets(pending.response));
        }
    }
}

/// Looks for the first record at or after `wanted`, from offset `from` on; for [`MAX_TIMESTAMP`],
/// for the record with the largest timestamp of the first batch, which is the one that has it.
fn scan_batches(batches: &[Bytes], from: i64, wanted: i64) -> Scanned {
    let mut next = from;
    for batch in batches {
        let Ok((header, ..)) = split_first(batch) else {
            return Scanned::Failed(ErrorCode::CorruptMessage);
        };
        next = next.max(header.last_offset().0 + 1);
        let target = if wanted == MAX_TIMESTAMP {
            header.max_timestamp
        } else {
            wanted
        };
        if header.max_timestamp < target || header.is_control() {
            continue;
        }
        match first_record(batch, target, from) {
            Ok(Some((offset, timestamp_ms))) => return Scanned::Found { offset, timestamp_ms },
            Ok(None) => {}
            Err(reason) => {
                tracing::warn!(%reason, base_offset = header.base_offset.0, "a batch could not be searched by time");
                return Scanned::Failed(ErrorCode::CorruptMessage);
            }
        }
    }
    Scanned::ReadOn { next }
}

/// Offset and timestamp of the first record of a batch at or after both.
fn first_record(batch: &Bytes, timestamp: i64, from: i64) -> Result<Option<(i64, i64)>, String> {
    let batch = Batch::take(&mut batch.clone()).map_err(|error| error.to_string())?;
    let header = &batch.header;
    if header.is_log_append_time() {
        // All records of the batch carry its one timestamp.
        return Ok(Some((header.base_offset.max(from), header.max_timestamp)));
    }
    let records = batch
        .decompressed(SCAN_DECOMPRESSED_MAX)
        .map_err(|error| error.to_string())?;
    for record in batch.records(&records).map_err(|error| error.to_string())? {
        let record = record.map_err(|error| error.to_string())?;
        let offset = header.base_offset + i64::from(record.offset_delta);
        let time = header.base_timestamp.saturating_add(record.timestamp_delta);
        if offset >= from && time >= timestamp {
            return Ok(Some((offset, time)));
        }
    }
    Ok(None)
}
