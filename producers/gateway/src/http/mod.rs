//! `agentgov gateway serve`: one server on this machine, with a path for each MCP server, and one for the hooks of each
//! coding agent.

mod callers;
mod config;
mod connection;
mod hooks;
mod mcp;
mod reply;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, header};
use axum::routing::{get, post};

use crate::frame::MAX_FRAME_BYTES;
use crate::hooks::Hooks;
use crate::hooks::client::MAX_BODY_BYTES;
use crate::process::{PARSER_STACK_BYTES, PrintLog};
use crate::proxy::ProxyConfig;
use crate::sessions::Sessions;
use connection::Connections;
use reply::HttpError;

pub use callers::{Caller, Callers};
pub use config::{ServeConfig, ServerEntry, SessionRule};

/// Parts of a gateway that its process provides.
pub struct ServeParts {
    /// Sessions of the agents.
    pub sessions: Arc<Sessions>,
    /// Settings of the proxies.
    pub proxy: ProxyConfig,
    /// Prints the stderr of the servers.
    pub print_log: Arc<PrintLog>,
}

/// State of the handlers.
pub struct Gateway {
    /// Clients.
    pub callers: Callers,
    /// Sessions of the agents.
    pub sessions: Arc<Sessions>,
    /// Hooks of coding agents.
    hooks: Hooks,
    servers: BTreeMap<String, ServerEntry>,
    connections: Connections,
}

/// A gateway that is listening.
#[derive(Debug)]
pub struct HttpGateway {
    address: SocketAddr,
    thread: JoinHandle<()>,
}

impl Gateway {
    /// Returns the caller of a request, by its bearer token.
    ///
    /// # Errors
    /// The response, if there is none.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>, HttpError> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (value, None) = (values.next(), values.next()) else {
            return Err(HttpError::bad_request("expected one `Authorization`, found several"));
        };
        let Some(value) = value else {
            return Err(HttpError::unauthorized("expected a bearer token, found none"));
        };
        let caller = value.to_str().ok().and_then(|value| self.callers.of_authorization(value));
        caller.ok_or_else(|| HttpError::unauthorized("expected a known bearer token, found another one"))
    }
}

impl HttpGateway {
    /// Serves until `stop` resolves, then ends the servers.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn start(
        config: ServeConfig,
        parts: ServeParts,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("serving on {}: {error}", config.listen);
        let listener = std::net::TcpListener::bind(config.listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("gateway")
            .thread_stack_size(PARSER_STACK_BYTES)
            .enable_all()
            .build()
            .map_err(failed)?;
        let gateway = Arc::new(Gateway {
            callers: config.callers,
            connections: Connections::new(parts.proxy, parts.print_log, Arc::clone(&parts.sessions)),
            hooks: Hooks::new(Arc::clone(&parts.sessions)),
            sessions: parts.sessions,
            servers: config.servers,
        });
        let app = router(Arc::clone(&gateway));
        let serving = async move {
            let served = async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                // An open stream of a client must not hold up the end.
                tokio::select! {
                    served = async { axum::serve(listener, app).await } => served,
                    () = stop => Ok(()),
                }
            };
            if let Err(error) = served.await {
                tracing::error!(%error, "gateway: the server failed");
            }
        };
        let thread = std::thread::Builder::new()
            .name("gateway-main".into())
            .spawn(move || {
                runtime.block_on(serving);
                gateway.connections.end();
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(Self { address, thread })
    }

    /// Returns the address on which it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// If its thread panicked.
    pub fn join(self) -> Result<(), String> {
        self.thread.join().map_err(|_| "the gateway's server panicked".to_owned())
    }
}

fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/hooks/{name}", post(hooks::post).layer(DefaultBodyLimit::max(MAX_BODY_BYTES)))
        .route("/mcp/{server}", post(mcp::post).get(mcp::get).delete(mcp::delete))
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(|| async { "ready\n" }))
        .with_state(gateway)
        .layer(DefaultBodyLimit::max(MAX_FRAME_BYTES))
}
