//! From a frame to a handler: decode within bounds, make the context, ask the guard, dispatch.

use std::sync::Arc;

use bytes::Bytes;
use tidelog_net::limits::decode_budget_bytes;
use tidelog_net::response::{self, ResponseBody};
use tidelog_net::{DecodeError, Request, RequestBody, decode_request};
use tidelog_segment_log::disk::Disk;

use super::{Now, Origin, Parts, RequestKind, SendPart, Shard, SocketId};
use crate::fatal::{Breadcrumb, set_breadcrumb};
use crate::request_context::RequestContext;

/// ApiVersions, whose unknown versions are answered and not refused.
const API_VERSIONS_KEY: i16 = 18;

impl Shard {
    /// A whole frame of a connection (size prefix taken off). `charge_bytes` of the receive budget are charged
    /// for it alone (nothing, where the buffer it lies in is charged); that charge goes with the answer.
    pub fn on_frame(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        socket: SocketId,
        frame: Bytes,
        charge_bytes: usize,
    ) {
        let decode_bytes = decode_budget_bytes(frame.len());
        let Some(connection) = self.connections.get_mut(&socket) else {
            self.receive_budget.release(charge_bytes);
            return;
        };
        self.metrics.requests.increment();
        connection.active_ms = now.monotonic_ms;
        let place = connection.begin();
        let mut origin = Origin {
            socket,
            place,
            version: 0,
            correlation_id: 0,
            charge_bytes,
            arrived_at: now.instant,
            kind: RequestKind::Other,
        };
        match decode_request(frame, decode_bytes) {
            Ok(Request { header, body }) => {
                origin.version = header.version;
                origin.correlation_id = header.correlation_id;
                origin.kind = match body {
                    RequestBody::Produce(_) => RequestKind::Produce,
                    RequestBody::Fetch(_) => RequestKind::Fetch,
                    _ => RequestKind::Other,
                };
                let client_id = header.client_id.as_deref().unwrap_or_default();
                let Some(connection) = self.connections.get_mut(&socket) else {
                    return;
                };
                let context = RequestContext {
                    on: Arc::clone(&connection.context),
                    client_id: connection.client_id(client_id),
                    api_key: header.api_key.code(),
                    api_version: header.version,
                    correlation_id: header.correlation_id,
                    arrived_at: origin.arrived_at,
                    deadline: None,
                    trace_id: (u64::from(self.own) << 48) ^ self.metrics.requests.get(),
                };
                set_breadcrumb(Breadcrumb {
                    api_key: Some(context.api_key),
                    client_id: Some(Arc::clone(&context.client_id)),
                    partition: None,
                });
                self.dispatch(now, disk, origin, &context, body);
            }
            Err(DecodeError::UnsupportedApi {
                correlation_id,
                key: API_VERSIONS_KEY,
                ..
            }) => match response::encode_unsupported_api_versions(correlation_id) {
                Ok(bytes) => self.respond(&origin, Parts::One(SendPart::Bytes(bytes)), 0),
                Err(error) => self.refuse(&origin, &error),
            },
            Err(error) => {
                self.metrics.frames_refused.increment();
                self.refuse(&origin, &error);
            }
        }
    }

    fn dispatch(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        body: RequestBody,
    ) {
        match body {
            RequestBody::Produce(request) => self.produce(now, disk, origin, context, request),
            RequestBody::Fetch(request) => self.fetch(now, disk, origin, context, request),
            RequestBody::ListOffsets(request) => self.list_offsets(now, disk, origin, context, request),
            RequestBody::OffsetForLeaderEpoch(request) => self.epoch_end(now, disk, origin, context, request),
            RequestBody::DeleteRecords(request) => self.delete_records(now, disk, origin, context, request),
            other => self.admin(now, disk, origin, context, other),
        }
    }

    /// Encodes an answer and gives it its turn.
    pub(super) fn answer(&mut self, origin: &Origin, body: &ResponseBody) {
        match response::encode_response(origin.version, origin.correlation_id, body) {
            Ok(bytes) => self.respond(origin, Parts::One(SendPart::Bytes(bytes)), 0),
            Err(error) => {
                tracing::error!(%error, "an answer could not be encoded");
                self.refuse(origin, &error);
            }
        }
    }

    /// Ends a request that gets no answer: what came before it is still sent, then the connection closes.
    pub(super) fn refuse(&mut self, origin: &Origin, error: &dyn std::fmt::Display) {
        self.metrics.request_errors.increment();
        let peer = self.peer_of(origin.socket);
        tracing::warn!(%peer, "closed: {error}");
        self.close_at(origin);
    }

    /// Ends a request that wants no answer.
    pub(super) fn finish_silently(&mut self, origin: &Origin) {
        self.finish(origin, None);
    }

    /// Closes a connection whose acks=0 request failed: there is no other way to tell.
    pub(super) fn close_for_error(&mut self, origin: &Origin) {
        self.metrics.request_errors.increment();
        self.close_at(origin);
    }
}
