//! Tests of keys as JSON Web Keys, and of the key set.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy takes helpers of tests for product code"
)]

use agentgov_schemas::governance::{KeyEntry, KeyKind, KeyState};
use agentgov_schemas::{Millis, OpenEnum};
use agentgov_token::{KeyError, KeyRefusal, KeySet, PublicKey, SigningKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signer as _;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use openssl::pkey::{Id, PKey};
use openssl::sign::Verifier;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// RFC 8037, appendix A.1.
const RFC_PRIVATE: &str = r#"{"kty":"OKP","crv":"Ed25519",
    "d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
/// Appendix A.3.
const RFC_THUMBPRINT: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
/// Appendix A.4.
const RFC_JWS: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

#[test]
fn key_and_signature_are_those_of_rfc_8037() {
    let key = SigningKey::from_private_jwk(RFC_PRIVATE).unwrap();
    assert_eq!(key.kid(), RFC_THUMBPRINT);
    assert_eq!(key.public_key().to_jwk()["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    let (message, signature) = RFC_JWS.rsplit_once('.').unwrap();
    let private: Json = serde_json::from_str(&key.to_private_jwk()).unwrap();
    let seed = URL_SAFE_NO_PAD.decode(private["d"].as_str().unwrap()).unwrap().try_into().unwrap();
    let signed = ed25519_dalek::SigningKey::from_bytes(&seed).sign(message.as_bytes());
    assert_eq!(URL_SAFE_NO_PAD.encode(signed.to_bytes()), signature);
    let x = URL_SAFE_NO_PAD.decode(key.public_key().to_jwk()["x"].as_str().unwrap()).unwrap();
    let public = PKey::public_key_from_raw_bytes(&x, Id::ED25519).unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let verified = Verifier::new_without_digest(&public)
        .unwrap()
        .verify_oneshot(&signature, message.as_bytes())
        .unwrap();
    assert!(verified);
}

#[test]
fn text_that_is_no_key_is_rejected() {
    let private: Json = serde_json::from_str(RFC_PRIVATE).unwrap();
    let public = SigningKey::from_private_jwk(RFC_PRIVATE).unwrap().public_key().to_jwk();
    let with = |value: &Json, name: &str, member: Json| {
        let mut value = value.clone();
        value[name] = member;
        value.to_string()
    };
    let small_order = URL_SAFE_NO_PAD.encode([0; 32]);
    let off_the_curve = URL_SAFE_NO_PAD.encode([2; 32]);
    for (text, expected) in [
        (String::new(), KeyError::NotAnEd25519Jwk),
        ("[]".to_owned(), KeyError::NotAnEd25519Jwk),
        (format!("{public}x"), KeyError::NotAnEd25519Jwk),
        (with(&public, "kty", json!("EC")), KeyError::NotAnEd25519Jwk),
        (with(&public, "crv", json!("X25519")), KeyError::NotAnEd25519Jwk),
        (format!(r#"{{"x":"a",{}"#, &public.to_string()[1..]), KeyError::NotAnEd25519Jwk),
        (with(&public, "x", json!("AA")), KeyError::NotThirtyTwoBytes),
        (
            with(&public, "x", json!(format!("{}=", public["x"].as_str().unwrap()))),
            KeyError::NotThirtyTwoBytes,
        ),
        (with(&public, "x", json!("A".repeat(60))), KeyError::NotThirtyTwoBytes),
        (with(&public, "x", json!(small_order)), KeyError::WeakPoint),
        (with(&public, "x", json!(off_the_curve)), KeyError::WeakPoint),
        (with(&public, "kid", json!("other")), KeyError::WrongKid),
        (with(&public, "more", json!("a".repeat(2000))), KeyError::TooLong),
        (private.to_string(), KeyError::Private),
    ] {
        assert_eq!(PublicKey::from_jwk(&text).unwrap_err(), expected, "{text}");
    }
    for (text, expected) in [
        (public.to_string(), KeyError::Public),
        (with(&private, "d", json!("AA")), KeyError::NotThirtyTwoBytes),
        (with(&private, "d", json!(URL_SAFE_NO_PAD.encode([1; 32]))), KeyError::PartsDiffer),
        (with(&private, "kid", json!("other")), KeyError::WrongKid),
    ] {
        assert_eq!(SigningKey::from_private_jwk(&text).unwrap_err(), expected, "{text}");
    }
}

#[test]
fn secret_is_not_in_debug_output() {
    let key = SigningKey::from_private_jwk(RFC_PRIVATE).unwrap();
    assert_eq!(format!("{key:?}"), format!("SigningKey {{ kid: {RFC_THUMBPRINT:?}, .. }}"));
}

proptest! {
    #[test]
    fn any_key_round_trips(seed in any::<[u8; 32]>()) {
        let key = SigningKey::from_seed(&seed);
        let read = SigningKey::from_private_jwk(&key.to_private_jwk()).unwrap();
        prop_assert_eq!(read.to_private_jwk(), key.to_private_jwk());
        let public = key.public_key().to_jwk();
        prop_assert!(public.get("d").is_none());
        prop_assert_eq!(&PublicKey::from_jwk(&public.to_string()).unwrap(), key.public_key());
        prop_assert!(serde_json::from_value::<Jwk>(public.clone()).is_ok());
        let required = json!({ "crv": public["crv"], "kty": public["kty"], "x": public["x"] }).to_string();
        prop_assert_eq!(URL_SAFE_NO_PAD.encode(openssl::sha::sha256(required.as_bytes())), key.kid());
    }

    #[test]
    fn any_text_is_no_key(text in any::<String>()) {
        prop_assert!(PublicKey::from_jwk(&text).is_err() && SigningKey::from_private_jwk(&text).is_err());
    }
}

/// A record of the topic, owned.
#[derive(Clone)]
struct Record {
    kid: String,
    kind: &'static str,
    tenant_id: Option<&'static str>,
    public_key: String,
    state: &'static str,
}

impl Record {
    fn of(seed: u8) -> Self {
        let key = SigningKey::from_seed(&[seed; 32]);
        Self {
            kid: key.kid().to_owned(),
            kind: "pdp",
            tenant_id: None,
            public_key: key.public_key().to_jwk().to_string(),
            state: "active",
        }
    }

    fn fold(&self, keys: &mut KeySet, logged_at: i64) -> Result<(), KeyRefusal> {
        let entry = KeyEntry {
            kid: &self.kid,
            kind: OpenEnum::from_name(self.kind),
            name: "pdp-1",
            tenant_id: self.tenant_id,
            public_key: &self.public_key,
            state: OpenEnum::from_name(self.state),
            reason: "",
            pushed_by: "",
        };
        keys.fold(&entry, keys.next_offset(), Millis(logged_at))
    }
}

#[test]
fn first_record_and_first_revocation_of_a_key_count() {
    let mut keys = KeySet::default();
    let active = Record::of(1);
    let revoked = Record { state: KeyState::Revoked.as_str(), ..active.clone() };
    assert_eq!(active.fold(&mut keys, 10), Ok(()));
    assert_eq!(active.fold(&mut keys, 20), Ok(()), "published twice");
    let key = |keys: &KeySet| {
        let key = keys.get(&active.kid).unwrap();
        (key.kind, key.valid_from, key.revoked_at)
    };
    assert_eq!(key(&keys), (KeyKind::Pdp, Millis(10), None));
    for changed in
        [Record { kind: "approver", ..active.clone() }, Record { tenant_id: Some("acme"), ..active.clone() }]
    {
        assert_eq!(changed.fold(&mut keys, 30), Err(KeyRefusal::Changed));
    }
    assert_eq!(key(&keys), (KeyKind::Pdp, Millis(10), None));
    assert_eq!(revoked.fold(&mut keys, 40), Ok(()));
    assert_eq!(revoked.fold(&mut keys, 50), Ok(()));
    assert_eq!(active.fold(&mut keys, 60), Err(KeyRefusal::Revoked));
    assert_eq!(key(&keys), (KeyKind::Pdp, Millis(10), Some(Millis(40))));
    assert_eq!((keys.refused(), keys.next_offset()), (3, 7));
    keys.skip(7);
    assert_eq!((keys.refused(), keys.next_offset()), (3, 8));
}

#[test]
fn revocation_takes_effect_whatever_else_its_record_says() {
    let damaged =
        |seed| Record { state: "revoked", public_key: "{".to_owned(), kind: "made-up", ..Record::of(seed) };
    let mut keys = KeySet::default();
    Record::of(1).fold(&mut keys, 10).unwrap();
    damaged(1).fold(&mut keys, 20).unwrap();
    assert_eq!(keys.get(&Record::of(1).kid).unwrap().revoked_at, Some(Millis(20)));
    // The revocation is folded before the key's first record.
    damaged(2).fold(&mut keys, 30).unwrap();
    assert_eq!(Record::of(2).fold(&mut keys, 40), Err(KeyRefusal::Revoked));
    assert_eq!(keys.get(&Record::of(2).kid), None);
}

#[test]
fn record_of_another_key_or_an_unknown_word_is_refused() {
    let record = Record::of(1);
    let private = SigningKey::from_seed(&[1; 32]).to_private_jwk().to_string();
    let without_kid = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":{}}}"#, jwk_x(&Record::of(2)));
    let cases = [
        (Record { kid: "short".to_owned(), ..record.clone() }, KeyRefusal::NoThumbprint(5)),
        (Record { public_key: "{".to_owned(), ..record.clone() }, KeyRefusal::Key(KeyError::NotAnEd25519Jwk)),
        (Record { public_key: private, ..record.clone() }, KeyRefusal::Key(KeyError::Private)),
        (Record { public_key: Record::of(2).public_key, ..record.clone() }, KeyRefusal::WrongKid),
        (Record { public_key: without_kid, ..record.clone() }, KeyRefusal::WrongKid),
        (Record { kind: "root", ..record.clone() }, KeyRefusal::UnknownKind),
        (Record { state: "suspended", ..record.clone() }, KeyRefusal::UnknownState),
    ];
    let mut keys = KeySet::default();
    for (number, (record, expected)) in (1..).zip(&cases) {
        assert_eq!(record.fold(&mut keys, 10), Err(expected.clone()));
        assert_eq!((keys.refused(), keys.iter().count()), (number, 0));
    }
    // None of these records prevents the publication of the real key.
    assert_eq!(record.fold(&mut keys, 20), Ok(()));
}

fn jwk_x(record: &Record) -> Json {
    serde_json::from_str::<Json>(&record.public_key).unwrap()["x"].clone()
}

#[test]
fn jwks_has_the_keys_of_a_kind_that_are_not_revoked() {
    let mut keys = KeySet::default();
    for seed in [1, 2, 3] {
        Record::of(seed).fold(&mut keys, 10).unwrap();
    }
    Record { kind: "approver", ..Record::of(4) }.fold(&mut keys, 10).unwrap();
    Record { state: "revoked", ..Record::of(2) }.fold(&mut keys, 20).unwrap();
    let jwks: JwkSet = serde_json::from_value(keys.jwks(KeyKind::Pdp)).unwrap();
    let mut kids: Vec<_> = jwks.keys.iter().map(|jwk| jwk.common.key_id.clone().unwrap()).collect();
    let mut expected = [Record::of(1).kid, Record::of(3).kid];
    kids.sort();
    expected.sort();
    assert_eq!(kids, expected);
    assert_eq!(KeySet::default().jwks(KeyKind::Pdp), json!({ "keys": [] }));
    assert_eq!(
        keys.jwks(KeyKind::Pdp)["keys"][0].as_object().unwrap().keys().collect::<Vec<_>>().len(),
        6,
        "kty, crv, x, kid, alg and use"
    );
}
