//! Client of a Confluent-compatible schema registry: looks up, fetches and registers schemas, and sets compatibility levels.
//!
//! Source: Confluent's Schema Registry API reference. Tests use Apicurio Registry's ccompat API, version 7.

use std::time::Duration;

use agentgov_schemas::wire::{Schema, SchemaId};
use reqwest::StatusCode;
use reqwest::blocking::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::proxy_of;
use crate::references::{Reference, ResolveError, SchemaResponse, resolve};
use crate::{Login, SchemaRegistryEndpoint, TlsError, describe, http_client, read_body};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Blocking client of a schema registry. Must not be called from async code.
#[derive(Debug)]
pub struct SchemaRegistry {
    http: Client,
    base: String,
    login: Option<Login>,
    /// Suffix for error messages that names the proxy, since a response may be the proxy's; empty without a proxy.
    proxy_hint: String,
}

/// Error of a request to the schema registry.
#[derive(Debug, thiserror::Error)]
pub enum SchemaRegistryError {
    /// The schema registry did not respond, or is temporarily unavailable. A retry may succeed.
    #[error("schema registry {url}: {message}; is it running and reachable?")]
    Unavailable {
        /// URL of the request.
        url: String,
        /// Error or response.
        message: String,
    },
    /// The schema registry refused the login. Its content is unknown.
    #[error("schema registry {url}: {message}; expected it to accept {login}")]
    Refused {
        /// URL of the request.
        url: String,
        /// Error or response.
        message: String,
        /// Description of the client's login.
        login: String,
    },
    /// The TLS settings are invalid.
    #[error("schema registry: {0}")]
    Tls(#[from] TlsError),
    /// The schema registry has no schema with this id.
    #[error("schema registry {url}: no schema with id {id}")]
    UnknownId {
        /// URL of the request.
        url: String,
        /// Schema id.
        id: u32,
    },
    /// The schema is incompatible with an earlier version.
    #[error("schema registry: subject {subject} refuses the schema as incompatible: {message}")]
    Incompatible {
        /// The subject.
        subject: String,
        /// Message of the schema registry.
        message: String,
    },
    /// The response is not as the API defines it.
    #[error("schema registry {url}: expected {expected}, found {found}")]
    Unexpected {
        /// URL of the request.
        url: String,
        /// Expected response.
        expected: &'static str,
        /// Error or response.
        found: String,
    },
}

impl SchemaRegistryError {
    /// Returns true if the same request may succeed later, so that the error proves nothing about the schema. This includes a
    /// refused login, which a person must fix.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Refused { .. })
    }

    /// Returns true if the schema registry responded that the id itself is invalid. Any other error, e.g. an expired password or a
    /// URL without a schema registry, proves nothing about a record.
    pub fn is_about_the_id(&self) -> bool {
        match self {
            Self::UnknownId { .. } => true,
            Self::Unexpected { expected, .. } => *expected == AVRO_SCHEMA,
            _ => false,
        }
    }
}

/// Expected content for an id. Errors with this expectation are about the id, see
/// [`SchemaRegistryError::is_about_the_id`].
const AVRO_SCHEMA: &str = "an Avro schema";

#[derive(Deserialize)]
struct IdResponse {
    id: u32,
}

/// Body of every error of the API.
#[derive(Deserialize)]
struct ErrorResponse {
    #[serde(rename = "error_code")]
    _code: i64,
}

#[derive(Deserialize)]
struct LevelResponse {
    #[serde(alias = "compatibility", rename = "compatibilityLevel")]
    level: String,
}

