//! Configuration of Kafka clients.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};
use serde::Serialize;

use crate::{Secret, Tls};

/// Interval of metadata refreshes. A broker that resumes after a long pause reports for a moment that partitions have no leader,
/// and librdkafka relies on that, for some requests, until the next refresh: by default for 5 minutes.
const METADATA_REFRESH_INTERVAL: Duration = Duration::from_secs(3);
/// Pause of fetching while the local queue is full. With librdkafka's default of a second, a fast consumer would mostly wait.
const FETCH_BACKOFF: Duration = Duration::from_millis(20);

/// Endpoint of the brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KafkaEndpoint {
    /// Bootstrap servers as host:port, separated by commas.
    pub bootstrap: String,
    /// TLS settings; `None` without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// SASL login; `None` without login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<SaslLogin>,
}

/// SASL login of a principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SaslLogin {
    /// SASL mechanism.
    pub mechanism: Mechanism,
    /// Name of the principal.
    pub user: String,
    /// Password of the principal.
    pub password: Secret,
}

/// SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Mechanism {
    /// PLAIN: the client sends the password.
    #[serde(rename = "PLAIN")]
    Plain,
    /// SCRAM with SHA-256: both sides prove that they know the password.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// SCRAM with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    /// Every mechanism.
    pub const ALL: [Self; 3] = [Self::Plain, Self::ScramSha256, Self::ScramSha512];

    /// Returns Kafka's name of the mechanism.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl KafkaEndpoint {
    /// Creates the endpoint of brokers without TLS and login.
    pub fn at(bootstrap: impl Into<String>) -> Self {
        Self { bootstrap: bootstrap.into(), tls: None, login: None }
    }

    /// Returns Kafka's security.protocol.
    pub const fn protocol(&self) -> &'static str {
        match (&self.tls, &self.login) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        }
    }

    /// Returns a client configuration for these brokers, to which callers add their own settings.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config.set("client.id", "agentgov");
        config.set("security.protocol", self.protocol());
        config.set("topic.metadata.refresh.interval.ms", METADATA_REFRESH_INTERVAL.as_millis().to_string());
        if let Some(tls) = &self.tls {
            // librdkafka's defaults, set explicitly: certificate and host name of a broker are verified.
            config.set("enable.ssl.certificate.verification", "true");
            config.set("ssl.endpoint.identification.algorithm", "https");
            if let Some(file) = &tls.ca_file {
                config.set("ssl.ca.location", file.to_string_lossy());
            }
            if let Some(client) = &tls.client {
                config.set("ssl.certificate.location", client.certificate_file.to_string_lossy());
                config.set("ssl.key.location", client.key_file.to_string_lossy());
                if !client.key_password.is_empty() {
                    config.set("ssl.key.password", client.key_password.expose());
                }
            }
        }
        if let Some(login) = &self.login {
            config.set("sasl.mechanisms", login.mechanism.as_str());
            config.set("sasl.username", &login.user);
            config.set("sasl.password", login.password.expose());
        }
        config
    }

    /// Returns a configuration for a consumer without automatic commits. librdkafka requires a `group` even if the consumer never
    /// joins one.
    pub fn consumer_config(&self, group: &str) -> ClientConfig {
        let mut config = self.client_config();
        config.set("group.id", group);
        config.set("enable.auto.commit", "false");
        config.set("fetch.queue.backoff.ms", FETCH_BACKOFF.as_millis().to_string());
        config
    }

    /// Returns a configuration for a consumer that never resets its position: a position that no longer exists is an error.
    pub fn positioned_config(&self, group: &str) -> ClientConfig {
        let mut config = self.consumer_config(group);
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error");
        config.set("allow.auto.create.topics", "false");
        // The client reconnects within seconds once a broker is available again.
        config.set("reconnect.backoff.max.ms", "2000");
        config
    }

    /// Returns a configuration for a consumer of committed records that reports the end of each partition.
    pub fn reader_config(&self, group: &str) -> ClientConfig {
        let mut config = self.positioned_config(group);
        config.set("isolation.level", "read_committed");
        config.set("enable.partition.eof", "true");
        config
    }
}

/// Time to wait for events that librdkafka has already queued.
const EVENT_POLL: Duration = Duration::from_millis(20);

/// Error for a login or certificate that one side refused.
#[derive(Debug, thiserror::Error)]
#[error("kafka {bootstrap}: {message}; expected it to accept {who} over {protocol}")]
pub struct LoginError {
    /// Bootstrap servers.
    pub bootstrap: String,
    /// Reason of the refusal.
    pub message: String,
    /// Description of the client's login.
    pub who: String,
    /// Kafka's security.protocol.
    pub protocol: &'static str,
}

impl KafkaEndpoint {
    /// Checks that the brokers accept this login and that their certificate is valid. Without this check a refused client retries
    /// forever and reports only timeouts. Brokers that are unavailable for `within` are not an error.
    ///
    /// # Errors
    /// If one side refuses the other.
    pub fn try_login(&self, within: Duration) -> Result<(), LoginError> {
        if self.tls.is_none() && self.login.is_none() {
            return Ok(());
        }
        let refused = |message: String| LoginError {
            bootstrap: self.bootstrap.clone(),
            message,
            who: match &self.login {
                Some(login) => format!("user `{}` with the password that is set", login.user),
                None => "a client without a login".to_owned(),
            },
            protocol: self.protocol(),
        };
        let client: BaseProducer<RefusalContext> = self
            .client_config()
            .create_with_context(RefusalContext::default())
            .map_err(|error| refused(error.to_string()))?;
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            let answer = client.client().fetch_metadata(None, Duration::from_millis(500));
            // The events of failed connections come before the timeout of the request.
            client.poll(EVENT_POLL);
            if let Some(message) = client.context().take() {
                return Err(refused(message));
            }
            if answer.is_ok() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Client context that keeps the first refusal.
#[derive(Default)]
struct RefusalContext(Mutex<Option<String>>);

impl RefusalContext {
    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for RefusalContext {
    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) = error.rdkafka_error_code() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason.to_owned());
        }
    }
}

impl ProducerContext for RefusalContext {
    type DeliveryOpaque = ();
    fn delivery(&self, _result: &DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::certificate;

    #[test]
    fn broker_with_an_untrusted_certificate_is_reported_at_once() {
        use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};
        let folder = tempfile::tempdir().unwrap();
        let (theirs, key) = certificate(folder.path());
        let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls()).unwrap();
        acceptor.set_certificate_chain_file(&theirs).unwrap();
        acceptor.set_private_key_file(&key, SslFiletype::PEM).unwrap();
        let acceptor = acceptor.build();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let bootstrap = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                acceptor.accept(stream.unwrap()).ok();
            }
        });
        // A second certificate authority, which did not sign the broker's certificate.
        let (ours, _) = certificate(folder.path());
        let tls = Tls { ca_file: Some(ours), client: None };
        let kafka = KafkaEndpoint { bootstrap, tls: Some(tls), login: None };
        let refused = kafka.try_login(Duration::from_secs(30)).unwrap_err().to_string();
        assert!(refused.contains("certificate verify failed") && refused.contains("over ssl"), "{refused}");
    }
}
