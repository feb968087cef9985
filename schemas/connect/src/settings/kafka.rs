//! Endpoint of Kafka from settings.

use rdkafka::producer::{BaseProducer, DefaultProducerContext};

use super::{Findings, Settings};
use crate::{KafkaEndpoint, Mechanism, SaslLogin, Tls};

const TLS_SETTINGS: [&str; 4] =
    ["kafka_ca_file", "kafka_certificate_file", "kafka_key_file", "kafka_key_password"];
const LOGIN_SETTINGS: [&str; 3] = ["kafka_user", "kafka_password", "kafka_mechanism"];

impl Settings {
    pub(super) fn kafka_of(&self, findings: &mut Findings) -> Option<KafkaEndpoint> {
        let before = findings.wrong.len();
        let bootstrap = self.address(
            "kafka",
            &["kafka_security"],
            &[&TLS_SETTINGS[..], &LOGIN_SETTINGS[..]].concat(),
            findings,
        );
        let (with_tls, with_login) = self.protocol(findings)?;
        let tls = if with_tls { Some(self.tls("kafka", findings)) } else { None };
        let login = if with_login { self.sasl(findings) } else { None };
        if !with_tls {
            self.reject_unused(&TLS_SETTINGS, "ssl or sasl_ssl", findings);
        }
        if !with_login {
            self.reject_unused(&LOGIN_SETTINGS, "sasl_ssl", findings);
        }
        let bootstrap = bootstrap?.to_owned();
        self.check_brokers(&bootstrap, protocol_name(with_tls, with_login), findings);
        if with_login && !with_tls {
            let all_here = bootstrap.split(',').all(|broker| crate::http::is_loopback(host(broker)));
            self.clear_password("kafka", "kafka_security", "sasl_ssl", all_here, findings);
        }
        let endpoint = KafkaEndpoint { bootstrap, tls, login };
        // librdkafka reads certificates and keys when a client is created, before it connects.
        if with_tls
            && findings.wrong.len() == before
            && let Err(error) = endpoint.client_config().create::<BaseProducer<DefaultProducerContext>>()
        {
            findings.add(format!("{}: {error}", self.at("kafka_security")));
        }
        Some(endpoint)
    }

    /// Checks that each bootstrap address is `HOST[:PORT]`, optionally after the configured security protocol: librdkafka ignores any
    /// other address without an error. Messages do not contain an invalid address, since it may contain a password.
    fn check_brokers(&self, bootstrap: &str, protocol: &str, findings: &mut Findings) {
        let at = self.at("kafka");
        for (index, broker) in bootstrap.split(',').map(str::trim).enumerate() {
            let problem = match broker.split_once("://") {
                Some((scheme, _)) if !scheme.eq_ignore_ascii_case(protocol) => {
                    Some(format!("a URL of `{}`", scheme.escape_default()))
                }
                Some((_, address)) => address_problem(address),
                None => address_problem(broker),
            };
            if let Some(problem) = problem {
                findings.add(format!(
                    "{at}: expected brokers as HOST:PORT, comma separated, e.g. kafka-1:9092,kafka-2:9092; found {problem} as \
                     number {} of them",
                    index + 1
                ));
            }
        }
    }

    /// Returns whether TLS and a login are configured.
    fn protocol(&self, findings: &mut Findings) -> Option<(bool, bool)> {
        let Some(setting) = self.get("kafka_security") else { return Some((false, false)) };
        match setting.text().to_ascii_lowercase().as_str() {
            "plaintext" => Some((false, false)),
            "ssl" => Some((true, false)),
            "sasl_plaintext" => Some((false, true)),
            "sasl_ssl" => Some((true, true)),
            found => {
                findings.add(format!(
                    "{}: expected plaintext, ssl, sasl_plaintext or sasl_ssl, found `{found}`",
                    setting.at
                ));
                None
            }
        }
    }

