//! How clients reach Kafka.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};
use serde::Serialize;

use crate::{Secret, Tls};

/// How often a client asks who the brokers are, and who leads its partitions: a broker that wakes after a long sleep says
/// for a moment that nobody does, and of some requests librdkafka believes it until it asks next, by default for 5 minutes.
const METADATA_REFRESH: Duration = Duration::from_secs(3);
/// How long fetching rests when enough is queued: whoever takes records fast would spend most of librdkafka's default second waiting.
const FETCH_REST: Duration = Duration::from_millis(20);

/// The brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KafkaEndpoint {
    /// host:port, comma separated.
    pub bootstrap: String,
    /// TLS; `None`: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// SASL; `None`: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<SaslLogin>,
}

/// A principal and how it proves that it is that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SaslLogin {
    /// How the password is proven.
    pub mechanism: Mechanism,
    /// The principal's name.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Mechanism {
    /// The password is sent.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Both sides prove that they know it.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// The same with the longer digest.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    /// All, as they are named in a configuration.
    pub const ALL: [Self; 3] = [Self::Plain, Self::ScramSha256, Self::ScramSha512];

    /// Kafka's name.
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
    /// Brokers that want neither TLS nor a login.
    pub fn at(bootstrap: impl Into<String>) -> Self {
        Self { bootstrap: bootstrap.into(), tls: None, login: None }
    }

    /// Kafka's security.protocol.
    pub const fn protocol(&self) -> &'static str {
        match (&self.tls, &self.login) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        }
    }

    /// A client configuration that reaches these brokers; the caller adds what its job needs.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config.set("client.id", "agentgov");
        config.set("security.protocol", self.protocol());
        config.set("topic.metadata.refresh.interval.ms", METADATA_REFRESH.as_millis().to_string());
        if let Some(tls) = &self.tls {
            // The defaults, said aloud: a broker is who its certificate says, or it is nobody.
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

    /// The same for a consumer, which librdkafka wants to have a `group` even if it never joins one. It commits only what it is told to.
    pub fn consumer_config(&self, group: &str) -> ClientConfig {
        let mut config = self.client_config();
        config.set("group.id", group);
        config.set("enable.auto.commit", "false");
        config.set("fetch.queue.backoff.ms", FETCH_REST.as_millis().to_string());
        config
    }

    /// The same for a consumer that never moves by itself: a position that is gone is an error.
    pub fn positioned_config(&self, group: &str) -> ClientConfig {
        let mut config = self.consumer_config(group);
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error");
        config.set("allow.auto.create.topics", "false");
        // Tried again at least this often: what is back is used within seconds.
        config.set("reconnect.backoff.max.ms", "2000");
        config
    }

    /// The same for a consumer that reads committed records to the end of their partitions, and reports when it is there.
    pub fn reader_config(&self, group: &str) -> ClientConfig {
        let mut config = self.positioned_config(group);
        config.set("isolation.level", "read_committed");
        config.set("enable.partition.eof", "true");
        config
    }
}

const EVENTS: Duration = Duration::from_millis(20);

/// Kafka lets us in no further.
#[derive(Debug, thiserror::Error)]
#[error("kafka {bootstrap}: {message}; expected it to take {who} over {protocol}")]
pub struct LoginError {
    /// Where.
    pub bootstrap: String,
    /// What was refused, by either side.
    pub message: String,
    /// As whom.
    pub who: String,
    /// Kafka's security.protocol.
    pub protocol: &'static str,
}

impl KafkaEndpoint {
    /// Finds out whether the brokers take this login, and we their certificate: a client that they refuse tries for ever,
    /// and only says that nobody answers. Brokers that are away for `within` are no error.
    ///
    /// # Errors
    /// If either side refuses the other.
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
        let client: BaseProducer<Refusals> = self
            .client_config()
            .create_with_context(Refusals::default())
            .map_err(|error| refused(error.to_string()))?;
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            let answer = client.client().fetch_metadata(None, Duration::from_millis(500));
            // Long enough for all that has come: what is logged comes first.
            client.poll(EVENTS);
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

/// Takes note of what was refused.
#[derive(Default)]
struct Refusals(Mutex<Option<String>>);

impl Refusals {
    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Refusals {
    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) = error.rdkafka_error_code() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason.to_owned());
        }
    }
}

impl ProducerContext for Refusals {
    type DeliveryOpaque = ();
    fn delivery(&self, _result: &DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::certificate;

    #[test]
    fn a_broker_with_a_certificate_of_somebody_else_is_told_at_once() {
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
        // Another, in the same place.
        let (ours, _) = certificate(folder.path());
        let tls = Tls { ca_file: Some(ours), client: None };
        let kafka = KafkaEndpoint { bootstrap, tls: Some(tls), login: None };
        let refused = kafka.try_login(Duration::from_secs(30)).unwrap_err().to_string();
        assert!(refused.contains("certificate verify failed") && refused.contains("over ssl"), "{refused}");
    }
}
