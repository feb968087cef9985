use std::path::{Path, PathBuf};

use super::{Settings, SettingsError};
use crate::{Endpoints, Mechanism};

const SECRET: &str = "hunter2";

/// Returns the endpoints from settings for a local stack, and `more`.
fn with(more: &[(&str, &str)]) -> Result<Endpoints, SettingsError> {
    let plain = [
        ("KAFKA", "127.0.0.1:9092"),
        ("SCHEMA_REGISTRY", "http://localhost:8081/apis"),
        ("CLICKHOUSE", "http://[::1]:8123"),
    ];
    let find = |name: &str| {
        let name = name.strip_prefix("AGENTGOV_")?;
        let all = more.iter().chain(&plain);
        all.filter(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()).next()
    };
    Settings::read(&find, None)?.endpoints()
}

fn from_file(text: &str) -> Result<Endpoints, SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stack.yaml");
    std::fs::write(&file, text).unwrap();
    std::fs::write(folder.path().join("secret"), format!("{SECRET}\n")).unwrap();
    let result = Settings::read(&|_| None, Some(&file)).and_then(|settings| settings.endpoints());
    let folder = folder.path().display().to_string();
    result.map_err(|error| match error {
        SettingsError::Wrong(wrong) => {
            SettingsError::Wrong(wrong.iter().map(|line| line.replace(&folder, "")).collect())
        }
        unset => unset,
    })
}

fn wrong(result: Result<Endpoints, SettingsError>) -> Vec<String> {
    match result {
        Err(SettingsError::Wrong(wrong)) => wrong,
        other => panic!("{other:?}"),
    }
}

/// Creates a certificate and its key as files.
pub fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    use openssl::{asn1::Asn1Time, hash::MessageDigest, pkey::PKey, rsa::Rsa, x509::X509};
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut certificate = X509::builder().unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    let files = (folder.join("certificate.pem"), folder.join("key.pem"));
    std::fs::write(&files.0, certificate.build().to_pem().unwrap()).unwrap();
    let cipher = openssl::symm::Cipher::aes_256_cbc();
    std::fs::write(&files.1, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let locked = key.private_key_to_pem_pkcs8_passphrase(cipher, SECRET.as_bytes()).unwrap();
    std::fs::write(folder.join("locked.pem"), locked).unwrap();
    files
}

#[test]
fn addresses_are_the_only_required_settings() {
    let endpoints = with(&[]).unwrap();
    assert_eq!(endpoints.kafka.protocol(), "plaintext");
    assert_eq!(endpoints.clickhouse.database, "agentgov");
    assert_eq!(endpoints.schema_registry.url, "http://localhost:8081/apis");
}

#[test]
fn brokers_must_be_hosts_with_ports() {
    for good in
        ["b1", "b1:9092, b2:9092", "[::1]:9092", "[fe80::1%eth0]", "plaintext://b1:9092", "10.0.0.1:1"]
    {
        with(&[("KAFKA", good)]).unwrap_or_else(|error| panic!("{good}: {error:?}"));
    }
    for (bad, found) in [
        ("kafka://b1:9092", "a URL of `kafka`"),
        ("SSL://b1:9092", "a URL of `SSL`"),
        ("b1:99999", "port 99999"),
        ("b1:0", "port 0"),
        ("b1:-1", "port -1"),
        ("b1:", "a port that is no number"),
        ("b1:http", "a port that is no number"),
        ("b1,,b2", "nothing as number 2"),
        ("b1:9092,", "nothing as number 2"),
        (":9092", "a host"),
        ("me:hunter2@b1:9092", "a port that is no number"),
        ("b1/path:9092", "a host"),
        ("[::1]9092", "between `]`"),
        ("b1 b2", "a host"),
    ] {
        let wrong = wrong(with(&[("KAFKA", bad)]));
        assert!(wrong.len() == 1 && wrong[0].contains(found), "{bad}: {wrong:?}");
        assert!(wrong[0].contains("AGENTGOV_KAFKA: expected brokers as HOST:PORT"), "{bad}: {wrong:?}");
        assert!(!wrong[0].contains(SECRET), "{bad}: {wrong:?}");
    }
}

