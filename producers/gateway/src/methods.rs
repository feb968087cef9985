//! Methods of MCP, of the versions with `initialize` (2024-11-05 to 2025-11-25) and of the stateless one (2026-07-28). A method
//! that is not in the table passes in no direction.

use agentgov_schemas::governance::{PROMPTS_GET, RESERVED_TOOL_NAMES, RESOURCES_READ};

/// Party that sends a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The client: the agent's side.
    Client,
    /// The server: the side of the tools.
    Server,
}

/// Treatment of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Passes unchanged.
    Pass,
    /// Passes, and its result is reduced to the permitted tools.
    ListTools,
    /// Is decided, recorded, and sent only if it is allowed.
    Decide(Target),
}

/// Governed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `tools/call`: the tool `SERVER/NAME`.
    Tool,
    /// `resources/read`: the tool `SERVER/resources.read`.
    Resource,
    /// `prompts/get`: the tool `SERVER/prompts.get`.
    Prompt,
}

impl Target {
    /// Returns the reserved name of the tool; `None` if the request names it.
    pub const fn reserved_name(self) -> Option<&'static str> {
        match self {
            Self::Tool => None,
            Self::Resource => Some(RESOURCES_READ),
            Self::Prompt => Some(PROMPTS_GET),
        }
    }

    /// Returns true for a name that a server's tool must not have, since it is the name of another request.
    pub fn is_reserved(name: &str) -> bool {
        RESERVED_TOOL_NAMES.contains(&name)
    }
}

use Sender::{Client, Server};
use Treatment::{Decide, ListTools, Pass};

/// Requests, with their senders and their treatment.
const REQUESTS: &[(&str, &[Sender], Treatment)] = &[
    ("initialize", &[Client], Pass),
    ("ping", &[Client, Server], Pass),
    ("server/discover", &[Client], Pass),
    ("subscriptions/listen", &[Client], Pass),
    ("tools/list", &[Client], ListTools),
    ("tools/call", &[Client], Decide(Target::Tool)),
    ("resources/list", &[Client], Pass),
    ("resources/templates/list", &[Client], Pass),
    ("resources/read", &[Client], Decide(Target::Resource)),
    ("resources/subscribe", &[Client], Pass),
    ("resources/unsubscribe", &[Client], Pass),
    ("prompts/list", &[Client], Pass),
    ("prompts/get", &[Client], Decide(Target::Prompt)),
    ("completion/complete", &[Client], Pass),
    ("logging/setLevel", &[Client], Pass),
    // Of a client's tasks only: a result that a server gives later would pass without a record.
    ("tasks/get", &[Server], Pass),
    ("tasks/list", &[Server], Pass),
    ("tasks/result", &[Server], Pass),
    ("tasks/cancel", &[Server], Pass),
    ("sampling/createMessage", &[Server], Pass),
    ("elicitation/create", &[Server], Pass),
    ("roots/list", &[Server], Pass),
];

/// Notifications, with their senders.
const NOTIFICATIONS: &[(&str, &[Sender])] = &[
    ("notifications/initialized", &[Client]),
    ("notifications/cancelled", &[Client, Server]),
    ("notifications/progress", &[Client, Server]),
    ("notifications/roots/list_changed", &[Client]),
    ("notifications/tasks/status", &[Client]),
    ("notifications/message", &[Server]),
    ("notifications/resources/updated", &[Server]),
    ("notifications/resources/list_changed", &[Server]),
    ("notifications/tools/list_changed", &[Server]),
    ("notifications/prompts/list_changed", &[Server]),
    ("notifications/elicitation/complete", &[Server]),
    ("notifications/subscriptions/acknowledged", &[Server]),
];

/// Returns the treatment of a request; `None` for an unknown one.
pub fn request(sender: Sender, method: &str) -> Option<Treatment> {
    let (_, senders, treatment) = REQUESTS.iter().find(|(name, _, _)| *name == method)?;
    senders.contains(&sender).then_some(*treatment)
}

/// Returns true if a notification passes.
pub fn notification(sender: Sender, method: &str) -> bool {
    NOTIFICATIONS.iter().any(|(name, senders)| *name == method && senders.contains(&sender))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_passes_only_from_its_sender() {
        assert_eq!(request(Client, "tools/call"), Some(Decide(Target::Tool)));
        assert_eq!(request(Client, "resources/read"), Some(Decide(Target::Resource)));
        assert_eq!(request(Client, "prompts/get"), Some(Decide(Target::Prompt)));
        assert_eq!(request(Client, "tools/list"), Some(ListTools));
        assert_eq!(request(Server, "sampling/createMessage"), Some(Pass));
        for (sender, method) in [
            (Server, "tools/call"),
            (Client, "sampling/createMessage"),
            (Client, "Tools/call"),
            (Client, "tasks/get"),
            (Client, "tasks/result"),
            (Client, "tasks/update"),
            (Client, "tools/call "),
            (Client, "notifications/initialized"),
            (Client, ""),
        ] {
            assert_eq!(request(sender, method), None, "{method}");
        }
        assert!(
            notification(Client, "notifications/cancelled") && notification(Server, "notifications/message")
        );
        assert!(!notification(Client, "notifications/message") && !notification(Server, "tools/call"));
    }
}
