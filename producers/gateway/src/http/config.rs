//! Configuration of `agentgov gateway serve`: a YAML file.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use agentgov_schemas::mapping;
use agentgov_schemas::yaml::{self, FromNode, Node, Problem, Problems, Value};

use super::callers::{Caller, Callers};

/// Configuration of the server.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Address on which it listens: of this machine only, since it speaks plain HTTP.
    pub listen: SocketAddr,
    /// URL of the decision point; `None` if the command line or a running stack names it.
    pub pdp: Option<String>,
    /// File with the bearer token for the decision point.
    pub pdp_token_file: Option<String>,
    /// Folder that keeps events until Kafka has them.
    pub spool: Option<String>,
    /// Clients, by the digests of their tokens.
    pub callers: Callers,
    /// MCP servers by name.
    pub servers: BTreeMap<String, ServerEntry>,
}

/// An MCP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEntry {
    /// Program and arguments. Each session has a process of its own.
    pub command: Vec<String>,
    /// Session of a request that names none.
    pub session: SessionRule,
}

/// Session of a request that names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionRule {
    /// The request is refused.
    #[default]
    Required,
    /// One session for each agent, as long as the gateway runs.
    Agent,
}

struct ConfigFile {
    listen: Listen,
    pdp: Option<String>,
    pdp_token_file: Option<String>,
    spool: Option<String>,
    callers: Vec<Caller>,
    servers: Option<yaml::Named<ServerEntry>>,
}
mapping!(ConfigFile, "a gateway", { listen, pdp, pdp_token_file, spool, callers, servers });

struct Listen(SocketAddr);

impl FromNode for Listen {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let text = String::from_node(node, problems)?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Some(Self(address)),
            Ok(_) => {
                let message = "expected an address of this machine, such as 127.0.0.1:8282: the gateway speaks plain HTTP, so put a \
                     proxy with TLS in front";
                problems.add(node.at, message);
                None
            }
            Err(_) => {
                problems
                    .add(node.at, format!("expected ADDRESS:PORT, such as 127.0.0.1:8282, found {text:?}"));
                None
            }
        }
    }
}

impl FromNode for SessionRule {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text == "required" => Some(Self::Required),
            Value::Text(text) if text == "agent" => Some(Self::Agent),
            _ => {
                problems.add(node.at, "expected `required` or `agent`, found another value");
                None
            }
        }
    }
}

impl FromNode for ServerEntry {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = yaml::Fields::of(node, "a server", problems)?;
        let (command, session) =
            (fields.take::<Vec<String>>("command"), fields.take::<Option<SessionRule>>("session"));
        fields.end();
        let command = command?;
        if command.is_empty() {
            problems.add(node.location(&["command"]), "expected a program, found none");
            return None;
        }
        Some(Self { command, session: session?.unwrap_or_default() })
    }
}

impl ServeConfig {
    /// Parses a file's text.
    ///
    /// # Errors
    /// Every mistake, each with its place. None quotes a digest.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Problem>> {
        let (read, mut problems) = yaml::read::<ConfigFile>(file, text);
        let config = read.map(|file| {
            let ConfigFile { listen, pdp, pdp_token_file, spool, callers, servers } = file;
            if callers.is_empty() {
                problems.add(
                    yaml::Location::UNKNOWN,
                    "expected at least one caller, found none: nobody could call",
                );
            }
            let servers = servers.unwrap_or_default().0.into_iter().filter_map(|(name, entry)| {
                let entry = entry?;
                if name.is_empty() || !name.chars().all(is_of_a_path) {
                    let message =
                        format!("expected a name of letters, digits, `-`, `_` and `.`, found {name:?}");
                    problems.add(entry.referenced, message);
                }
                Some((name, entry.value))
            });
            let servers = servers.collect();
            let callers = Callers::new(callers, &mut problems);
            Self { listen: listen.0, pdp, pdp_token_file, spool, callers, servers }
        });
        problems.finish(config)
    }
}

/// Returns true for a character that a path has unescaped.
const fn is_of_a_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: &str = "callers:\n  - { name: dev, token_sha256: \"4c5dc9b7708905f77f5e5d16316b5dfb425e68cb326dcd55a860e90a7707031e\", tenant: desk, environment: production, agent: desk-bot }\n";

    #[test]
    fn file_has_listener_callers_and_servers() {
        let text = format!(
            "listen: 127.0.0.1:8282\npdp: http://127.0.0.1:8181\n{CALLER}servers:\n  files: {{ command: [npx, server], session: agent }}\n  web: {{ command: [web] }}\n"
        );
        let config = ServeConfig::parse("gateway.yaml", &text).unwrap();
        assert_eq!(config.listen.port(), 8282);
        let files = &config.servers["files"];
        assert_eq!((files.command.len(), files.session), (2, SessionRule::Agent));
        assert_eq!(config.servers["web"].session, SessionRule::Required);
        // A gateway of hooks only has no servers.
        assert!(ServeConfig::parse("gateway.yaml", &format!("listen: 127.0.0.1:0\n{CALLER}")).is_ok());
    }

    #[test]
    fn mistakes_are_reported_with_their_places() {
        for (text, expected) in [
            (
                format!("listen: 0.0.0.0:80\n{CALLER}"),
                "gateway.yaml:1:9: expected an address of this machine",
            ),
            (format!("listen: here\n{CALLER}"), "gateway.yaml:1:9: expected ADDRESS:PORT"),
            ("listen: 127.0.0.1:0\ncallers: []\n".to_owned(), "expected at least one caller"),
            (
                format!("listen: 127.0.0.1:0\n{CALLER}servers:\n  a/b: {{ command: [x] }}\n"),
                "expected a name of letters",
            ),
            (
                format!("listen: 127.0.0.1:0\n{CALLER}servers:\n  a: {{ command: [] }}\n"),
                "expected a program",
            ),
            (
                format!("listen: 127.0.0.1:0\n{CALLER}servers:\n  a: {{ command: [x], session: any }}\n"),
                "expected `required` or `agent`",
            ),
            (format!("listen: 127.0.0.1:0\n{CALLER}server:\n"), "unknown key `server` of a gateway"),
        ] {
            let problems = ServeConfig::parse("gateway.yaml", &text).unwrap_err();
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert!(problems.iter().any(|problem| problem.contains(expected)), "{text}: {problems:?}");
        }
    }
}
