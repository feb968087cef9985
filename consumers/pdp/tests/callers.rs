//! Bearer tokens and TLS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

mod support;

use agentgov_pdp::{Callers, ServerConfig, TlsFiles};
use agentgov_policy::BundleFiles;
use agentgov_policy::authzen::AccessBundle;
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::sha::sha256;
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509NameBuilder};
use reqwest::Certificate;
use reqwest::blocking::Client;
use serde_json::{Value, json};
use support::{Pdp, example, on_loopback};

const EVALUATION: &str = "/access/v1/evaluation";
const TOKEN: &str = "a1b2c3d4-token.of~desk+1/2==";
const OF_AGENT: &str = "another-token";

fn digest(token: &str) -> String {
    sha256(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn callers() -> Callers {
    let text = format!(
        "callers:\n  - {{ name: desk, token_sha256: \"{}\", tenant: desk, environment: demo }}\n  \
         - {{ name: bot, token_sha256: \"{}\", tenant: desk, environment: demo, agent: desk-bot }}\n",
        digest(TOKEN),
        digest(OF_AGENT).to_uppercase()
    );
    Callers::parse("callers.yaml", &text).unwrap()
}

fn allowed() -> String {
    json!({
        "subject": {"type": "user", "id": "alice"},
        "action": {"name": "read"},
        "resource": {"type": "record", "id": "record-1"},
    })
    .to_string()
}

/// Returns status, challenge and body.
fn asked(pdp: &Pdp, authorization: &[&str], body: &str) -> (u16, String, String) {
    let mut request = pdp.request(EVALUATION, body);
    for value in authorization {
        request = request.header("Authorization", *value);
    }
    let response = request.send().unwrap();
    let challenge = response.headers().get("www-authenticate");
    let challenge = challenge.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    (response.status().as_u16(), challenge, response.text().unwrap())
}

#[test]
fn tokens_are_asked_for_as_rfc_6750_says() {
    let bundle = AccessBundle::compile(&BundleFiles(
        [
            ("bundle.yaml", "name: b\nversion: '1'\nmodel: authzen\nenvironments: [demo]\n"),
            (
                "schema.cedarschema",
                "entity user, agent, record; action read appliesTo { principal: [user, agent], resource: record };",
            ),
            ("entities.yaml", "entities: [{ type: agent, id: desk-bot }, { type: record, id: record-1 }]\n"),
            ("p.cedar", "@id(\"all\") permit (principal, action, resource);"),
        ]
        .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))
        .into(),
    ))
    .unwrap();
    let pdp = Pdp::start(ServerConfig { callers: Some(callers()), ..on_loopback() }, bundle);
    let (bearer, bot) = (format!("Bearer {TOKEN}"), format!("bearer {OF_AGENT}"));
    let (longer, hashed) = (format!("Bearer x{TOKEN}"), format!("Bearer {}", digest(TOKEN)));
    let body = allowed();
    assert_eq!(asked(&pdp, &[&bearer], &body).0, 200);
    for (authorization, status, error) in [
        (&[][..], 401, None),
        (&["Basic dTpw"][..], 401, None),
        (&["Bearer wrong"][..], 401, Some("invalid_token")),
        (&[longer.as_str()][..], 401, Some("invalid_token")),
        (&[hashed.as_str()][..], 401, Some("invalid_token")),
        (&["Bearer"][..], 400, Some("invalid_request")),
        (&["Bearer a b"][..], 400, Some("invalid_request")),
        (&["Bearer ="][..], 400, Some("invalid_request")),
        (&[bearer.as_str(), bearer.as_str()][..], 400, Some("invalid_request")),
        (&[bot.as_str()][..], 403, Some("insufficient_scope")),
    ] {
        // The token is checked before the request.
        for body in [body.as_str(), if status == 403 { &body } else { "{" }] {
            let (found, challenge, text) = asked(&pdp, authorization, body);
            assert_eq!(found, status, "{authorization:?}: {text}");
            assert!(challenge.starts_with("Bearer realm="), "{challenge}");
            let named = challenge.split("error=").nth(1).map(|error| error.trim_matches('"'));
            assert_eq!(named, error, "{authorization:?}");
            assert!(!text.contains(TOKEN) && !text.contains("decision\""), "{text}");
        }
    }
    let of_bot = body.replace("user", "agent").replace("alice", "desk-bot");
    assert_eq!(asked(&pdp, &[&bot], &of_bot).0, 200);
    let search = |body: &Value, kind: &str| {
        let path = format!("/access/v1/search/{kind}");
        pdp.request(&path, body.to_string()).header("Authorization", &bot).send().unwrap().status().as_u16()
    };
    let of_bot: Value = serde_json::from_str(&of_bot).unwrap();
    assert_eq!(
        (search(&of_bot, "resource"), search(&of_bot, "action"), search(&of_bot, "subject")),
        (200, 200, 403)
    );
    for path in ["/readyz", "/livez", "/metrics", "/.well-known/authzen-configuration"] {
        assert_eq!(pdp.get(path).status(), 200, "{path} needs no token");
    }
}