#[test]
fn unset_address_is_named_by_its_variable() {
    let none = Settings::read(&|_| None, None).unwrap().endpoints();
    let names =
        ["AGENTGOV_KAFKA", "AGENTGOV_SCHEMA_REGISTRY", "AGENTGOV_CLICKHOUSE"].map(str::to_owned).to_vec();
    assert_eq!(none, Err(SettingsError::Unset(names)));
    let producer =
        Settings::read(&|name| (name == "AGENTGOV_KAFKA").then(|| "k:1".to_owned()), None).unwrap();
    assert_eq!(producer.kafka().unwrap().bootstrap, "k:1");
    assert_eq!(
        producer.schema_registry(),
        Err(SettingsError::Unset(vec!["AGENTGOV_SCHEMA_REGISTRY".into()]))
    );
}

#[test]
fn endpoints_with_tls_and_logins_never_show_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(folder.path());
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let locked = folder.path().join("locked.pem");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\r\n")).unwrap();
    let secret = secret.to_str().unwrap();
    let endpoints = with(&[
        ("KAFKA", "b1:9093,b2:9093"),
        ("KAFKA_SECURITY", "SASL_SSL"),
        ("KAFKA_MECHANISM", "scram-sha-512"),
        ("KAFKA_USER", "evaluator"),
        ("KAFKA_PASSWORD_FILE", secret),
        ("KAFKA_CA_FILE", certificate),
        ("KAFKA_CERTIFICATE_FILE", certificate),
        ("KAFKA_KEY_FILE", locked.to_str().unwrap()),
        ("KAFKA_KEY_PASSWORD_FILE", secret),
        ("SCHEMA_REGISTRY", "https://registry/apis/"),
        ("SCHEMA_REGISTRY_USER", "evaluator"),
        ("SCHEMA_REGISTRY_PASSWORD", SECRET),
        ("SCHEMA_REGISTRY_CA_FILE", certificate),
        ("CLICKHOUSE", "https://clickhouse:8443"),
        ("CLICKHOUSE_USER", "sink"),
        ("CLICKHOUSE_PASSWORD", SECRET),
        ("CLICKHOUSE_CERTIFICATE_FILE", certificate),
        ("CLICKHOUSE_KEY_FILE", key),
    ])
    .unwrap();
    let login = endpoints.kafka.login.clone().unwrap();
    assert_eq!((login.mechanism, login.password.expose()), (Mechanism::ScramSha512, SECRET));
    let config = endpoints.kafka.client_config();
    for (name, value) in [
        ("security.protocol", "sasl_ssl"),
        ("sasl.mechanisms", "SCRAM-SHA-512"),
        ("sasl.password", SECRET),
        ("ssl.key.password", SECRET),
        ("ssl.endpoint.identification.algorithm", "https"),
        ("enable.ssl.certificate.verification", "true"),
    ] {
        assert_eq!(config.get(name), Some(value), "{name}");
    }
    assert_eq!(endpoints.schema_registry.url, "https://registry/apis");
    let shown = format!("{endpoints:?} {config:?} {}", serde_json::to_string(&endpoints).unwrap());
    assert!(!shown.contains(SECRET) && shown.contains("(hidden)"), "{shown}");
    // The file that `up` writes results in the same endpoints.
    let note = serde_json::to_string(&endpoints.to_settings()).unwrap();
    assert_eq!(from_file(&note).unwrap(), endpoints);
}

