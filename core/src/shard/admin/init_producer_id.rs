//! InitProducerId: a fresh id for idempotence, given out by group 0.

use tidelog_net::ErrorCode;
use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_segment_log::disk::Disk;

use crate::guard::{Operation, Resource};
use crate::request_context::RequestContext;
use crate::shard::control::ControlOp;
use crate::shard::{Now, Origin, Shard};

impl Shard {
    pub(super) fn init_producer_id(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        request: &kp::InitProducerIdRequest,
    ) {
        if !self
            .guard
            .check(context, &[(Resource::Cluster, Operation::IdempotentWrite)])
            .is_allowed()
        {
            self.metrics.guard_denials.increment();
            let mut body = kp::InitProducerIdResponse::default();
            body.error_code = ErrorCode::ClusterAuthorizationFailed.code();
            body.producer_id = (-1).into();
            body.producer_epoch = -1;
            self.answer(&origin, &ResponseBody::InitProducerId(body));
            return;
        }
        if request.transactional_id.is_some() {
            let mut body = kp::InitProducerIdResponse::default();
            // Transactions are not served yet, and no retry will change that.
            body.error_code = ErrorCode::TransactionalIdAuthorizationFailed.code();
            body.producer_id = (-1).into();
            body.producer_epoch = -1;
            self.answer(&origin, &ResponseBody::InitProducerId(body));
            return;
        }
        self.hand_to_control(now, disk, origin, ControlOp::InitProducerId);
    }
}