impl SchemaRegistry {
    /// Creates a client for the schema registry at `endpoint`, which connects on first use.
    pub fn new(endpoint: &SchemaRegistryEndpoint) -> Result<Self, SchemaRegistryError> {
        let base = endpoint.url.trim_end_matches('/').to_owned();
        let http = http_client(&base, &endpoint.tls)?
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|e| SchemaRegistryError::Unavailable { url: base.clone(), message: describe(&e) })?;
        let proxy_hint = proxy_of(&base).map(|proxy| {
            format!(" (through the proxy {proxy} of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY; NO_PROXY names hosts to reach without it)")
        });
        Ok(Self { http, base, login: endpoint.login.clone(), proxy_hint: proxy_hint.unwrap_or_default() })
    }

    /// Returns the id of exactly this schema under `subject`, if it is registered.
    pub fn id_of(&self, subject: &str, schema: &str) -> Result<Option<SchemaId>, SchemaRegistryError> {
        let url = format!("{}/subjects/{subject}", self.base);
        match self.send(&url, self.http.post(&url).json(&json!({ "schema": schema })))? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => {
                parse::<IdResponse>(&url, status, &body, "an id").map(|answer| Some(SchemaId(answer.id)))
            }
        }
    }

    /// Returns the schema with `id`, with all referenced schemas in one text.
    pub fn schema(&self, id: SchemaId) -> Result<Schema, SchemaRegistryError> {
        let url = format!("{}/schemas/ids/{}", self.base, id.0);
        match self.send(&url, self.http.get(&url))? {
            (StatusCode::NOT_FOUND, _) => Err(SchemaRegistryError::UnknownId { url, id: id.0 }),
            (status, body) => {
                let answer: SchemaResponse = parse(&url, status, &body, "a schema")?;
                let wrong = |found| SchemaRegistryError::Unexpected { url, expected: AVRO_SCHEMA, found };
                match resolve(answer, &mut |reference| self.fetch_reference(reference)) {
                    Ok(text) => Schema::parse(&text).map_err(|e| wrong(e.to_string())),
                    Err(ResolveError::Invalid(found)) => Err(wrong(found)),
                    Err(ResolveError::Fetch(error)) => Err(error),
                }
            }
        }
    }

    /// Fetches a schema that another one refers to.
    fn fetch_reference(
        &self,
        Reference { subject, version, .. }: &Reference,
    ) -> Result<SchemaResponse, SchemaRegistryError> {
        // A subject may contain any character, so it is added as one path segment.
        let unusable = |message| SchemaRegistryError::Unavailable { url: self.base.clone(), message };
        let mut url = reqwest::Url::parse(&self.base).map_err(|e| unusable(e.to_string()))?;
        url.path_segments_mut()
            .map_err(|()| unusable("expected a URL with a path, found one without".to_owned()))?
            .pop_if_empty()
            .extend(["subjects", subject, "versions", &version.to_string()]);
        let url = url.to_string();
        match self.send(&url, self.http.get(&url))? {
            (StatusCode::NOT_FOUND, _) => Err(SchemaRegistryError::Unexpected {
                url,
                expected: AVRO_SCHEMA,
                found: format!(
                    "a reference to subject {subject} version {version}, which the registry does not have"
                ),
            }),
            (status, body) => parse(&url, status, &body, "a schema"),
        }
    }

    /// Registers a version of `subject`. A registered schema keeps its id.
    pub fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, SchemaRegistryError> {
        let url = format!("{}/subjects/{subject}/versions", self.base);
        match self.send(&url, self.http.post(&url).json(&json!({ "schema": schema })))? {
            (StatusCode::CONFLICT, message) => {
                Err(SchemaRegistryError::Incompatible { subject: subject.to_owned(), message })
            }
            (status, body) => {
                parse::<IdResponse>(&url, status, &body, "an id").map(|answer| SchemaId(answer.id))
            }
        }
    }

    /// Returns the compatibility level that is set for `subject` itself, e.g. FULL_TRANSITIVE; `None` if none is set.
    pub fn compatibility(&self, subject: &str) -> Result<Option<String>, SchemaRegistryError> {
        let url = format!("{}/config/{subject}", self.base);
        match self.send(&url, self.http.get(&url))? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => parse::<LevelResponse>(&url, status, &body, "a compatibility level")
                .map(|answer| Some(answer.level)),
        }
    }

    /// Sets the compatibility level of `subject`.
    pub fn set_compatibility(&self, subject: &str, level: &str) -> Result<(), SchemaRegistryError> {
        let url = format!("{}/config/{subject}", self.base);
        let (status, body) = self.send(&url, self.http.put(&url).json(&json!({ "compatibility": level })))?;
        parse::<Value>(&url, status, &body, "the level").map(drop)
    }

    fn send(
        &self,
        url: &str,
        mut request: RequestBuilder,
    ) -> Result<(StatusCode, String), SchemaRegistryError> {
        if let Some(login) = &self.login {
            request = request.basic_auth(&login.user, Some(login.password.expose()));
        }
        let proxy_hint = &self.proxy_hint;
        let unavailable = |message| SchemaRegistryError::Unavailable {
            url: url.to_owned(),
            message: format!("{message}{proxy_hint}"),
        };
        let answer = request.send().map_err(|e| unavailable(describe(&e)))?;
        let status = answer.status();
        let body = read_body(answer).map_err(|error| unavailable(error.to_string()))?;
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(unavailable(summarize(status, &body)));
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let login = self.login.as_ref().map_or("a caller without a login".to_owned(), |login| {
                format!("user `{}` with the password that is set", login.user)
            });
            return Err(SchemaRegistryError::Refused {
                url: url.to_owned(),
                message: format!("{status}{proxy_hint}"),
                login,
            });
        }
        // A schema registry's 404 has an error code. A 404 without one is from another server or a wrong path, and does
        // not mean that the subject or the id is unknown.
        if status == StatusCode::NOT_FOUND && serde_json::from_str::<ErrorResponse>(&body).is_err() {
            return Err(SchemaRegistryError::Unexpected {
                url: url.to_owned(),
                expected: "the API of a schema registry (does its URL lack a path such as /apis/ccompat/v7?)",
                found: format!("{}{proxy_hint}", summarize(status, &body)),
            });
        }
        Ok((status, body))
    }
}

