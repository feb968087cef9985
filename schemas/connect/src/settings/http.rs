//! Endpoints of the schema registry and ClickHouse from settings, and the rule against passwords without TLS.

use reqwest::Url;

use super::names::{CLEAR_PASSWORDS, variable};
use super::{DEFAULT_DATABASE, Findings, Settings};
use crate::http::is_loopback;
use crate::{ClickHouseEndpoint, Login, SchemaRegistryEndpoint, Secret, Tls};

impl Settings {
    pub(super) fn schema_registry_of(&self, findings: &mut Findings) -> Option<SchemaRegistryEndpoint> {
        let (url, tls) = self.url("schema_registry", &[], findings)?;
        let (user, password) = self.login("schema_registry", &url, findings);
        let login = user.map(|user| Login { user, password });
        Some(SchemaRegistryEndpoint { url: self.as_written("schema_registry"), login, tls })
    }

    pub(super) fn clickhouse_of(&self, findings: &mut Findings) -> Option<ClickHouseEndpoint> {
        let (url, tls) = self.url("clickhouse", &["clickhouse_database"], findings)?;
        let (user, password) = self.login("clickhouse", &url, findings);
        Some(ClickHouseEndpoint {
            url: self.as_written("clickhouse"),
            // `Settings::login` has rejected a password without a user.
            user: user.unwrap_or_default(),
            password,
            database: self
                .get("clickhouse_database")
                .map_or(DEFAULT_DATABASE, |setting| setting.text())
                .to_owned(),
            tls,
        })
    }

    fn as_written(&self, part: &str) -> String {
        self.get(part).map_or("", |setting| setting.text()).trim_end_matches('/').to_owned()
    }

    /// Returns an address. Reports settings that have no effect without it.
    pub(super) fn address(
        &self,
        part: &'static str,
        more: &[&str],
        rest: &[&str],
        findings: &mut Findings,
    ) -> Option<&str> {
        if let Some(setting) = self.get(part) {
            return Some(setting.text());
        }
        match self.first(&[more, rest].concat()) {
            Some((_, setting)) => {
                findings.add(format!("{}: is set, but {} is not", setting.at, variable(part)));
            }
            None => findings.unset.push(variable(part)),
        }
        None
    }

    fn url(&self, part: &'static str, more: &[&str], findings: &mut Findings) -> Option<(Url, Tls)> {
        let names =
            ["user", "password", "ca_file", "certificate_file", "key_file"].map(|s| format!("{part}_{s}"));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let text = self.address(part, more, &names, findings)?;
        let at = self.at(part);
        // Messages must not contain a text that does not parse, since it may contain a password.
        let url = match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
            Ok(url) => {
                findings.add(format!(
                    "{at}: expected a URL that begins with http:// or https://, found {}:",
                    url.scheme()
                ));
                return None;
            }
            Err(error) => {
                findings.add(format!("{at}: expected a URL such as https://host:8443, found none: {error}"));
                return None;
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            let (user, password) =
                (variable(&format!("{part}_user")), variable(&format!("{part}_password_file")));
            findings.add(format!(
                "{at}: expected a URL without user and password, since messages show it; set {user} and {password}"
            ));
            return None;
        }
        if url.scheme() == "https" {
            let before = findings.wrong.len();
            let tls = self.tls(part, findings);
            if findings.wrong.len() == before
                && let Err(error) = tls.connector()
            {
                findings.add(format!("{}: {error}", self.at(&format!("{part}_key_file"))));
            }
            return Some((url, tls));
        }
        let files = names.get(2..).unwrap_or_default();
        if let Some((_, setting)) = self.first(files) {
            findings.add(format!("{}: has no effect; expected {at} to begin with https://", setting.at));
        }
        Some((url, Tls::default()))
    }

    /// Returns user and password. Reports one without the other, except for ClickHouse's user `default`.
    fn login(&self, part: &str, url: &Url, findings: &mut Findings) -> (Option<String>, Secret) {
        let (user, password) = (format!("{part}_user"), format!("{part}_password"));
        let user_is = self.get(&user).map(|setting| setting.text().to_owned());
        let secret = self.get(&password).map(|setting| setting.value.clone());
        match (&user_is, &secret) {
            (None, Some(_)) => {
                findings.add(format!(
                    "{}: a password without a user; expected {} as well",
                    self.at(&password),
                    variable(&user)
                ));
            }
            // ClickHouse's user `default` has no password on a new server; every other user has one.
            (Some(name), None) if part != "clickhouse" || name != "default" => {
                findings.add(format!(
                    "{}: a user without a password; expected {} or {} as well",
                    self.at(&user),
                    variable(&password),
                    variable(&format!("{password}_file"))
                ));
            }
            (Some(_), Some(_)) if url.scheme() == "http" => {
                let here = url.host_str().is_some_and(is_loopback);
                self.clear_password(part, part, "https", here, findings);
            }
            _ => {}
        }
        (user_is, secret.unwrap_or_default())
    }

    /// Reports a password that would cross a network without TLS, unless the setting `clear_passwords` permits it.
    pub(super) fn clear_password(
        &self,
        part: &str,
        setting: &str,
        expected: &str,
        is_loopback: bool,
        findings: &mut Findings,
    ) {
        if is_loopback {
            return;
        }
        let at = self.at(setting);
        match self.get(CLEAR_PASSWORDS) {
            Some(allowed) if allowed.text() == "allow" => {
                tracing::warn!(part, "the password crosses the network without TLS, as {} allows", allowed.at);
            }
            Some(other) => findings.add(format!("{}: expected `allow`, or nothing", other.at)),
            None => findings.add(format!(
                "{at}: expected {expected}, since a password is sent to another host, and others on the network could read and use it; \
                 if something else protects the connection, set {}=allow",
                variable(CLEAR_PASSWORDS)
            )),
        }
    }
}
