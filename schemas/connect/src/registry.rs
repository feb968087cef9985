//! Client of a Confluent-compatible schema registry: look up, fetch, register, set compatibility.
//!
//! Source: Confluent's Schema Registry API reference; tried against Apicurio Registry's ccompat API, version 7.

use std::time::Duration;

use agentgov_schemas::wire::{Schema, SchemaId};
use reqwest::StatusCode;
use reqwest::blocking::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::proxy_of;
use crate::references::{Reference, Referring, Unresolved, resolve};
use crate::{Login, SchemaRegistryEndpoint, TlsError, describe, http_client, read_text};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A blocking client; never call it from async code.
#[derive(Debug)]
pub struct SchemaRegistry {
    http: Client,
    base: String,
    login: Option<Login>,
    /// Ends the message of a request that went through a proxy: the answer may be the proxy's own.
    via: String,
}

/// Why the registry did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum SchemaRegistryError {
    /// It did not answer, or answered that it cannot now: try again later.
    #[error("schema registry {url}: {message}; is it running and reachable?")]
    Unavailable {
        /// What was asked.
        url: String,
        /// What came back.
        message: String,
    },
    /// It answers, and not to us: what it holds is not known.
    #[error("schema registry {url}: {message}; expected it to take {login}")]
    Refused {
        /// What was asked.
        url: String,
        /// What came back.
        message: String,
        /// As whom.
        login: String,
    },
    /// The TLS setting is wrong.
    #[error("schema registry: {0}")]
    Tls(#[from] TlsError),
    /// It has no such schema.
    #[error("schema registry {url}: no schema with id {id}")]
    UnknownId {
        /// What was asked.
        url: String,
        /// The id.
        id: u32,
    },
    /// The schema would break a reader or a writer of an earlier version.
    #[error("schema registry: subject {subject} refuses the schema as incompatible: {message}")]
    Incompatible {
        /// The subject.
        subject: String,
        /// The registry's reason.
        message: String,
    },
    /// Anything else.
    #[error("schema registry {url}: expected {expected}, found {found}")]
    Unexpected {
        /// What was asked.
        url: String,
        /// What the API promises.
        expected: &'static str,
        /// What came back.
        found: String,
    },
}

impl SchemaRegistryError {
    /// True if the same call may go through later: nothing is said of what was asked for. A login that is refused is so
    /// until somebody mends it.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Refused { .. })
    }

    /// Returns true if the registry did answer, and the id itself is wrong. Any other error, e.g. an expired password or a
    /// URL where no registry listens, says nothing of a record.
    pub fn is_about_the_id(&self) -> bool {
        match self {
            Self::UnknownId { .. } => true,
            Self::Unexpected { expected, .. } => *expected == NO_AVRO,
            _ => false,
        }
    }
}

/// What an id must stand for; anything else a registry answers is no word on the id.
const NO_AVRO: &str = "an Avro schema";

#[derive(Deserialize)]
struct IdAnswer {
    id: u32,
}

/// What comes with every error of the API.
#[derive(Deserialize)]
struct ErrorAnswer {
    #[serde(rename = "error_code")]
    _code: i64,
}

#[derive(Deserialize)]
struct LevelAnswer {
    #[serde(alias = "compatibility", rename = "compatibilityLevel")]
    level: String,
}

impl SchemaRegistry {
    /// A client for the registry at `endpoint`. Connects on first use.
    pub fn new(endpoint: &SchemaRegistryEndpoint) -> Result<Self, SchemaRegistryError> {
        let base = endpoint.url.trim_end_matches('/').to_owned();
        let http = http_client(&base, &endpoint.tls)?
            .timeout(TIMEOUT)
            .build()
            .map_err(|e| SchemaRegistryError::Unavailable { url: base.clone(), message: describe(&e) })?;
        let via = proxy_of(&base).map(|proxy| {
            format!(" (through the proxy {proxy} of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY; NO_PROXY names hosts to reach without it)")
        });
        Ok(Self { http, base, login: endpoint.login.clone(), via: via.unwrap_or_default() })
    }