/// Returns status and start of a response, on one line.
fn summarize(status: StatusCode, body: &str) -> String {
    const MAX_CHARS: usize = 200;
    let line = body.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{status} {}…", line.get(..end).unwrap_or_default()),
        None => format!("{status} {line}"),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(
    url: &str,
    status: StatusCode,
    body: &str,
    expected: &'static str,
) -> Result<T, SchemaRegistryError> {
    let unexpected = |found| SchemaRegistryError::Unexpected { url: url.to_owned(), expected, found };
    if !status.is_success() {
        return Err(unexpected(summarize(status, body)));
    }
    serde_json::from_str(body).map_err(|e| unexpected(format!("{} ({e})", summarize(status, body))))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::Secret;

    /// An unknown id leads to a reject; a refused login must not.
    #[test]
    fn refused_login_is_transient_and_hides_the_password() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            let length = stream.read(&mut head).unwrap();
            let answer = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&head[..length]).to_ascii_lowercase()
        });
        let login = Some(Login { user: "evaluator".into(), password: Secret::new("hunter2") });
        let registry =
            SchemaRegistry::new(&SchemaRegistryEndpoint { login, ..SchemaRegistryEndpoint::at(url) })
                .unwrap();
        let refused = registry.schema(SchemaId(7)).unwrap_err();
        // evaluator:hunter2
        assert!(server.join().unwrap().contains("authorization: basic zxzhbhvhdg9yomh1bnrlcji="));
        assert!(refused.is_transient());
        let message = format!("{refused} {refused:?} {registry:?}");
        assert!(message.contains("403") && message.contains("user `evaluator`"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }

    /// A schema registry's response about an id leads to a reject; a response of another server must not.
    #[test]
    fn only_a_response_of_a_schema_registry_is_about_the_id() {
        for (status, body, is_about_the_id) in [
            ("404 Not Found", r#"{"error_code":40403,"message":"Schema not found"}"#, true),
            ("404 Not Found", "<html>no such page</html>", false),
            ("404 Not Found", r#"{"message":"no such page"}"#, false),
            ("200 OK", r#"{"schema":"no schema"}"#, true),
            ("200 OK", "Ok.", false),
            ("503 Unavailable", "", false),
        ] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            });
            let registry = SchemaRegistry::new(&SchemaRegistryEndpoint::at(url)).unwrap();
            let error = registry.schema(SchemaId(7)).unwrap_err();
            server.join().unwrap();
            assert_eq!(error.is_about_the_id(), is_about_the_id, "{status} {body}: {error}");
        }
    }
}
