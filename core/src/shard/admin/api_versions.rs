//! ApiVersions: what is served.

use tidelog_net::ErrorCode;
use tidelog_net::messages as kp;
use tidelog_net::request::is_valid_software_name;
use tidelog_net::response::{self, ResponseBody};

use crate::shard::{Origin, Shard};

impl Shard {
    pub(super) fn api_versions(&mut self, origin: &Origin, request: &kp::ApiVersionsRequest) {
        let mut body = response::api_versions_response();
        if origin.version >= 3
            && !(is_valid_software_name(&request.client_software_name)
                && is_valid_software_name(&request.client_software_version))
        {
            body = kp::ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
        }
        self.answer(origin, &ResponseBody::ApiVersions(body));
    }
}
