//! Generates, publishes, revokes and lists signing keys.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use agentgov_schemas::governance::{KeyEntry, KeyKind, KeyState};
use agentgov_schemas::key::check_tenant_id;
use agentgov_schemas::{Millis, OpenEnum};
use agentgov_token::{KeyError, KeySet, MAX_JWK_BYTES, PublicKey, SigningKey};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::fold::{UnreadableRecord, fold};
use crate::push::append;
use crate::{Error, Listing, RegistryContext};

/// Maximum length of a holder's name, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// Holder and purpose of a key.
#[derive(Clone, Copy, Debug)]
pub struct KeyHolder<'a> {
    /// Purpose of its signatures.
    pub kind: KeyKind,
    /// Name of the pdp or the approver.
    pub name: &'a str,
    /// The only tenant that it signs for; `None` for all.
    pub tenant_id: Option<&'a str>,
}

impl KeyHolder<'_> {
    /// Checks name and tenant.
    ///
    /// # Errors
    /// The expected and the found value, if the key must not be published.
    pub fn check(&self) -> Result<(), String> {
        if self.name.trim().is_empty() || self.name.len() > MAX_NAME_BYTES {
            let found = self.name.len();
            return Err(format!(
                "name: expected a text of 1 to {MAX_NAME_BYTES} bytes, found {found} or only blanks"
            ));
        }
        self.tenant_id.map_or(Ok(()), |tenant_id| check_tenant_id(tenant_id).map_err(|e| e.to_string()))
    }
}

/// A published key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Key {
    /// RFC 7638 thumbprint.
    pub kid: String,
    /// pdp or approver.
    pub kind: &'static str,
    /// Name of the holder.
    pub name: String,
    /// The only tenant that it signs for; absent for all.
    pub tenant_id: Option<String>,
    /// active or revoked.
    pub state: &'static str,
    /// `logged_at` of its first record, in milliseconds.
    pub published_at: Millis,
    /// Author of that record.
    pub published_by: String,
    /// The public key as a JWK.
    pub public_key: serde_json::Value,
    /// Its revocation.
    pub revocation: Option<Revocation>,
}

/// Revocation of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Revocation {
    /// `logged_at` of its record, in milliseconds.
    pub revoked_at: Millis,
    /// Author of its record.
    pub revoked_by: String,
    /// Reason of the revocation, as text.
    pub reason: String,
}

/// Result of revoking a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationOutcome {
    /// The revocation was appended.
    Revoked,
    /// The key was revoked before; nothing was appended.
    AlreadyRevoked,
}

/// Generates a key from the operating system's random numbers.
///
/// # Errors
/// If the operating system returns no random numbers.
pub fn generate_key() -> io::Result<SigningKey> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(io::Error::other)?;
    Ok(SigningKey::from_seed(&seed))
}

/// Creates a file that only its owner can read, with the key as a private JWK.
///
/// # Errors
/// If the file exists, even as a link, or cannot be written; a partly written one is removed.
pub fn create_key_file(file: &Path, key: &SigningKey) -> io::Result<()> {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    write_key(created, key).inspect_err(|_| drop(std::fs::remove_file(file)))
}

