//! `agentgov registry key …`: makes, revokes and lists signing keys.

use std::path::Path;

use agentgov_registry::{
    Error, Key, KeyHolder, Listing, RegistryContext, Revocation, RevocationOutcome, create_key_file,
    generate_key, list_keys, publish_key, revoke_key,
};
use agentgov_service::ExitCode;
use jiff::Timestamp;

use super::policy::current_user;
use super::registry::check_reason;
use crate::cli::{Global, KeyCommand};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{Text, errln, json, outln, text};

pub fn keys(command: &KeyCommand, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        KeyCommand::New { kind, name, tenant, out } => {
            new(KeyHolder { kind: *kind, name, tenant_id: tenant.as_deref() }, out, global)
        }
        KeyCommand::Revoke { kid, reason } => revoke(kid, reason, global),
        KeyCommand::List => list(global),
    }?;
    Ok(ExitCode::Done)
}

fn new(holder: KeyHolder<'_>, out: &Path, global: &Global) -> Result<(), Failure> {
    holder.check().map_err(|problem| Failure::new(ExitCode::Usage, problem))?;
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let kid = create(RegistryContext { endpoints: &endpoints, topology: &topology }, holder, out)?;
    if global.json {
        let KeyHolder { kind, name, tenant_id } = holder;
        json(&serde_json::json!({ "kid": kid, "kind": kind.as_str(), "name": name, "tenant_id": tenant_id }))
    } else {
        outln!("{}", kid);
        Ok(())
    }
}

fn revoke(kid: &str, reason: &str, global: &Global) -> Result<(), Failure> {
    check_reason(reason)?;
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let context = RegistryContext { endpoints: &endpoints, topology: &topology };
    let outcome = revoke_key(context, kid, reason, &current_user()).map_err(|e| {
        let code = if matches!(e, Error::UnknownKey { .. }) { ExitCode::Failed } else { ExitCode::TryAgain };
        Failure::new(code, e.to_string())
    })?;
    if global.json {
        return json(&serde_json::json!({ "kid": kid, "reason": reason, "outcome": outcome }));
    }
    match outcome {
        RevocationOutcome::Revoked => outln!("revoked key {}", kid),
        RevocationOutcome::AlreadyRevoked => outln!("key {} was revoked before; nothing was published", kid),
    }
    Ok(())
}

fn list(global: &Global) -> Result<(), Failure> {
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let context = RegistryContext { endpoints: &endpoints, topology: &topology };
    let listing = list_keys(context).or_exit(ExitCode::TryAgain)?;
    if global.json {
        return json(&serde_json::json!({ "keys": listing.entries, "unreadable": listing.unreadable }));
    }
    print_keys(&listing);
    Ok(())
}

/// Creates the file before publishing the key, so that no key is published whose private half is lost.
pub fn create(context: RegistryContext<'_>, holder: KeyHolder<'_>, out: &Path) -> Result<String, Failure> {
    let key = generate_key().or_exit(ExitCode::Failed)?;
    create_key_file(out, &key).map_err(|e| {
        let message =
            format!("{}: expected to create a new file, found: {e}; nothing was published", out.display());
        Failure::new(ExitCode::Failed, message)
    })?;
    publish_key(context, key.public_key(), holder, &current_user()).map_err(|e| {
        let removed = match std::fs::remove_file(out) {
            Ok(()) => format!("{} is removed", out.display()),
            Err(error) => format!("remove {}: {error}", out.display()),
        };
        let message =
            format!("{e}; {removed}; if `agentgov registry key list` lists {}, revoke it", key.kid());
        Failure::new(ExitCode::TryAgain, message)
    })?;
    Ok(key.kid().to_owned())
}

fn revocation_text(revocation: &Revocation) -> Text {
    let Revocation { revoked_at, revoked_by, reason } = revocation;
    let at = Timestamp::from_millisecond(revoked_at.0).unwrap_or_default();
    text!("revoked {} by {}: {}", at.strftime("%Y-%m-%d %H:%M:%S UTC"), revoked_by, reason)
}

fn print_keys(listing: &Listing<Key>) {
    outln!("keys");
    for key in &listing.entries {
        let tenant = key.tenant_id.as_deref().unwrap_or("all tenants");
        outln!("  {} {:<8} {:<7} {:<20} {}", key.kid, key.kind, key.state, tenant, key.name);
        outln!("    {}", key.public_key);
        if let Some(revocation) = &key.revocation {
            outln!("    {}", revocation_text(revocation));
        }
    }
    for record in &listing.unreadable {
        errln!("unreadable: offset {}: {}", record.offset, record.reason);
    }
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::Millis;

    use super::*;

    #[test]
    fn revocation_has_time_author_and_reason() {
        let revocation = Revocation {
            revoked_at: Millis(1_796_078_384_162),
            revoked_by: "ada".into(),
            reason: "the host was stolen\n".into(),
        };
        let expected = r"revoked 2026-11-30 22:39:44 UTC by ada: the host was stolen\u{a}";
        assert_eq!(revocation_text(&revocation).as_str(), expected);
    }
}
