//! Reading errors as a client does.

use tonic::Status;
use tonic_types::StatusExt as _;

/// The fields that an error's `google.rpc.BadRequest` names, in order.
pub fn bad_fields(status: &Status) -> Vec<String> {
    let details = status.get_details_bad_request();
    details.map(|bad| bad.field_violations.into_iter().map(|one| one.field).collect()).unwrap_or_default()
}

/// The reason in an error's `google.rpc.ErrorInfo`. Empty: it has none.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
