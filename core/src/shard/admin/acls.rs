//! DescribeAcls, CreateAcls, DeleteAcls: there is no authorizer, and each says so as Kafka without one does.
//!
//! MirrorMaker 2 and Terraform ask and go on when they are told SECURITY_DISABLED.

use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_net::{ErrorCode, StrBytes};

use crate::guard::{Operation, Resource};
use crate::request_context::RequestContext;
use crate::shard::{Origin, Shard};

const DISABLED: &str = "No authorizer is configured, so there are no ACLs.";
const DENIED: &str = "Cluster authorization failed.";

impl Shard {
    /// Why nothing is done with ACLs: this error, in every item.
    fn acl_refusal(&self, context: &RequestContext, operation: Operation) -> (i16, Option<StrBytes>) {
        let (code, message) = match self.allows(context, Resource::Cluster, operation) {
            true => (ErrorCode::SecurityDisabled, DISABLED),
            false => (ErrorCode::ClusterAuthorizationFailed, DENIED),
        };
        (code.code(), Some(StrBytes::from_static_str(message)))
    }

    pub(super) fn describe_acls(&mut self, origin: &Origin, context: &RequestContext) {
        let (code, message) = self.acl_refusal(context, Operation::Describe);
        let body = kp::DescribeAclsResponse::default()
            .with_error_code(code)
            .with_error_message(message);
        self.answer(origin, &ResponseBody::DescribeAcls(body));
    }

    pub(super) fn create_acls(
        &mut self,
        origin: &Origin,
        context: &RequestContext,
        request: &kp::CreateAclsRequest,
    ) {
        use kp::create_acls_response::AclCreationResult;
        let items = request.creations.len();
        self.answer_items(origin, items, |shard| {
            let (code, message) = shard.acl_refusal(context, Operation::Alter);
            let result = AclCreationResult::default()
                .with_error_code(code)
                .with_error_message(message);
            ResponseBody::CreateAcls(kp::CreateAclsResponse::default().with_results(vec![result; items]))
        });
    }

    pub(super) fn delete_acls(
        &mut self,
        origin: &Origin,
        context: &RequestContext,
        request: &kp::DeleteAclsRequest,
    ) {
        use kp::delete_acls_response::DeleteAclsFilterResult;
        let items = request.filters.len();
        self.answer_items(origin, items, |shard| {
            let (code, message) = shard.acl_refusal(context, Operation::Alter);
            let result = DeleteAclsFilterResult::default()
                .with_error_code(code)
                .with_error_message(message);
            let body = kp::DeleteAclsResponse::default().with_filter_results(vec![result; items]);
            ResponseBody::DeleteAcls(body)
        });
    }
}
