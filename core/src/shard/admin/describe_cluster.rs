//! DescribeCluster: the cluster id and its brokers.

use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_net::{ErrorCode, StrBytes};

use super::{OPERATIONS_UNKNOWN, text};
use crate::guard::{Operation, Resource};
use crate::request_context::RequestContext;
use crate::shard::{Origin, Shard};

impl Shard {
    pub(super) fn describe_cluster(
        &mut self,
        origin: &Origin,
        context: &RequestContext,
        request: &kp::DescribeClusterRequest,
    ) {
        let (host, port) = self.advertised(origin);
        let node = kp::BrokerId(self.settings.node_id);
        let mut body = kp::DescribeClusterResponse::default();
        body.endpoint_type = 1;
        body.cluster_id = text(self.cluster_id.clone());
        body.controller_id = node;
        body.cluster_authorized_operations = match request.include_cluster_authorized_operations {
            // Everyone may know the brokers; what else may be done, only who may describe the cluster.
            true if self.allows(context, Resource::Cluster, Operation::Describe) => {
                self.guard.operations(&Resource::Cluster)
            }
            true => 0,
            false => OPERATIONS_UNKNOWN,
        };
        if origin.version >= 1 && request.endpoint_type != 1 {
            body.error_code = ErrorCode::MismatchedEndpointType.code();
            body.error_message = Some(text("this listener serves brokers, not controllers"));
        } else {
            body.brokers = vec![
                kp::describe_cluster_response::DescribeClusterBroker::default()
                    .with_broker_id(node)
                    .with_host(text(host))
                    .with_port(i32::from(port))
                    .with_rack(self.settings.rack.clone().map(StrBytes::from_string)),
            ];
        }
        self.answer(origin, &ResponseBody::DescribeCluster(body));
    }
}