    /// The id of exactly this schema under `subject`, if it is registered.
    pub fn id_of(&self, subject: &str, schema: &str) -> Result<Option<SchemaId>, SchemaRegistryError> {
        let url = format!("{}/subjects/{subject}", self.base);
        match self.send(&url, self.http.post(&url).json(&json!({ "schema": schema })))? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => {
                parse::<IdAnswer>(&url, status, &body, "an id").map(|answer| Some(SchemaId(answer.id)))
            }
        }
    }

    /// The schema that the registry gave `id` to, with all that it refers to in one text.
    pub fn schema(&self, id: SchemaId) -> Result<Schema, SchemaRegistryError> {
        let url = format!("{}/schemas/ids/{}", self.base, id.0);
        match self.send(&url, self.http.get(&url))? {
            (StatusCode::NOT_FOUND, _) => Err(SchemaRegistryError::UnknownId { url, id: id.0 }),
            (status, body) => {
                let answer: Referring = parse(&url, status, &body, "a schema")?;
                let wrong = |found| SchemaRegistryError::Unexpected { url, expected: NO_AVRO, found };
                match resolve(answer, &mut |reference| self.referred(reference)) {
                    Ok(text) => Schema::parse(&text).map_err(|e| wrong(e.to_string())),
                    Err(Unresolved::Wrong(found)) => Err(wrong(found)),
                    Err(Unresolved::Fetch(error)) => Err(error),
                }
            }
        }
    }

    /// A schema that another one refers to.
    fn referred(
        &self,
        Reference { subject, version, .. }: &Reference,
    ) -> Result<Referring, SchemaRegistryError> {
        // A subject may have any name: it is one segment of the path.
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
                expected: NO_AVRO,
                found: format!(
                    "a reference to subject {subject} version {version}, which the registry does not have"
                ),
            }),
            (status, body) => parse(&url, status, &body, "a schema"),
        }
    }

    /// Registers a version of `subject`; one that is there already keeps its id.
    pub fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, SchemaRegistryError> {
        let url = format!("{}/subjects/{subject}/versions", self.base);
        match self.send(&url, self.http.post(&url).json(&json!({ "schema": schema })))? {
            (StatusCode::CONFLICT, message) => {
                Err(SchemaRegistryError::Incompatible { subject: subject.to_owned(), message })
            }
            (status, body) => {
                parse::<IdAnswer>(&url, status, &body, "an id").map(|answer| SchemaId(answer.id))
            }
        }
    }

    /// Compatibility level set for `subject` itself, e.g. FULL_TRANSITIVE; `None`: none is set.
    pub fn compatibility(&self, subject: &str) -> Result<Option<String>, SchemaRegistryError> {
        let url = format!("{}/config/{subject}", self.base);
        match self.send(&url, self.http.get(&url))? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => parse::<LevelAnswer>(&url, status, &body, "a compatibility level")
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
        let via = &self.via;
        let unavailable = |message| SchemaRegistryError::Unavailable {
            url: url.to_owned(),
            message: format!("{message}{via}"),
        };
        let answer = request.send().map_err(|e| unavailable(describe(&e)))?;
        let status = answer.status();
        let body = read_text(answer).map_err(unavailable)?;
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(unavailable(shown(status, &body)));
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let login = self.login.as_ref().map_or("a caller without a login".to_owned(), |login| {
                format!("user `{}` with the password that is set", login.user)
            });
            return Err(SchemaRegistryError::Refused {
                url: url.to_owned(),
                message: format!("{status}{via}"),
                login,
            });
        }
        // A registry gives its 404 a code. Anything else that listens there, or a URL without the API's path, does not, and
        // has no word on subjects and ids.
        if status == StatusCode::NOT_FOUND && serde_json::from_str::<ErrorAnswer>(&body).is_err() {
            return Err(SchemaRegistryError::Unexpected {
                url: url.to_owned(),
                expected: "the API of a schema registry (does its URL lack a path such as /apis/ccompat/v7?)",
                found: format!("{}{via}", shown(status, &body)),
            });
        }
        Ok((status, body))
    }
}

/// The start of an answer, on one line.
fn shown(status: StatusCode, body: &str) -> String {
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
        return Err(unexpected(shown(status, body)));
    }
    serde_json::from_str(body).map_err(|e| unexpected(format!("{} ({e})", shown(status, body))))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::Secret;

    /// An id that is not known leads to a reject; a login that is refused must not.
    #[test]
    fn a_refused_login_says_nothing_of_what_was_asked_for() {
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
        let told = format!("{refused} {refused:?} {registry:?}");
        assert!(told.contains("403") && told.contains("user `evaluator`"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }

    /// A registry's word on an id leads to a reject; that of something else that answers at its address must not.
    #[test]
    fn only_a_registry_says_that_an_id_is_wrong() {
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