#[test]
fn incomplete_configuration_names_the_missing_settings() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, _) = certificate(folder.path());
    let certificate = certificate.to_str().unwrap();
    let not_pem = folder.path().join("secret");
    std::fs::write(&not_pem, SECRET).unwrap();
    let not_pem = not_pem.to_str().unwrap();
    let locked = folder.path().join("locked.pem");
    let locked = locked.to_str().unwrap();
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (
            &[("KAFKA_SECURITY", "tls")],
            &["AGENTGOV_KAFKA_SECURITY: expected plaintext, ssl, sasl_plaintext or sasl_ssl, found `tls`"],
        ),
        (
            &[("KAFKA_USER", "u")],
            &[
                "AGENTGOV_KAFKA_USER: has no effect; expected AGENTGOV_KAFKA_SECURITY to be sasl_ssl, found nothing",
            ],
        ),
        (
            &[("KAFKA_SECURITY", "ssl"), ("KAFKA_PASSWORD", SECRET)],
            &[
                "AGENTGOV_KAFKA_PASSWORD: has no effect; expected AGENTGOV_KAFKA_SECURITY to be sasl_ssl, found ssl",
            ],
        ),
        (
            &[("KAFKA_SECURITY", "sasl_ssl"), ("KAFKA_MECHANISM", "SCRAM-SHA-256")],
            &[
                "AGENTGOV_KAFKA_USER: expected a value, found none, since AGENTGOV_KAFKA_SECURITY requires a login",
                "AGENTGOV_KAFKA_PASSWORD: expected a value, found none, since AGENTGOV_KAFKA_SECURITY requires a login",
            ],
        ),
        (
            &[
                ("KAFKA_SECURITY", "sasl_ssl"),
                ("KAFKA_MECHANISM", "GSSAPI"),
                ("KAFKA_USER", "u"),
                ("KAFKA_PASSWORD", SECRET),
            ],
            &["AGENTGOV_KAFKA_MECHANISM: expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, found `GSSAPI`"],
        ),
        (
            &[("KAFKA_SECURITY", "ssl"), ("KAFKA_CA_FILE", "/nowhere/ca.pem")],
            &["AGENTGOV_KAFKA_CA_FILE: /nowhere/ca.pem: No such file or directory"],
        ),
        (
            &[("KAFKA_SECURITY", "ssl"), ("KAFKA_CA_FILE", not_pem)],
            &["AGENTGOV_KAFKA_CA_FILE: /secret: expected certificates as PEM"],
        ),
        (
            &[("KAFKA_SECURITY", "ssl"), ("KAFKA_CERTIFICATE_FILE", certificate)],
            &[
                "AGENTGOV_KAFKA_CERTIFICATE_FILE: a certificate without its key; expected AGENTGOV_KAFKA_KEY_FILE as well",
            ],
        ),
        (
            &[
                ("KAFKA_SECURITY", "ssl"),
                ("KAFKA_CERTIFICATE_FILE", certificate),
                ("KAFKA_KEY_FILE", locked),
                ("KAFKA_KEY_PASSWORD", "wrong"),
            ],
            &["AGENTGOV_KAFKA_SECURITY: Client creation error: ssl.key.location failed"],
        ),
        (
            &[("SCHEMA_REGISTRY_USER", "u")],
            &[
                "AGENTGOV_SCHEMA_REGISTRY_USER: a user without a password; expected AGENTGOV_SCHEMA_REGISTRY_PASSWORD or AGENTGOV_SCHEMA_REGISTRY_PASSWORD_FILE as well",
            ],
        ),
        (
            &[("SCHEMA_REGISTRY_PASSWORD", SECRET)],
            &[
                "AGENTGOV_SCHEMA_REGISTRY_PASSWORD: a password without a user; expected AGENTGOV_SCHEMA_REGISTRY_USER as well",
            ],
        ),
        (
            &[("CLICKHOUSE_USER", "sink")],
            &[
                "AGENTGOV_CLICKHOUSE_USER: a user without a password; expected AGENTGOV_CLICKHOUSE_PASSWORD or AGENTGOV_CLICKHOUSE_PASSWORD_FILE as well",
            ],
        ),
        (
            &[("SCHEMA_REGISTRY_CA_FILE", certificate)],
            &[
                "AGENTGOV_SCHEMA_REGISTRY_CA_FILE: has no effect; expected AGENTGOV_SCHEMA_REGISTRY to begin with https://",
            ],
        ),
        (
            &[("SCHEMA_REGISTRY", "https://r"), ("SCHEMA_REGISTRY_CA_FILE", "/nowhere/ca.pem")],
            &["AGENTGOV_SCHEMA_REGISTRY_CA_FILE: /nowhere/ca.pem: No such file or directory"],
        ),
        (
            &[
                ("CLICKHOUSE", "https://c"),
                ("CLICKHOUSE_CERTIFICATE_FILE", certificate),
                ("CLICKHOUSE_KEY_FILE", locked),
            ],
            &[
                "AGENTGOV_CLICKHOUSE_KEY_FILE: /locked.pem: expected the key of /certificate.pem in PKCS #8, not encrypted, as PEM, found none",
            ],
        ),
        (
            &[("CLICKHOUSE", "http://sink:hunter2@c:8123")],
            &[
                "AGENTGOV_CLICKHOUSE: expected a URL without user and password, since messages show it; set AGENTGOV_CLICKHOUSE_USER and AGENTGOV_CLICKHOUSE_PASSWORD_FILE",
            ],
        ),
        (
            &[("SCHEMA_REGISTRY", "hunter2 is here")],
            &["AGENTGOV_SCHEMA_REGISTRY: expected a URL such as https://host:8443, found none"],
        ),
        (
            &[("SCHEMA_REGISTRY_PASSWORD_FILE", "/nowhere/p")],
            &["AGENTGOV_SCHEMA_REGISTRY_PASSWORD_FILE: cannot read /nowhere/p: No such file or directory"],
        ),
        (
            &[("SCHEMA_REGISTRY_PASSWORD", SECRET), ("SCHEMA_REGISTRY_PASSWORD_FILE", not_pem)],
            &[
                "AGENTGOV_SCHEMA_REGISTRY_PASSWORD_FILE: is set as well as AGENTGOV_SCHEMA_REGISTRY_PASSWORD; expected one of the two",
            ],
        ),
        (&[("KAFKA", ""), ("KAFKA_USER", "u")], &["AGENTGOV_KAFKA_USER: is set, but AGENTGOV_KAFKA is not"]),
    ];
    for (more, expected) in cases {
        let found = wrong(with(more));
        let found: Vec<String> =
            found.iter().map(|line| line.replace(folder.path().to_str().unwrap(), "")).collect();
        // A library's message may follow the expected text.
        let all = found.len() >= expected.len() && found.iter().zip(*expected).all(|(f, e)| f.starts_with(e));
        assert!(all, "{more:?}\nexpected {expected:#?}\nfound {found:#?}");
        assert!(!found.concat().contains(SECRET), "{found:?}");
    }
}

