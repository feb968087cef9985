//! Tokens that verify, and tokens that do not.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy takes helpers of tests for product code"
)]

use agentgov_schemas::governance::{KeyEntry, KeyKind, KeyState};
use agentgov_schemas::verdict::Decision;
use agentgov_schemas::{Digest, Millis, OpenEnum};
use agentgov_token::{
    Call, ClaimName, Claims, KeySet, KnownThrough, MAX_TOKEN_BYTES, SignError, SigningKey, TokenError, verify,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signer as _;
use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKey};
use openssl::sign::{Signer, Verifier};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

const PUBLISHED_AT: i64 = 1_000_000;
const LOGGED_AT: Millis = Millis(1_700_000_000_500);
const SEED: [u8; 32] = [7; 32];

fn key() -> SigningKey {
    SigningKey::from_seed(&SEED)
}

/// Returns a key set with one key, revoked if `revoked_at` is given.
fn keys(key: &SigningKey, kind: KeyKind, tenant_id: Option<&str>, revoked_at: Option<i64>) -> KeySet {
    let public_key = key.public_key().to_jwk().to_string();
    let mut entry = KeyEntry {
        kid: key.kid(),
        kind: kind.into(),
        name: "pdp-1",
        tenant_id,
        public_key: &public_key,
        state: KeyState::Active.into(),
        reason: "",
        pushed_by: "",
    };
    let mut keys = KeySet::default();
    keys.fold(&entry, 0, Millis(PUBLISHED_AT)).unwrap();
    entry.state = OpenEnum::Known(KeyState::Revoked);
    if let Some(revoked_at) = revoked_at {
        keys.fold(&entry, 1, Millis(revoked_at)).unwrap();
    }
    keys
}

fn pdp_keys() -> KeySet {
    keys(&key(), KeyKind::Pdp, None, None)
}

fn claims() -> Claims {
    Claims {
        decision_id: "0192aa00-0000-7000-8000-00000000000a".to_owned(),
        issuer: "pdp-1".to_owned(),
        issued_at: 1_700_000_000,
        expires_at: 1_700_000_060,
        tenant_id: "acme".to_owned(),
        environment: "production".to_owned(),
        session_id: "s-1".to_owned(),
        agent_id: "clerk".to_owned(),
        tool: "files/write".to_owned(),
        call_id: Some("call-1".to_owned()),
        arguments: Digest::of(b"{}"),
        definition: Some(Digest::of(b"definition")),
        outcome: Decision::Allow,
        bundle: Some(Digest::of(b"bundle")),
        through: KnownThrough { partition: 3, offset: -1 },
        agents: None,
        tools: None,
        unavailable: None,
        approval_id: None,
    }
}

fn check(token: &str) -> Result<Claims, TokenError> {
    verify(token, &pdp_keys(), KeyKind::Pdp, LOGGED_AT)
}

fn claims_json() -> Json {
    serde_json::to_value(claims()).unwrap()
}

fn header_json() -> Json {
    json!({ "typ": "agentgov-decision+jwt", "alg": "EdDSA", "kid": key().kid() })
}

