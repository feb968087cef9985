//! HTTP clients, each made in one place.

use reqwest::blocking::{Client, ClientBuilder};

use crate::{Tls, TlsError};

/// What every blocking client starts from. With a URL of https it goes nowhere else, not even by a redirect.
///
/// # Errors
/// If the TLS setting's files are missing or do not hold what they should.
pub fn http_client(url: &str, tls: &Tls) -> Result<ClientBuilder, TlsError> {
    if is_https(url) {
        Ok(Client::builder().tls_backend_preconfigured(tls.connector()?).https_only(true))
    } else {
        Ok(Client::builder())
    }
}

/// A client of the `clickhouse` crate for `endpoint`.
///
/// # Errors
/// If the TLS setting's files are missing or do not hold what they should.
#[cfg(feature = "clickhouse")]
pub fn clickhouse_client(endpoint: &crate::ClickHouseEndpoint) -> Result<clickhouse::Client, TlsError> {
    use hyper_util::client::legacy::{Client as Hyper, connect::HttpConnector};
    use hyper_util::rt::TokioExecutor;
    /// Shorter than ClickHouse keeps an idle connection by default, as the crate's own client.
    const IDLE_CONNECTION: std::time::Duration = std::time::Duration::from_secs(2);

    let client = if is_https(&endpoint.url) {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let mut https = hyper_tls::HttpsConnector::from((tcp, endpoint.tls.connector()?.into()));
        https.https_only(true);
        let http = Hyper::builder(TokioExecutor::new()).pool_idle_timeout(IDLE_CONNECTION).build(https);
        clickhouse::Client::with_http_client(http)
    } else {
        clickhouse::Client::default()
    };
    let client = client.with_url(&endpoint.url).with_database(&endpoint.database);
    if endpoint.user.is_empty() {
        return Ok(client);
    }
    Ok(client.with_user(&endpoint.user).with_password(endpoint.password.expose()))
}

/// True if the URL's scheme is https, however it is written.
pub(crate) fn is_https(url: &str) -> bool {
    url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}
