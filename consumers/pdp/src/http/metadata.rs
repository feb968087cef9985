//! The paths, and the metadata that lists them.

use axum::http::{HeaderMap, header, uri::Authority};
use serde_json::{Value, json};

pub(super) const EVALUATION: &str = "/access/v1/evaluation";
pub(super) const EVALUATIONS: &str = "/access/v1/evaluations";
pub(super) const SEARCH_SUBJECT: &str = "/access/v1/search/subject";
pub(super) const SEARCH_RESOURCE: &str = "/access/v1/search/resource";
pub(super) const SEARCH_ACTION: &str = "/access/v1/search/action";
/// The metadata does not name it, since AuthZEN registers no parameter for it.
pub(super) const KEYS: &str = "/.well-known/jwks.json";
pub(super) const CONFIGURATION: &str = "/.well-known/authzen-configuration";

/// Returns the metadata of the decision point at this URL.
pub(super) fn configuration(base: &str) -> Value {
    json!({
        "policy_decision_point": base,
        "access_evaluation_endpoint": format!("{base}{EVALUATION}"),
        "access_evaluations_endpoint": format!("{base}{EVALUATIONS}"),
        "search_subject_endpoint": format!("{base}{SEARCH_SUBJECT}"),
        "search_resource_endpoint": format!("{base}{SEARCH_RESOURCE}"),
        "search_action_endpoint": format!("{base}{SEARCH_ACTION}"),
    })
}

/// Returns the base URL from the request's host. Always `https`: on loopback a proxy with TLS is in front.
///
/// # Errors
/// If the request has no valid host.
pub(super) fn base_url(headers: &HeaderMap) -> Result<String, String> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = host.and_then(|host| host.parse::<Authority>().ok());
    let authority = authority.filter(|authority| !authority.as_str().contains('@'));
    let authority = authority.ok_or("`Host`: expected a host name or address, found another value")?;
    Ok(format!("https://{authority}"))
}

/// Returns the path of a URL, if it has one.
pub(super) fn path_of_url(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.find('/').and_then(|at| rest.get(at..))
}
