//! HTTP clients.

use std::io::Read as _;
use std::net::IpAddr;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;
use reqwest::blocking::{Client, ClientBuilder, Response};

use crate::{Tls, TlsError, describe};

/// Maximum size of a response body, in bytes. The largest expected ones have some hundred KiB.
const MAX_BODY_BYTES: u64 = 16 << 20;

/// Returns the builder for every blocking client. A client for an https URL connects only with https, also after a redirect. A
/// client for a URL of this machine ignores the proxy of the environment (`HTTP_PROXY` and similar), which could not reach it.
///
/// # Errors
/// If a file of the TLS settings is missing or has invalid content.
pub fn http_client(url: &str, tls: &Tls) -> Result<ClientBuilder, TlsError> {
    let builder = if is_https(url) {
        Client::builder().tls_backend_preconfigured(tls.connector()?).https_only(true)
    } else {
        Client::builder()
    };
    Ok(if is_here(url) { builder.no_proxy() } else { builder })
}

/// Error of [`read_body`].
#[derive(Debug, thiserror::Error)]
pub enum ReadBodyError {
    /// The connection failed.
    #[error("{}", describe(.0))]
    Http(#[from] reqwest::Error),
    /// Reading failed for another reason.
    #[error(transparent)]
    Io(std::io::Error),
    /// The body exceeds the limit.
    #[error("expected a response of at most {MAX_BODY_BYTES} bytes, found more")]
    TooLong,
}

/// Reads the body of a response as text; invalid UTF-8 becomes replacement characters. A server may send any number of bytes,
/// whatever length it claims, so at most 16 MiB are read.
///
/// # Errors
/// If the connection fails, or the body is longer.
pub fn read_body(response: Response) -> Result<String, ReadBodyError> {
    let mut body = Vec::new();
    response.take(MAX_BODY_BYTES + 1).read_to_end(&mut body).map_err(|error| {
        match error.downcast::<reqwest::Error>() {
            Ok(error) => ReadBodyError::Http(error.without_url()),
            Err(error) => ReadBodyError::Io(error),
        }
    })?;
    if body.len() as u64 > MAX_BODY_BYTES {
        return Err(ReadBodyError::TooLong);
    }
    Ok(String::from_utf8(body).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// Returns the URL, without credentials, of the proxy through which a client of [`http_client`] reaches `url`. `None` if the client
/// connects directly.
pub(crate) fn proxy_of(url: &str) -> Option<String> {
    if is_here(url) { None } else { proxy_by(&Matcher::from_env(), url) }
}

fn proxy_by(matcher: &Matcher, url: &str) -> Option<String> {
    let proxy = matcher.intercept(&url.parse().ok()?)?;
    let uri = proxy.uri();
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{}://{}{port}", uri.scheme_str().unwrap_or("http"), uri.host().unwrap_or_default()))
}

fn is_here(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| url.host_str().is_some_and(is_loopback))
}

/// Returns true for a name or address that never leaves this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    let is_name = |name: &str| name.eq_ignore_ascii_case("localhost");
    // RFC 6761: subdomains of `localhost` are loopback names.
    is_name(host)
        || host.rsplit_once('.').is_some_and(|(_, last)| is_name(last))
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Creates a client of the `clickhouse` crate for `endpoint`.
///
/// # Errors
/// If a file of the TLS settings is missing or has invalid content.
#[cfg(feature = "clickhouse")]
pub fn clickhouse_client(endpoint: &crate::ClickHouseEndpoint) -> Result<clickhouse::Client, TlsError> {
    use hyper_util::client::legacy::{Client as Hyper, connect::HttpConnector};
    use hyper_util::rt::TokioExecutor;
    /// Time after which idle connections are closed. Shorter than ClickHouse's default, as in the crate's own client.
    const IDLE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

    let client = if is_https(&endpoint.url) {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let mut https = hyper_tls::HttpsConnector::from((tcp, endpoint.tls.connector()?.into()));
        https.https_only(true);
        let http = Hyper::builder(TokioExecutor::new()).pool_idle_timeout(IDLE_TIMEOUT).build(https);
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

/// Returns true if the URL's scheme is https, in lower or upper case.
pub(crate) fn is_https(url: &str) -> bool {
    url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_includes_every_name_and_address_of_this_machine() {
        for here in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "registry.localhost",
            "127.0.0.1",
            "127.9.8.7",
            "[::1]",
            "::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in
            ["localhost.example.org", "10.0.0.1", "128.0.0.1", "[::2]", "0.0.0.0", "", "xlocalhost"]
        {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn proxy_url_has_no_credentials() {
        let matcher = Matcher::builder()
            .http("http://user:secret@proxy.example:3128")
            .https("http://tls-proxy.example")
            .no("inside.example")
            .build();
        for (url, proxy) in [
            ("http://registry.example:8081/apis", Some("http://proxy.example:3128")),
            ("https://registry.example/apis", Some("http://tls-proxy.example")),
            ("http://inside.example/apis", None),
            ("no url", None),
        ] {
            assert_eq!(proxy_by(&matcher, url).as_deref(), proxy, "{url}");
        }
        assert_eq!(proxy_of("http://127.0.0.1:8081"), None);
    }

    /// Reads the response of a server that sends `head`, then `body` repeated `times` times.
    fn respond_with(head: &str, body: Vec<u8>, times: u64) -> Result<String, String> {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{head}\r\n");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            // The client may close the connection.
            (0..times).take_while(|_| stream.write_all(&body).is_ok()).count() as u64
        });
        let client = http_client(&url, &Tls::default()).unwrap().build().unwrap();
        let found = read_body(client.get(&url).send().unwrap()).map_err(|error| error.to_string());
        assert!(server.join().unwrap() <= 1 << 10, "the client closed the connection");
        found
    }

    #[test]
    fn body_is_limited_whatever_length_the_server_claims() {
        let text = |bytes: &[u8]| bytes.to_vec();
        assert_eq!(respond_with("", text(b"as it is"), 1).as_deref(), Ok("as it is"));
        assert_eq!(respond_with("", text(b"no \xff text"), 1).as_deref(), Ok("no \u{fffd} text"));
        assert_eq!(respond_with("content-length: 4\r\n", text(b"four"), 1).as_deref(), Ok("four"));
        assert!(respond_with("content-length: 9223372036854775807\r\n", text(b"four"), 1).is_err());
        for head in ["", "content-length: 9223372036854775807\r\n"] {
            let endless = respond_with(head, vec![b'a'; 1 << 20], u64::MAX).unwrap_err();
            assert_eq!(endless, "expected a response of at most 16777216 bytes, found more");
        }
    }
}