#[test]
fn password_without_tls_is_rejected_unless_it_is_allowed() {
    let sasl = |bootstrap| {
        [
            ("KAFKA", bootstrap),
            ("KAFKA_SECURITY", "sasl_plaintext"),
            ("KAFKA_MECHANISM", "PLAIN"),
            ("KAFKA_USER", "u"),
            ("KAFKA_PASSWORD", SECRET),
        ]
    };
    assert_eq!(with(&sasl("localhost:1,127.0.0.9:2,[::1]:3")).unwrap().kafka.protocol(), "sasl_plaintext");
    let registry = [
        ("SCHEMA_REGISTRY", "http://registry:8081"),
        ("SCHEMA_REGISTRY_USER", "u"),
        ("SCHEMA_REGISTRY_PASSWORD", SECRET),
    ];
    for (settings, at) in [
        (&sasl("localhost:1,b2:2")[..], "AGENTGOV_KAFKA_SECURITY: expected sasl_ssl"),
        (&registry[..], "AGENTGOV_SCHEMA_REGISTRY: expected https"),
    ] {
        let found = wrong(with(settings));
        assert!(found.len() == 1 && found[0].starts_with(at), "{found:?}");
        assert!(
            found[0].ends_with("set AGENTGOV_CLEAR_PASSWORDS=allow") && !found[0].contains(SECRET),
            "{found:?}"
        );
        with(&[settings, &[("CLEAR_PASSWORDS", "allow")]].concat()).unwrap();
        assert_eq!(
            wrong(with(&[settings, &[("CLEAR_PASSWORDS", "yes")]].concat())),
            ["AGENTGOV_CLEAR_PASSWORDS: expected `allow`, or nothing"]
        );
    }
}

