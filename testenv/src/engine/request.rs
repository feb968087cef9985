//! Parameters of a request, from URL keys and form fields.

use super::EngineError;
use super::session::Parameter;

/// URL keys of ClickHouse's HTTP interface that are not engine settings. They have no effect here: accounts and roles (the
/// engine has none), sessions (each request has its own), paging of the response.
const NOT_SETTINGS: [&str; 14] = [
    "buffer_size",
    "client_protocol_version",
    "close_session",
    "compress",
    "password",
    "query_id",
    "quota_key",
    "role",
    "session_check",
    "session_id",
    "session_timeout",
    "stacktrace",
    "user",
    "wait_end_of_query",
];

/// Default timeout for the next bytes of a body, in seconds, as in a real server.
const DEFAULT_RECEIVE_TIMEOUT_SECONDS: u64 = 30;

/// A request without its body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// SQL of the URL, continued by the body.
    pub(super) query: String,
    /// Current database of the statement.
    pub(super) database: Option<String>,
    /// Format of the response if the SQL names none.
    pub(super) default_format: Option<String>,
    /// True if the body uses ClickHouse's framing.
    pub(super) framed: bool,
    /// Settings of this statement, in their order.
    pub(super) settings: Vec<(String, String)>,
    /// Values of `{name:Type}`.
    pub(super) parameters: Vec<Parameter>,
    /// Timeout for the next bytes of the body, in seconds; 0 for the default.
    receive_timeout: u64,
}

impl Request {
    /// Adds a key of the URL or of a form.
    pub(super) fn add(&mut self, key: &str, value: String) -> Result<(), EngineError> {
        match key {
            "query" => self.query.push_str(&value),
            "database" => self.database = Some(value).filter(|name| !name.is_empty()),
            "default_format" => self.default_format = Some(value),
            "decompress" => self.framed = matches!(value.as_str(), "1" | "true"),
            "http_receive_timeout" => self.receive_timeout = seconds(key, &value)?,
            key if NOT_SETTINGS.contains(&key) => {}
            key => match key.strip_prefix("param_") {
                Some(name) => self.parameters.push((name.to_owned(), value)),
                None => self.settings.push((key.to_owned(), value)),
            },
        }
        Ok(())
    }

    /// Makes the request read-only, as for GET.
    pub(super) fn set_read_only(&mut self) {
        if !self.settings.iter().any(|(key, _)| key == "readonly") {
            self.settings.push(("readonly".to_owned(), "2".to_owned()));
        }
    }

    /// Returns the timeout for the next bytes of the body.
    pub(super) fn receive_timeout(&self) -> std::time::Duration {
        let seconds =
            if self.receive_timeout == 0 { DEFAULT_RECEIVE_TIMEOUT_SECONDS } else { self.receive_timeout };
        std::time::Duration::from_secs(seconds)
    }

    /// Returns the statements that prepare the request's connection.
    pub(super) fn preparations(&self) -> Vec<String> {
        let mut statements = Vec::new();
        if let Some(database) = &self.database {
            statements.push(format!("USE {}", quote(database, '`')));
        }
        // `readonly` forbids further settings, so it is set last.
        let (last, first): (Vec<_>, Vec<_>) = self.settings.iter().partition(|(key, _)| key == "readonly");
        let assignments: Vec<String> = first
            .into_iter()
            .chain(last)
            .map(|(key, value)| format!("{} = {}", quote(key, '`'), quote(value, '\'')))
            .collect();
        statements.extend(assignments.into_iter().map(|assignment| format!("SET {assignment}")));
        statements
    }
}

fn seconds(key: &str, value: &str) -> Result<u64, EngineError> {
    value
        .parse()
        .map_err(|_| EngineError::Request(format!("expected whole seconds in {key}, found '{value}'")))
}

/// Quotes a name or value.
pub(super) fn quote(text: &str, mark: char) -> String {
    let escaped = text.replace('\\', "\\\\").replace(mark, &format!("\\{mark}"));
    format!("{mark}{escaped}{mark}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_split_into_settings_and_parameters() {
        let mut request = Request::default();
        for (key, value) in [
            ("query", "SELECT "),
            ("database", "d`b"),
            ("readonly", "1"),
            ("max_threads", "2"),
            ("param_x", "it's"),
            ("session_id", "s"),
            ("decompress", "1"),
        ] {
            request.add(key, value.to_owned()).unwrap();
        }
        request.set_read_only();
        assert!(request.framed);
        assert_eq!(request.parameters, [("x".to_owned(), "it's".to_owned())]);
        assert_eq!(
            request.preparations(),
            [r"USE `d\`b`", "SET `max_threads` = '2'", "SET `readonly` = '1'"]
        );
    }
}
