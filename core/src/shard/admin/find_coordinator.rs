//! FindCoordinator: this node, for every group and transaction.

use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_net::{ErrorCode, StrBytes};

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
        // Nobody coordinates what may not be found: no node.
        let nobody = || (kp::BrokerId(-1), StrBytes::default(), -1);
        let (host, port) = self.advertised(origin);
        let own = (kp::BrokerId(self.settings.node_id), text(host), i32::from(port));
        let find = |key: &str| {
            let (resource, code) = match request.key_type {
                KEY_TRANSACTION => (
                    Resource::TransactionalId(key),
                    ErrorCode::TransactionalIdAuthorizationFailed,
                ),
                _ => (Resource::Group(key), ErrorCode::GroupAuthorizationFailed),
            };
            match self.allows(context, resource, Operation::Describe) {
                true => (own.clone(), ErrorCode::None),
                false => (nobody(), code),
            }
        };
        let mut body = kp::FindCoordinatorResponse::default();
        if origin.version >= 4 {
            let keys = request.coordinator_keys.iter().map(|key| {
                let ((node, host, port), error) = find(key);
                kp::find_coordinator_response::Coordinator::default()
                    .with_key(key.clone())
                    .with_node_id(node)
                    .with_host(host)
                    .with_port(port)
                    .with_error_code(error.code())
            });
            body.coordinators = keys.collect();
        } else {
            let ((node, host, port), error) = find(&request.key);
            body.node_id = node;
            body.host = host;
            body.port = port;
            body.error_code = error.code();
        }
        self.answer(origin, &ResponseBody::FindCoordinator(body));
    }
}