#[test]
fn file_has_the_same_settings_and_mistakes_have_locations() {
    let endpoints = from_file(
        "kafka: b:1\nkafka_security: sasl_plaintext\nkafka_mechanism: PLAIN\nkafka_user: u\nkafka_password_file: secret\n\
         clear_passwords: allow\nschema_registry: http://r\nclickhouse: http://c\nclickhouse_database: log\n",
    )
    .unwrap();
    assert_eq!(endpoints.kafka.login.unwrap().password.expose(), SECRET);
    assert_eq!(endpoints.clickhouse.database, "log");
    let rest = "schema_registry: http://r\nclickhouse: http://c\n";
    assert_eq!(
        wrong(from_file(&format!("kafka: b:1\nkafak_user: u\nkafka_password: 12345\n{rest}"))),
        [
            "/stack.yaml:2:1: unknown key `kafak_user` of a stack; expected kafka, kafka_security, kafka_mechanism, kafka_user, \
             kafka_password, kafka_password_file, kafka_ca_file, kafka_certificate_file, kafka_key_file, kafka_key_password, \
             kafka_key_password_file, schema_registry, schema_registry_user, schema_registry_password, schema_registry_password_file, schema_registry_ca_file, \
             schema_registry_certificate_file, schema_registry_key_file, clickhouse, clickhouse_user, clickhouse_password, \
             clickhouse_password_file, clickhouse_database, clickhouse_ca_file, clickhouse_certificate_file, \
             clickhouse_key_file or clear_passwords",
            "/stack.yaml:3:17: expected text; a number, true, false or null must be put in quotes",
        ]
    );
    assert_eq!(
        wrong(from_file(&format!("kafka: b:1\nkafka_security: ssl\nkafka_ca_file: nowhere.pem\n{rest}"))),
        ["/stack.yaml:3:16: kafka_ca_file: /nowhere.pem: No such file or directory (os error 2)"]
    );
    assert_eq!(
        wrong(Settings::read(&|_| None, Some(Path::new("/nowhere/stack.yaml"))).and_then(|s| s.endpoints())),
        ["/nowhere/stack.yaml: No such file or directory (os error 2)"]
    );
}

#[test]
fn variable_takes_precedence_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stack.yaml");
    let text = "kafka: b:1\nschema_registry: http://localhost\nschema_registry_user: u\nschema_registry_password: old\nclickhouse: http://c\n";
    std::fs::write(&file, text).unwrap();
    let new = folder.path().join("new");
    std::fs::write(&new, "new").unwrap();
    let variable = |name: &str| match name {
        "AGENTGOV_SCHEMA_REGISTRY_PASSWORD_FILE" => Some(new.display().to_string()),
        "AGENTGOV_CLICKHOUSE" => Some(String::new()),
        _ => None,
    };
    let endpoints = Settings::read(&variable, Some(&file)).unwrap().endpoints().unwrap();
    assert_eq!(endpoints.schema_registry.login.unwrap().password.expose(), "new");
    assert_eq!(endpoints.clickhouse.url, "http://c");
}
