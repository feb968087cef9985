//! The HTTP server: AuthZEN's Authorization API, its metadata, and the health of the process, on one address.

mod connections;
mod handlers;
mod idle;
mod metadata;
mod page;
mod reply;
mod write_timeout;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use agentgov_schemas::NotReadyReason;
use agentgov_schemas::bounds::STACK_BYTES;
use agentgov_service::metrics::DecisionMetrics;
use agentgov_service::{Health, Metrics, ShutdownSignal, serve};
use axum::Router;
use axum::http::uri::Authority;
use axum::routing::{get, post};

use crate::callers::Callers;
use crate::point::DecisionPoint;
use crate::tls::TlsFiles;

/// Maximum size of a request body, in bytes. A larger one is rejected with 413.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// Maximum number of evaluations in a request.
pub const MAX_EVALUATIONS: usize = 1_000;

/// Interval of the liveness report and of the upkeep of metrics.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Settings of the HTTP server: addresses, TLS, callers.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Addresses to try in order; the server listens on the first that is free. Port 0 selects a free port.
    pub listen: Vec<SocketAddr>,
    /// The server's certificate. `None`: plain HTTP, on loopback only.
    pub tls: Option<TlsFiles>,
    /// Clients that may ask. `None`: any client, on loopback only.
    pub callers: Option<Callers>,
    /// URL of the server for the metadata. `None`: `https` and the host that the request names.
    pub url: Option<String>,
}

/// Error of a server that cannot start.
#[derive(Debug)]
pub struct ServerError(pub String);

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServerError {}

/// A decision point that is listening.
#[derive(Debug)]
pub struct DecisionServer {
    address: SocketAddr,
    is_tls: bool,
    thread: JoinHandle<()>,
}

/// State of the handlers.
struct Api<D> {
    point: D,
    callers: Option<Callers>,
    url: Option<String>,
    metrics: DecisionMetrics,
}

impl DecisionServer {
    /// Serves `point` until `stop` is requested, and answers the requests in progress first.
    ///
    /// # Errors
    /// If the configuration is unsafe or incomplete, or no address can be bound.
    pub fn start<D: DecisionPoint>(
        config: ServerConfig,
        point: D,
        (health, metrics, stop): (Health, Metrics, ShutdownSignal),
    ) -> Result<Self, ServerError> {
        check(&config)?;
        let tls = config.tls.as_ref().map(TlsFiles::acceptor).transpose().map_err(ServerError)?;
        let shown: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
        let failed =
            |e: std::io::Error| ServerError(format!("serving decisions on {}: {e}", shown.join(" or ")));
        let listener = std::net::TcpListener::bind(config.listen.as_slice()).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("pdp")
            // Cedar recurses over policies.
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(failed)?;
        let api = Arc::new(Api {
            point,
            callers: config.callers,
            url: config.url.map(|url| url.trim_end_matches('/').to_owned()),
            metrics: DecisionMetrics::new(),
        });
        let routes = router(Arc::clone(&api)).merge(serve::routes(
            vec![health.clone()],
            metrics.clone(),
            stop.clone(),
        ));
        let app = connections::with_request_id(routes);
        let is_tls = tls.is_some();
        let serving = async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    api.point.report(&health);
                    health.clear(NotReadyReason::Starting);
                    tokio::spawn(heartbeat(api, health, metrics));
                    connections::accept(listener, tls, app, stop, connections::MAX_CONNECTIONS).await;
                }
                Err(error) => tracing::error!(%error, "decisions are not served"),
            }
        };
        let thread = std::thread::Builder::new()
            .name("pdp-main".into())
            .spawn(move || {
                runtime.block_on(serving);
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(Self { address, is_tls, thread })
    }

    /// Returns the address on which the server listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the server's URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.address)
    }

    /// Waits until the server has ended.
    ///
    /// # Errors
    /// If its thread panicked.
    pub fn join(self) -> Result<(), ServerError> {
        self.thread.join().map_err(|_| ServerError("the server of decisions panicked".to_owned()))
    }
}