#[test]
fn file_of_callers_names_each_mistake_and_no_digest() {
    let digest = digest(TOKEN);
    for (text, expected) in [
        ("callers: []\n", "at least one caller"),
        ("{}\n", "at least one caller"),
        (
            "callers:\n  - { name: a, token_sha256: my-secret-token, tenant: t, environment: e }\n",
            ":2:30: expected the SHA-256",
        ),
        ("callers:\n  - { name: a, token: x, tenant: t, environment: e }\n", "unknown key `token`"),
        (
            &format!("callers:\n  - {{ name: '', token_sha256: '{digest}', tenant: t, environment: e }}\n"),
            "must not be empty",
        ),
        (
            &format!(
                "callers:\n  - &a {{ name: a, token_sha256: '{digest}', tenant: t, environment: e }}\n  - *a\n"
            ),
            "has this token already",
        ),
    ] {
        let problems: Vec<String> =
            Callers::parse("c", text).unwrap_err().iter().map(ToString::to_string).collect();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{text}: {problems:?}");
        assert!(
            !problems.iter().any(|problem| problem.contains("my-secret") || problem.contains(&digest)),
            "{problems:?}"
        );
    }
    assert!(Callers::read(std::path::Path::new("/nowhere/callers.yaml")).is_err());
}

/// Returns a certificate for 127.0.0.1, with its key in PKCS #8.
fn certificate() -> (Vec<u8>, PKey<openssl::pkey::Private>) {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "pdp").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    let alternative =
        SubjectAlternativeName::new().ip("127.0.0.1").build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(alternative).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    (builder.build().to_pem().unwrap(), key)
}

#[test]
fn tls_answers_clients_that_trust_its_certificate_and_no_plain_http() {
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles { certificate: folder.path().join("c.pem"), key: folder.path().join("k.pem") };
    let (pem, key) = certificate();
    std::fs::write(&files.certificate, &pem).unwrap();
    std::fs::write(&files.key, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let config = ServerConfig { tls: Some(files.clone()), callers: Some(callers()), ..on_loopback() };
    let pdp = Pdp::start(config, example("certification"));
    assert!(pdp.url.starts_with("https://"));
    assert!(pdp.client.get(format!("{}/readyz", pdp.url)).send().is_err(), "the certificate is not trusted");
    let trusted = Certificate::from_pem(&pem).unwrap();
    let client = Client::builder().no_proxy().tls_certs_only([trusted]).build().unwrap();
    let response = client
        .post(format!("{}{EVALUATION}", pdp.url))
        .header("Content-Type", "application/json")
        .header("Authorization", format!("Bearer {TOKEN}"))
        .body(allowed())
        .send()
        .unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.text().unwrap().contains("\"decision\":true"));
    // A client that never completes its handshake does not block others.
    let _silent = std::net::TcpStream::connect(pdp.url.trim_start_matches("https://")).unwrap();
    assert!(pdp.client.get(pdp.url.replace("https", "http")).send().is_err());
    assert_eq!(client.get(format!("{}/readyz", pdp.url)).send().unwrap().status(), 200);
    pdp.stop();
}

#[test]
fn key_that_is_no_pkcs_8_is_named_without_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles { certificate: folder.path().join("c.pem"), key: folder.path().join("k.pem") };
    let (pem, key) = certificate();
    std::fs::write(&files.certificate, &pem).unwrap();
    let start = || {
        let config = ServerConfig { tls: Some(files.clone()), ..on_loopback() };
        let point = agentgov_pdp::BundleOnly::new(example("certification"));
        let metrics = support::metrics();
        let parts =
            (agentgov_service::Health::new("pdp"), metrics, agentgov_service::ShutdownSignal::default());
        agentgov_pdp::DecisionServer::start(config, point, parts).unwrap_err().to_string()
    };
    assert!(start().contains("k.pem: No such file"), "{}", start());
    let pkcs1 = key.rsa().unwrap().private_key_to_pem().unwrap();
    for content in [pkcs1.as_slice(), b"", &pem] {
        std::fs::write(&files.key, content).unwrap();
        let error = start();
        assert!(error.contains("k.pem: expected the private key"), "{error}");
        assert!(!error.contains("BEGIN"), "{error}");
    }
}

#[test]
fn key_of_another_certificate_is_refused_with_both_files() {
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles { certificate: folder.path().join("c.pem"), key: folder.path().join("k.pem") };
    let ((pem, _), (_, other)) = (certificate(), certificate());
    std::fs::write(&files.certificate, &pem).unwrap();
    std::fs::write(&files.key, other.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let config = ServerConfig { tls: Some(files.clone()), ..on_loopback() };
    let point = agentgov_pdp::BundleOnly::new(example("certification"));
    let parts = (
        agentgov_service::Health::new("pdp"),
        support::metrics(),
        agentgov_service::ShutdownSignal::default(),
    );
    let error = agentgov_pdp::DecisionServer::start(config, point, parts).unwrap_err().to_string();
    for file in [&files.certificate, &files.key] {
        assert!(error.contains(&file.display().to_string()), "{error}");
    }
    assert!(error.contains("the key of another one"), "{error}");
}
