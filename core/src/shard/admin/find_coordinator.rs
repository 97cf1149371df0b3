//! FindCoordinator: this node, for every group and transaction.

use tidelog_net::StrBytes;
use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;

use super::text;
use crate::guard::{Operation, Resource};
use crate::request_context::RequestContext;
use crate::shard::{Origin, Shard};

impl Shard {
    pub(super) fn find_coordinator(
        &mut self,
        origin: &Origin,
        context: &RequestContext,
        request: &kp::FindCoordinatorRequest,
    ) {
        const KEY_TRANSACTION: i8 = 1;
        let single = (origin.version < 4).then_some(request.key.as_str());
        let denied = request
            .coordinator_keys
            .iter()
            .map(StrBytes::as_str)
            .chain(single)
            .any(|key| {
                let resource = match request.key_type {
                    KEY_TRANSACTION => Resource::TransactionalId(key),
                    _ => Resource::Group(key),
                };
                !self
                    .guard
                    .check(context, &[(resource, Operation::Describe)])
                    .is_allowed()
            });
        if denied {
            self.metrics.guard_denials.increment();
            self.refuse(origin, &"not authorized to find this coordinator");
            return;
        }
        let (host, port) = self.advertised(origin);
        let node = kp::BrokerId(self.settings.node_id);
        let mut body = kp::FindCoordinatorResponse::default();
        if origin.version >= 4 {
            body.coordinators = request
                .coordinator_keys
                .iter()
                .map(|key| {
                    kp::find_coordinator_response::Coordinator::default()
                        .with_key(key.clone())
                        .with_node_id(node)
                        .with_host(text(host.clone()))
                        .with_port(i32::from(port))
                })
                .collect();
        } else {
            body.node_id = node;
            body.host = text(host);
            body.port = i32::from(port);
        }
        self.answer(origin, &ResponseBody::FindCoordinator(body));
    }
}