    fn sasl(&self, findings: &mut Findings) -> Option<SaslLogin> {
        let because = format!("since {} requires a login", self.at("kafka_security"));
        let mechanism = self.required("kafka_mechanism", &because, findings).and_then(|found| {
            let known = Mechanism::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(found));
            if known.is_none() {
                let at = self.at("kafka_mechanism");
                findings
                    .add(format!("{at}: expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, found `{found}`"));
            }
            known
        });
        let user = self.required("kafka_user", &because, findings).map(str::to_owned);
        self.required("kafka_password", &because, findings);
        let password = self.get("kafka_password").map(|setting| setting.value.clone());
        Some(SaslLogin { mechanism: mechanism?, user: user?, password: password? })
    }

    /// Reports the first of `names` that is set, since it has no effect.
    fn reject_unused(&self, names: &[&str], security: &str, findings: &mut Findings) {
        if let Some((_, setting)) = self.first(names) {
            let found = self.get("kafka_security").map_or("nothing", |setting| setting.text());
            findings.add(format!(
                "{}: has no effect; expected {} to be {security}, found {found}",
                setting.at,
                self.at("kafka_security")
            ));
        }
    }

    /// Returns the TLS settings of `part`. Reports mistakes in its files.
    pub(super) fn tls(&self, part: &str, findings: &mut Findings) -> Tls {
        let name = |what: &str| format!("{part}_{what}");
        let file = |what: &str| self.get(&name(what)).map(|setting| (setting.path(), setting.at.to_string()));
        let ca = file("ca_file");
        if let Some((path, at)) = &ca
            && let Err(error) = crate::tls::authorities(path)
        {
            findings.add(format!("{at}: {error}"));
        }
        let (certificate, key) = (file("certificate_file"), file("key_file"));
        for (path, at) in certificate.iter().chain(&key) {
            if let Err(error) = crate::tls::read(path) {
                findings.add(format!("{at}: {error}"));
            }
        }
        let key_password = self.get(&name("key_password"));
        let client = match (certificate, key) {
            (Some((certificate_file, _)), Some((key_file, _))) => Some(crate::ClientCertificate {
                certificate_file,
                key_file,
                // A key without a password is not encrypted.
                key_password: key_password.map(|setting| setting.value.clone()).unwrap_or_default(),
            }),
            (Some((_, at)), None) => {
                let other = super::names::variable(&name("key_file"));
                findings.add(format!("{at}: a certificate without its key; expected {other} as well"));
                None
            }
            (None, Some((_, at))) => {
                let other = super::names::variable(&name("certificate_file"));
                findings.add(format!("{at}: a key without its certificate; expected {other} as well"));
                None
            }
            (None, None) => {
                if let Some(setting) = key_password {
                    let other = super::names::variable(&name("key_file"));
                    findings
                        .add(format!("{}: a password without a key; expected {other} as well", setting.at));
                }
                None
            }
        };
        Tls { ca_file: ca.map(|(path, _)| path), client }
    }

    /// Returns a required setting. Reports it if it is not set.
    pub(super) fn required(&self, name: &str, because: &str, findings: &mut Findings) -> Option<&str> {
        let found = self.get(name);
        if found.is_none() {
            findings
                .add(format!("{}: expected a value, found none, {because}", super::names::variable(name)));
        }
        found.map(|setting| setting.text())
    }
}

/// Describes the mistake in an address that should be `HOST[:PORT]`.
fn address_problem(address: &str) -> Option<String> {
    if address.is_empty() {
        return Some("nothing".to_owned());
    }
    // `[::1]:9092`: the colons in brackets are the host's.
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None => return Some("something between `]` and the port".to_owned()),
        },
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    let is_host = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if host.is_empty() || !host.chars().all(is_host) {
        return Some("a host with characters that no host name has".to_owned());
    }
    let port = port?;
    match port.parse::<u16>() {
        Ok(1..) => None,
        _ if (1..=8).contains(&port.len()) && port.chars().all(|c| c.is_ascii_digit() || c == '-') => {
            Some(format!("port {port}, which is not in 1 to 65535"))
        }
        _ => Some("a port that is no number".to_owned()),
    }
}

/// The name that librdkafka has for the protocol, `security.protocol`.
const fn protocol_name(with_tls: bool, with_login: bool) -> &'static str {
    match (with_tls, with_login) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    }
}

/// Returns the host of a bootstrap address.
fn host(broker: &str) -> &str {
    let broker = broker.trim();
    let broker = broker.split_once("://").map_or(broker, |(_, rest)| rest);
    broker.rsplit_once(':').map_or(broker, |(host, _)| host)
}