fn write_key(mut file: File, key: &SigningKey) -> io::Result<()> {
    file.write_all(key.to_private_jwk().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Reads the file of a key: a private JWK. Overwrites the memory that had its text.
///
/// # Errors
/// If the file cannot be read, or is no private JWK.
pub fn read_key_file(file: &Path) -> io::Result<SigningKey> {
    read_key(File::open(file)?)
}

fn read_key(mut file: impl Read) -> io::Result<SigningKey> {
    // One byte more than a JWK may have. The buffer never grows, since growing leaves a copy behind.
    let mut text = Zeroizing::new([0; MAX_JWK_BYTES + 1]);
    let mut rest = text.as_mut_slice();
    while !rest.is_empty() {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => rest = rest.get_mut(read..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let read = (MAX_JWK_BYTES + 1).saturating_sub(rest.len());
    let text = text.get(..read).unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_| KeyError::NotAnEd25519Jwk);
    text.and_then(SigningKey::from_private_jwk)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Appends the public half of a key. When it returns, every in-sync replica has it.
///
/// # Errors
/// If the record was not acknowledged; it may be in the topic nevertheless.
pub fn publish_key(
    context: RegistryContext<'_>,
    key: &PublicKey,
    holder: KeyHolder<'_>,
    pushed_by: &str,
) -> Result<(), Error> {
    let public_key = key.to_jwk().to_string();
    append_key(
        context,
        &KeyEntry {
            kid: key.kid(),
            kind: holder.kind.into(),
            name: holder.name,
            tenant_id: holder.tenant_id,
            public_key: &public_key,
            state: KeyState::Active.into(),
            reason: "",
            pushed_by,
        },
    )
}

/// Appends the revocation of a published key, unless it is revoked. A revoked key never becomes valid again.
///
/// # Errors
/// If no such key is published, or the record was not acknowledged.
pub fn revoke_key(
    context: RegistryContext<'_>,
    kid: &str,
    reason: &str,
    pushed_by: &str,
) -> Result<RevocationOutcome, Error> {
    let published = PublishedKeys::read(context)?;
    let key = published.keys.get(kid).ok_or_else(|| Error::UnknownKey { kid: kid.to_owned() })?;
    if key.revoked_at.is_some() {
        return Ok(RevocationOutcome::AlreadyRevoked);
    }
    let public_key = key.public.to_jwk().to_string();
    append_key(
        context,
        &KeyEntry {
            kid,
            kind: key.kind.into(),
            name: &key.name,
            tenant_id: key.tenant_id.as_deref(),
            public_key: &public_key,
            state: KeyState::Revoked.into(),
            reason,
            pushed_by,
        },
    )?;
    Ok(RevocationOutcome::Revoked)
}

fn append_key(context: RegistryContext<'_>, entry: &KeyEntry<'_>) -> Result<(), Error> {
    let topic = context.topic::<KeyEntry<'static>>()?;
    let value = topic
        .encoder()?
        .encode(entry)
        .map_err(|e| Error::Encode { key: entry.kid.to_owned(), message: e.to_string() })?;
    append(&topic, &[(entry.kid.to_owned(), value)]).map(drop)
}

/// Returns the published keys, in the order of their ids.
///
/// # Errors
/// If the topic cannot be read to its end.
pub fn list_keys(context: RegistryContext<'_>) -> Result<Listing<Key>, Error> {
    let PublishedKeys { keys, authors, unreadable } = PublishedKeys::read(context)?;
    let entries = keys.iter().map(|key| {
        let kid = key.public.kid();
        let author = |state| authors.get(&(kid.to_owned(), state)).cloned().unwrap_or_default();
        let revocation = key.revoked_at.map(|revoked_at| {
            let (revoked_by, reason) = author(KeyState::Revoked);
            Revocation { revoked_at, revoked_by, reason }
        });
        Key {
            kid: kid.to_owned(),
            kind: key.kind.as_str(),
            name: key.name.clone(),
            tenant_id: key.tenant_id.clone(),
            state: if revocation.is_some() { KeyState::Revoked } else { KeyState::Active }.as_str(),
            published_at: key.valid_from,
            published_by: author(KeyState::Active).0,
            public_key: key.public.to_jwk(),
            revocation,
        }
    });
    Ok(Listing { entries: entries.collect(), unreadable })
}

/// Reads the published keys, to verify signatures.
///
/// # Errors
/// If the topic cannot be read.
pub fn published_keys(context: RegistryContext<'_>) -> Result<KeySet, Error> {
    PublishedKeys::read(context).map(|published| published.keys)
}

/// Keys folded from their topic.
struct PublishedKeys {
    keys: KeySet,
    /// Author and reason of the first record of each state of each key.
    authors: BTreeMap<(String, KeyState), (String, String)>,
    unreadable: Vec<UnreadableRecord>,
}

impl PublishedKeys {
    fn read(context: RegistryContext<'_>) -> Result<Self, Error> {
        let (mut keys, mut authors) = (KeySet::default(), BTreeMap::new());
        let unreadable = fold(&context.topic::<KeyEntry<'static>>()?, |at, decoded| {
            let entry = decoded.read::<KeyEntry<'_>>()?;
            keys.fold(&entry, at.offset, at.logged_at)?;
            if let OpenEnum::Known(state) = entry.state {
                let author = || (entry.pushed_by.to_owned(), entry.reason.to_owned());
                authors.entry((entry.kid.to_owned(), state)).or_insert_with(author);
            }
            Ok(())
        })?;
        Ok(Self { keys, authors, unreadable })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn key_file_is_created_for_its_owner_only_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pdp.jwk");
        let key = generate_key().unwrap();
        create_key_file(&file, &key).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(SigningKey::from_private_jwk(&text).unwrap().kid(), key.kid());

        let other = generate_key().unwrap();
        assert_ne!(other.kid(), key.kid());
        let again = create_key_file(&file, &other).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        let link = folder.path().join("link.jwk");
        symlink(folder.path().join("elsewhere"), &link).unwrap();
        assert_eq!(create_key_file(&link, &other).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(!folder.path().join("elsewhere").exists());
    }

    #[test]
    fn key_file_that_cannot_be_written_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("full.jwk");
        File::create(&file).unwrap();
        // A file opened for reading rejects writes, as a full disk does.
        let read_only = File::open(&file).unwrap();
        assert!(write_key(read_only, &generate_key().unwrap()).is_err());
        assert!(create_key_file(&folder.path().join("no-folder/pdp.jwk"), &generate_key().unwrap()).is_err());
    }

    #[test]
    fn key_file_is_read_whole_and_a_long_or_public_one_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pdp.jwk");
        let key = generate_key().unwrap();
        create_key_file(&file, &key).unwrap();
        assert_eq!(read_key_file(&file).unwrap().kid(), key.kid());
        // A reader may return less than was asked for.
        let text = key.to_private_jwk();
        let (head, tail) = text.as_bytes().split_at(20);
        assert_eq!(read_key(head.chain(tail)).unwrap().kid(), key.kid());

        let longest = format!("{}{}", *text, " ".repeat(MAX_JWK_BYTES - text.len()));
        assert_eq!(read_key(longest.as_bytes()).unwrap().kid(), key.kid());
        for (content, expected) in [
            (format!("{longest} "), KeyError::TooLong),
            (format!("{longest}{longest}"), KeyError::TooLong),
            (key.public_key().to_jwk().to_string(), KeyError::Public),
            (text[1..].to_owned(), KeyError::NotAnEd25519Jwk),
            (String::new(), KeyError::NotAnEd25519Jwk),
        ] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(read_key_file(&file).unwrap_err().to_string(), expected.to_string());
        }
        let wrong = read_key([0xff; 8].as_slice()).unwrap_err();
        assert_eq!(wrong.to_string(), KeyError::NotAnEd25519Jwk.to_string());
        let missing = read_key_file(&folder.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn holder_has_a_name_and_a_valid_tenant() {
        let long = "n".repeat(MAX_NAME_BYTES + 1);
        for (name, tenant_id, is_valid) in [
            ("pdp-1", None, true),
            ("Ada Lovelace", Some("acme"), true),
            (&long[1..], None, true),
            ("", None, false),
            (" \t", None, false),
            (&long, None, false),
            ("pdp-1", Some(""), false),
            ("pdp-1", Some("a/b"), false),
        ] {
            let holder = KeyHolder { kind: KeyKind::Pdp, name, tenant_id };
            assert_eq!(holder.check().is_ok(), is_valid, "{name:?} {tenant_id:?}");
        }
    }
}