/// Returns a token with any header and claims, signed with the key of `seed`.
fn forge(header: &str, claims: &str, seed: [u8; 32]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = ed25519_dalek::SigningKey::from_bytes(&seed).sign(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

fn with(mut value: Json, name: &str, member: Json) -> String {
    value[name] = member;
    value.to_string()
}

fn without(mut value: Json, name: &str) -> String {
    value.as_object_mut().unwrap().remove(name).unwrap();
    value.to_string()
}

/// Returns the JSON of `value` with a repeated member.
fn twice(value: &Json, name: &str) -> String {
    let text = value.to_string();
    format!("{},{}:{}}}", &text[..text.len() - 1], json!(name), value[name])
}

#[test]
fn token_has_the_documented_form() {
    let token = key().sign(&claims()).unwrap();
    let parts: Vec<Json> = token
        .split('.')
        .take(2)
        .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
        .collect();
    assert_eq!(parts[0], header_json());
    let expected = json!({
        "jti": "0192aa00-0000-7000-8000-00000000000a", "iss": "pdp-1", "iat": 1_700_000_000, "exp": 1_700_000_060,
        "tenant": "acme", "environment": "production", "session": "s-1", "agent": "clerk", "tool": "files/write",
        "call_id": "call-1", "args": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "definition": Digest::of(b"definition").to_string(),
        "outcome": "allow", "bundle": Digest::of(b"bundle").to_string(), "through": [3, -1],
    });
    assert_eq!(parts[1], expected);
    assert_eq!(token, forge(&String::from_utf8(first_part(&token)).unwrap(), &second_part(&token), SEED));
    assert_eq!(check(&token), Ok(claims()));
}

fn first_part(token: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap()
}

fn second_part(token: &str) -> String {
    String::from_utf8(URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[test]
fn unknown_members_and_absent_optional_ones_are_accepted() {
    let header = with(header_json(), "x-new", json!({ "a": [1] }));
    let mut value = claims_json();
    value["aud"] = json!(["anybody"]);
    value["new"] = json!({ "deep": [null, deep(200)] });
    assert_eq!(check(&forge(&header, &value.to_string(), SEED)), Ok(claims()));
    for name in ["call_id", "bundle"] {
        let read = check(&forge(&header_json().to_string(), &without(claims_json(), name), SEED)).unwrap();
        assert_ne!(read, claims(), "{name}");
    }
    // White space within the JSON is part of the signed bytes.
    let spaced = serde_json::to_string_pretty(&claims_json()).unwrap();
    assert_eq!(check(&forge(&header_json().to_string(), &spaced, SEED)), Ok(claims()));
}

#[test]
fn bad_token_is_rejected() {
    let good = key().sign(&claims()).unwrap();
    let (header, body) = (header_json().to_string(), claims_json().to_string());
    let other_seed = [8; 32];
    let other_kid = SigningKey::from_seed(&other_seed).kid().to_owned();
    let [first, second, signature]: [&str; 3] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let public_bytes = ed25519_dalek::SigningKey::from_bytes(&SEED).verifying_key().to_bytes();
    let by_public_key_as_secret = {
        let header = with(header_json(), "alg", json!("HS256"));
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(&body));
        let secret = PKey::hmac(&public_bytes).unwrap();
        let mut signer = Signer::new(MessageDigest::sha256(), &secret).unwrap();
        let signature = signer.sign_oneshot_to_vec(message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let malformed: Vec<(&str, String)> = vec![
        ("empty", String::new()),
        ("one part", first.to_owned()),
        ("two parts", format!("{first}.{second}")),
        ("four parts", format!("{good}.{second}")),
        ("three empty parts", "..".to_owned()),
        (
            "JSON serialization",
            json!({ "payload": second, "protected": first, "signature": signature }).to_string(),
        ),
        ("huge", "a".repeat(MAX_TOKEN_BYTES + 1)),
        ("huge, yet signed", forge(&header, &with(claims_json(), "more", json!("a".repeat(7000))), SEED)),
        ("padded header", format!("{first}=.{second}.{signature}")),
        ("padded signature", format!("{good}==")),
        ("space before", format!(" {good}")),
        ("line feed after", format!("{good}\n")),
        ("standard alphabet", format!("{first}.{second}.{}", "+/".repeat(43))),
        ("bits beyond the last byte", format!("{}B", &good[..good.len() - 1])),
        ("null byte", format!("{good}\0")),
        ("alg none", forge(&with(header_json(), "alg", json!("none")), &body, SEED)),
        ("alg none without signature", {
            format!("{}.{second}.", URL_SAFE_NO_PAD.encode(with(header_json(), "alg", json!("none"))))
        }),
        ("alg HS256 with the public key as secret", by_public_key_as_secret),
        ("alg ES256", forge(&with(header_json(), "alg", json!("ES256")), &body, SEED)),
        ("alg in another case", forge(&with(header_json(), "alg", json!("eddsa")), &body, SEED)),
        ("no alg", forge(&without(header_json(), "alg"), &body, SEED)),
        ("no typ", forge(&without(header_json(), "typ"), &body, SEED)),
        ("typ JWT", forge(&with(header_json(), "typ", json!("JWT")), &body, SEED)),
        ("no kid", forge(&without(header_json(), "kid"), &body, SEED)),
        ("kid of another type", forge(&with(header_json(), "kid", json!(7)), &body, SEED)),
        ("unknown crit", forge(&with(header_json(), "crit", json!(["exp"])), &body, SEED)),
        ("crit b64", {
            let mut header = header_json();
            header["b64"] = json!(true);
            forge(&with(header, "crit", json!(["b64"])), &body, SEED)
        }),
        ("alg twice", forge(&twice(&header_json(), "alg"), &body, SEED)),
        ("kid twice", forge(&twice(&header_json(), "kid"), &body, SEED)),
        ("header is an array", forge("[]", &body, SEED)),
        ("header is no JSON", forge("{", &body, SEED)),
        ("text after the header", forge(&format!("{header}x"), &body, SEED)),
        ("claims are an array", forge(&header, "[]", SEED)),
        ("claims are no JSON", forge(&header, "{", SEED)),
        ("claims are no UTF-8", {
            let message = format!("{first}.{}", URL_SAFE_NO_PAD.encode(b"\xff"));
            let signature = ed25519_dalek::SigningKey::from_bytes(&SEED).sign(message.as_bytes());
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
        }),
        ("header deeper than any", forge(&with(header_json(), "more", deep(200)), &body, SEED)),
        ("args twice", forge(&header, &twice(&claims_json(), "args"), SEED)),
        ("outcome twice", forge(&header, &twice(&claims_json(), "outcome"), SEED)),
        ("exp twice", forge(&header, &twice(&claims_json(), "exp"), SEED)),
        ("exp is a text", forge(&header, &with(claims_json(), "exp", json!("1700000060")), SEED)),
        ("exp is a fraction", forge(&header, &with(claims_json(), "exp", json!(1_700_000_060.5)), SEED)),
        ("exp is too large", forge(&header, &with(claims_json(), "exp", json!(u64::MAX)), SEED)),
        ("exp before iat", forge(&header, &with(claims_json(), "exp", json!(1_700_000_000)), SEED)),
        ("unknown outcome", forge(&header, &with(claims_json(), "outcome", json!("permit")), SEED)),
        ("outcome in another case", forge(&header, &with(claims_json(), "outcome", json!("Allow")), SEED)),
        ("args of another length", forge(&header, &with(claims_json(), "args", json!("ab")), SEED)),
        ("jti is no UUID", forge(&header, &with(claims_json(), "jti", json!("1")), SEED)),
        ("jti in capitals", {
            forge(&header, &with(claims_json(), "jti", json!("0192AA00-0000-7000-8000-00000000000A")), SEED)
        }),
        ("through of one number", forge(&header, &with(claims_json(), "through", json!([1])), SEED)),
        ("through of three numbers", forge(&header, &with(claims_json(), "through", json!([1, 2, 3])), SEED)),
        ("through before none", forge(&header, &with(claims_json(), "through", json!([1, -2])), SEED)),
    ];
    for (case, token) in &malformed {
        let found = check(token);
        assert!(matches!(found, Err(TokenError::Malformed(_))), "{case}: {found:?}");
    }
    for name in [
        "jti",
        "iss",
        "iat",
        "exp",
        "tenant",
        "environment",
        "session",
        "agent",
        "tool",
        "args",
        "outcome",
        "through",
    ] {
        let found = check(&forge(&header, &without(claims_json(), name), SEED));
        assert!(matches!(found, Err(TokenError::Malformed(_))), "no {name}: {found:?}");
    }
    let others = [
        (
            "kid of no key",
            forge(&with(header_json(), "kid", json!(other_kid)), &body, other_seed),
            TokenError::UnknownKey,
        ),
        ("empty kid", forge(&with(header_json(), "kid", json!("")), &body, SEED), TokenError::UnknownKey),
        ("signed with another key", forge(&header, &body, other_seed), TokenError::BadSignature),
        ("cut", good[..good.len() - 2].to_owned(), TokenError::BadSignature),
        ("line feed within", format!("{first}.\n{second}.{signature}"), TokenError::BadSignature),
        ("no signature", format!("{first}.{second}."), TokenError::BadSignature),
        ("signature of zeros", format!("{first}.{second}.{}", "A".repeat(86)), TokenError::BadSignature),
        (
            "key in the header",
            {
                let other = SigningKey::from_seed(&other_seed).public_key().to_jwk();
                forge(&with(header_json(), "jwk", other), &body, other_seed)
            },
            TokenError::BadSignature,
        ),
        (
            "claims of another token",
            {
                let other = key().sign(&Claims { outcome: Decision::Deny, ..claims() }).unwrap();
                format!("{first}.{second}.{}", other.rsplit('.').next().unwrap())
            },
            TokenError::BadSignature,
        ),
    ];
    for (case, token, expected) in others {
        assert_eq!(check(&token), Err(expected), "{case}");
    }
    assert_eq!(check(&good), Ok(claims()), "the token that the others are made of");
}

fn deep(levels: usize) -> Json {
    (0..levels).fold(json!(1), |inner, _| json!([inner]))
}

#[test]
fn key_must_be_valid_when_the_call_is_logged() {
    let token = key().sign(&claims()).unwrap();
    let at = LOGGED_AT.0;
    let expires_at = claims().expires_at * 1000;
    let expired = |logged_at| TokenError::Expired { logged_at, claims: Box::new(claims()) };
    let revoked = |revoked_at, logged_at| TokenError::RevokedKey { revoked_at, logged_at };
    for (revoked_at, logged_at, expected) in [
        (None, at, Ok(())),
        (None, expires_at - 1, Ok(())),
        (None, expires_at, Err(expired(expires_at))),
        (None, i64::MAX, Err(expired(i64::MAX))),
        (None, PUBLISHED_AT, Ok(())),
        (
            None,
            PUBLISHED_AT - 1,
            Err(TokenError::NotYetValid { valid_from: PUBLISHED_AT, logged_at: PUBLISHED_AT - 1 }),
        ),
        (Some(at + 1), at, Ok(())),
        (Some(at), at, Err(revoked(at, at))),
        // Issued before the revocation, logged after it.
        (Some(at - 1), at, Err(revoked(at - 1, at))),
    ] {
        let keys = keys(&key(), KeyKind::Pdp, None, revoked_at);
        let found = verify(&token, &keys, KeyKind::Pdp, Millis(logged_at)).map(drop);
        assert_eq!(found, expected, "revoked at {revoked_at:?}, logged at {logged_at}");
    }
    let last = key().sign(&Claims { expires_at: i64::MAX, ..claims() }).unwrap();
    assert_eq!(check(&last).map(drop), Ok(()), "exp beyond any time in milliseconds");
}

#[test]
fn key_must_be_of_the_kind_and_tenant() {
    let token = key().sign(&claims()).unwrap();
    let wrong_kind = TokenError::WrongKind { expected: KeyKind::Pdp, found: KeyKind::Approver };
    let wrong_tenant = TokenError::WrongTenant { key_tenant: "other".to_owned() };
    for (kind, tenant_id, expected) in [
        (KeyKind::Pdp, None, Ok(())),
        (KeyKind::Pdp, Some("acme"), Ok(())),
        (KeyKind::Pdp, Some("other"), Err(wrong_tenant)),
        (KeyKind::Approver, None, Err(wrong_kind)),
    ] {
        let keys = keys(&key(), kind, tenant_id, None);
        let found = verify(&token, &keys, KeyKind::Pdp, LOGGED_AT).map(drop);
        assert_eq!(found, expected, "{kind} {tenant_id:?}");
    }
}

#[test]
fn first_difference_from_the_call_is_named() {
    let call = Call {
        tenant_id: "acme",
        environment: "production",
        session_id: "s-1",
        agent_id: "clerk",
        tool: "files/write",
        call_id: "call-1",
        arguments: Digest::of(b"{}"),
        definition: Some(Digest::of(b"definition")),
    };
    let any_call = Claims { call_id: None, ..claims() };
    for (call, expected) in [
        (call, None),
        (Call { tenant_id: "other", session_id: "s-2", ..call }, Some(ClaimName::Tenant)),
        (Call { environment: "staging", ..call }, Some(ClaimName::Environment)),
        (Call { session_id: "s-2", ..call }, Some(ClaimName::Session)),
        (Call { agent_id: "other", ..call }, Some(ClaimName::Agent)),
        (Call { tool: "files/read", ..call }, Some(ClaimName::Tool)),
        (Call { call_id: "call-2", ..call }, Some(ClaimName::CallId)),
        (Call { arguments: Digest::of(b"{ }"), ..call }, Some(ClaimName::Arguments)),
        (Call { definition: Some(Digest::of(b"changed")), ..call }, Some(ClaimName::Definition)),
        (Call { definition: None, ..call }, Some(ClaimName::Definition)),
    ] {
        assert_eq!(claims().first_difference(&call), expected);
        let without_id = expected.filter(|name| *name != ClaimName::CallId);
        assert_eq!(any_call.first_difference(&call), without_id);
    }
}

#[test]
fn claims_that_would_not_verify_are_not_signed() {
    let key = key();
    let sign = |claims: Claims| key.sign(&claims).map(drop);
    let invalid = [
        Claims { decision_id: "d-1".to_owned(), ..claims() },
        Claims { expires_at: claims().issued_at, ..claims() },
        Claims { through: KnownThrough { partition: -1, offset: 0 }, ..claims() },
    ];
    for claims in invalid {
        assert!(matches!(sign(claims.clone()), Err(SignError::Invalid(_))), "{claims:?}");
    }
    let long = Claims { session_id: "s".repeat(6000), ..claims() };
    assert!(matches!(sign(long), Err(SignError::TooLong(length)) if length > MAX_TOKEN_BYTES));
    let longest = Claims { session_id: "s".repeat(5500), ..claims() };
    assert_eq!(check(&key.sign(&longest).unwrap()), Ok(longest));
}

/// Inverts each bit of each byte of a token, if the result is ASCII.
#[test]
fn inverted_bit_anywhere_is_rejected() {
    let token = key().sign(&claims()).unwrap();
    for at in 0..token.len() {
        for bit in 0..7 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(check(&changed).is_err(), "byte {at}, bit {bit}: {changed}");
        }
    }
}

prop_compose! {
    fn any_claims()(
        id in any::<u128>(),
        (issued_at, lifetime) in (any::<i32>(), 1..i64::from(u32::MAX)),
        texts in prop::collection::vec(".{0,40}", 6),
        (call_id, approval_id) in (prop::option::of(".{0,40}"), prop::option::of(".{0,40}")),
        (arguments, bundle, definition) in
            (any::<[u8; 32]>(), prop::option::of(any::<[u8; 32]>()), prop::option::of(any::<[u8; 32]>())),
        outcome in prop::sample::select(vec![Decision::Allow, Decision::Deny, Decision::Ask, Decision::Indeterminate]),
        (partition, offset) in (0..i32::MAX, -1..i64::MAX),
        (agents, tools, unavailable) in
            (prop::option::of(any::<i64>()), prop::option::of(any::<i64>()), prop::option::of(".{0,40}")),
    ) -> Claims {
        let [issuer, tenant_id, environment, session_id, agent_id, tool] = texts.try_into().unwrap();
        let hex = format!("{id:032x}");
        Claims {
            decision_id: format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]),
            issued_at: issued_at.into(),
            expires_at: i64::from(issued_at) + lifetime,
            issuer, tenant_id, environment, session_id, agent_id, tool, call_id, approval_id, agents, tools, unavailable,
            arguments: Digest::from_bytes(arguments),
            bundle: bundle.map(Digest::from_bytes),
            definition: definition.map(Digest::from_bytes),
            outcome,
            through: KnownThrough { partition, offset },
        }
    }
}

proptest! {
    #[test]
    fn any_claims_round_trip_and_bind_their_key(claims in any_claims(), seed in any::<[u8; 32]>()) {
        let key = SigningKey::from_seed(&seed);
        let token = key.sign(&claims).unwrap();
        let logged_at = Millis(claims.expires_at * 1000 - 1);
        prop_assume!(logged_at.0 >= PUBLISHED_AT);
        let read = |key: &SigningKey| verify(&token, &keys(key, KeyKind::Pdp, None, None), KeyKind::Pdp, logged_at);
        prop_assert_eq!(read(&key), Ok(claims));
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (message, signature) = (message.as_bytes(), URL_SAFE_NO_PAD.decode(signature).unwrap());
        let point = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key();
        let public = PKey::public_key_from_raw_bytes(point.as_bytes(), Id::ED25519).unwrap();
        let mut verifier = Verifier::new_without_digest(&public).unwrap();
        prop_assert!(verifier.verify_oneshot(&signature, message).unwrap());
        prop_assert_eq!(read(&SigningKey::from_seed(&[0; 32])), Err(TokenError::UnknownKey));
    }

    #[test]
    fn any_text_is_no_token(text in any::<String>(), parts in prop::collection::vec("[A-Za-z0-9_-]{0,60}", 3)) {
        prop_assert!(check(&text).is_err());
        prop_assert!(check(&parts.join(".")).is_err());
        let first = URL_SAFE_NO_PAD.encode(header_json().to_string());
        let token = [first.as_str(), &parts[1], &parts[2]].join(".");
        prop_assert!(check(&token).is_err());
    }

    #[test]
    fn character_changed_anywhere_is_rejected(claims in any_claims(), at in any::<prop::sample::Index>(), by in "[ -~]") {
        let token = key().sign(&claims).unwrap();
        let at = at.index(token.len());
        let changed = format!("{}{by}{}", &token[..at], &token[at + 1..]);
        prop_assume!(changed != token);
        prop_assert!(verify(&changed, &pdp_keys(), KeyKind::Pdp, Millis(claims.expires_at * 1000 - 1)).is_err());
    }
}
