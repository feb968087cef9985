//! Readiness probes of the parts.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};

/// Timeout of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between probes.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Failure of a wait.
pub(crate) enum NotReady {
    /// The part ended.
    Ended(String),
    /// The deadline passed; holds the outcome of the last probe.
    Late(String),
}

/// Repeats `attempt` until it succeeds, `ended` returns an exit status, or `limit` passes.
pub(crate) fn wait_until(
    limit: Duration,
    ended: impl Fn() -> Option<String>,
    mut attempt: impl FnMut() -> Result<(), String>,
) -> Result<(), NotReady> {
    let deadline = Instant::now() + limit;
    loop {
        let outcome = attempt();
        if let Some(status) = ended() {
            return Err(NotReady::Ended(status));
        }
        match outcome {
            Ok(()) => return Ok(()),
            Err(last) if Instant::now() >= deadline => return Err(NotReady::Late(last)),
            Err(_) => std::thread::sleep(RETRY_INTERVAL),
        }
    }
}

/// Fetches the cluster's metadata, as every client does first.
pub(crate) fn kafka(address: &str) -> Result<(), String> {
    // librdkafka backs off after a refused connection; a plain connection before it costs nothing.
    connect(address)?;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set_log_level(RDKafkaLogLevel::Emerg)
        .create()
        .map_err(|error| error.to_string())?;
    let metadata = consumer.fetch_metadata(None, PROBE_TIMEOUT).map_err(|error| error.to_string())?;
    if metadata.brokers().is_empty() { Err("the cluster has no broker yet".to_owned()) } else { Ok(()) }
}

/// Checks that a port is open: of a broker list, or of a URL.
pub(crate) fn port_is_open(address: &str) -> Result<(), String> {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let host = rest.split(['/', ',']).next().unwrap_or(rest);
    connect(&with_port(host, if scheme == "https" { 443 } else { 80 })).map(drop)
}

/// Checks that a GET returns 200. `https` is only connected to, since the probe has no TLS.
pub(crate) fn http(url: &str) -> Result<(), String> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("expected a URL, found '{url}'"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if scheme == "https" {
        return connect(&with_port(host, 443)).map(drop);
    }
    let mut stream = connect(&with_port(host, 80))?;
    let mut line = String::new();
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n")
        .and_then(|()| BufReader::new(stream).read_line(&mut line))
        .map_err(|error| error.to_string())?;
    match line.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(format!("GET {url}: expected 200, found '{}'", line.trim())),
    }
}

fn with_port(host: &str, port: u16) -> String {
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { host.to_owned() } else { format!("{host}:{port}") }
}

/// Connects to the first reachable address of the name.
fn connect(address: &str) -> Result<TcpStream, String> {
    let mut last = format!("{address} has no address");
    for address in address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))? {
        match TcpStream::connect_timeout(&address, PROBE_TIMEOUT) {
            Ok(stream) => {
                let timeouts = stream
                    .set_read_timeout(Some(PROBE_TIMEOUT))
                    .and(stream.set_write_timeout(Some(PROBE_TIMEOUT)));
                return timeouts.map(|()| stream).map_err(|error| error.to_string());
            }
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_fails_when_the_part_ends() {
        let outcome = wait_until(
            Duration::from_secs(60),
            || Some("exit status: 1".to_owned()),
            || Err("no".to_owned()),
        );
        assert!(matches!(outcome, Err(NotReady::Ended(status)) if status == "exit status: 1"));
    }

    #[test]
    fn wait_fails_at_the_deadline_with_the_last_error() {
        let outcome = wait_until(Duration::ZERO, || None, || Err("refused".to_owned()));
        assert!(matches!(outcome, Err(NotReady::Late(last)) if last == "refused"));
    }

    #[test]
    fn invalid_url_is_an_error() {
        assert!(http("localhost:1").unwrap_err().contains("expected a URL"));
    }
}
