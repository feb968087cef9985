//! Request, in the terms of AuthZEN.

use serde_json::{Map, Value};

/// Properties of an entity or an action, or a context.
pub type Properties = Map<String, Value>;

/// A subject or a resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessEntity {
    /// Its type.
    pub kind: String,
    /// Its id, unique within the type.
    pub id: String,
    /// Properties in the request. They take precedence over the known ones.
    pub properties: Properties,
}

/// An action.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessAction {
    /// Its name.
    pub name: String,
    /// Properties, which policies read as `context.action`.
    pub properties: Properties,
}

/// One request for a decision.
#[derive(Clone, Copy, Debug)]
pub struct AccessRequest<'r> {
    /// The principal.
    pub subject: &'r AccessEntity,
    /// The action.
    pub action: &'r AccessAction,
    /// The resource.
    pub resource: &'r AccessEntity,
    /// The request's context.
    pub context: &'r Properties,
}