/// Checks that tokens and responses cross a network with TLS only, and that only known callers get decisions over a
/// network.
fn check(config: &ServerConfig) -> Result<(), ServerError> {
    let open: Vec<String> =
        config.listen.iter().filter(|address| !is_loopback(address.ip())).map(ToString::to_string).collect();
    let open = open.join(", ");
    if !open.is_empty() && config.tls.is_none() {
        return Err(ServerError(format!(
            "expected a loopback address for plain HTTP, found {open}: tokens and decisions would cross the network in clear; \
             give --tls-certificate and --tls-key, or listen on 127.0.0.1"
        )));
    }
    if !open.is_empty() && config.callers.is_none() {
        return Err(ServerError(format!(
            "expected --callers, since {open} can be reached from other machines: without tokens anybody could ask"
        )));
    }
    match &config.url {
        Some(url) if !is_base_url(url) => Err(ServerError(format!(
            "--url: expected an https URL without user, query or fragment, such as https://pdp.example.com, found {url}"
        ))),
        _ => Ok(()),
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Returns true for `https`, a host with or without a port, and a path of plain segments.
fn is_base_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else { return false };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '%' | '/');
    host.parse::<Authority>().is_ok_and(|host| !host.host().is_empty() && !host.as_str().contains('@'))
        && path.chars().all(is_plain)
        && !path.contains("//")
}

fn router<D: DecisionPoint>(api: Arc<Api<D>>) -> Router {
    let mut configurations = vec![metadata::CONFIGURATION.to_owned()];
    // A URL with a path has its metadata between host and path.
    configurations.extend(
        api.url
            .as_deref()
            .and_then(metadata::path_of_url)
            .map(|path| format!("{}{path}", metadata::CONFIGURATION)),
    );
    let routes = configurations
        .into_iter()
        .fold(Router::new(), |routes, path| routes.route(&path, get(handlers::configuration::<D>)));
    routes
        .route(metadata::KEYS, get(handlers::jwks::<D>))
        .route(metadata::EVALUATION, post(handlers::evaluation::<D>))
        .route(metadata::EVALUATIONS, post(handlers::evaluations::<D>))
        .route(metadata::SEARCH_SUBJECT, post(handlers::search_subject::<D>))
        .route(metadata::SEARCH_RESOURCE, post(handlers::search_resource::<D>))
        .route(metadata::SEARCH_ACTION, post(handlers::search_action::<D>))
        .with_state(api)
        .method_not_allowed_fallback(reply::method_not_allowed)
        .fallback(reply::not_found)
}

/// Reports that the server is alive as long as its runtime runs tasks, since it waits for nothing else.
async fn heartbeat<D: DecisionPoint>(api: Arc<Api<D>>, health: Health, metrics: Metrics) {
    loop {
        health.record_progress(0, 0);
        api.point.report(&health);
        metrics.run_upkeep();
        tokio::time::sleep(HEARTBEAT).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &str) -> ServerConfig {
        ServerConfig { listen: vec![listen.parse().unwrap()], tls: None, callers: None, url: None }
    }

    #[test]
    fn plain_http_and_asking_without_token_are_for_loopback_only() {
        for listen in ["127.0.0.1:0", "127.9.9.9:1", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            assert!(check(&config(listen)).is_ok(), "{listen}");
        }
        let tls = Some(TlsFiles { certificate: "c".into(), key: "k".into() });
        for listen in ["0.0.0.0:0", "[::]:0", "10.0.0.1:1"] {
            let refused = check(&config(listen)).unwrap_err().0;
            assert!(refused.starts_with("expected a loopback address for plain HTTP"), "{refused}");
            let with_tls = ServerConfig { tls: tls.clone(), ..config(listen) };
            let refused = check(&with_tls).unwrap_err().0;
            assert!(refused.starts_with("expected --callers"), "{refused}");
        }
        let mut several = config("127.0.0.1:0");
        several.listen.push("192.168.0.1:0".parse().unwrap());
        assert!(check(&several).is_err());
    }

    #[test]
    fn url_is_https_without_query() {
        for (url, fits) in [
            ("https://pdp.example.com", true),
            ("https://pdp.example.com:8443/tenant1", true),
            ("http://pdp.example.com", false),
            ("https://", false),
            ("https:///x", false),
            ("https://a@b", false),
            ("https://a?b", false),
            ("https://a#b", false),
            ("https://a b", false),
            ("https://a/:b", false),
            ("https://a/{b}", false),
            ("https://a//b", false),
        ] {
            let config = ServerConfig { url: Some(url.to_owned()), ..config("127.0.0.1:0") };
            assert_eq!(check(&config).is_ok(), fits, "{url}");
        }
    }
}
