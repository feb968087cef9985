//! HTTP server of the engine: routes, start and graceful shutdown.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::EngineError;
use super::handle;
use super::request::quote;
use super::storage::Storage;

/// Timeout for statements in flight after SIGTERM.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// ClickHouse recurses deeply on large statements; its own server uses 8 MiB.
const STACK_BYTES: usize = 8 << 20;

/// Storage and address of the engine server.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Library to load.
    pub(crate) library: PathBuf,
    /// Directory of the storage; created if missing.
    pub(crate) path: PathBuf,
    /// Database to create if missing.
    pub(crate) database: Option<String>,
    /// Address to listen on: loopback, except inside a container.
    pub(crate) listen: IpAddr,
    /// Port to listen on.
    pub(crate) port: u16,
}

/// Serves until SIGTERM or SIGINT, then drains and closes the storage.
pub(crate) fn serve(settings: &Settings) -> Result<(), EngineError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|source| EngineError::Server { what: "start its runtime", source })?;
    let outcome = runtime.block_on(run(settings));
    // A statement that exceeds the drain timeout must not delay the exit.
    runtime.shutdown_background();
    outcome
}

async fn run(settings: &Settings) -> Result<(), EngineError> {
    let failed = |what| move |source| EngineError::Server { what, source };
    std::fs::create_dir_all(&settings.path).map_err(failed("create its storage directory"))?;
    let path = settings.path.canonicalize().map_err(failed("find its storage directory"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("listen for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("listen for SIGINT"))?;
    let listener = TcpListener::bind(SocketAddr::new(settings.listen, settings.port))
        .await
        .map_err(failed("bind its port"))?;
    let storage = Storage::open(&settings.library, &path)?;
    if let Some(database) = &settings.database {
        let sql = format!("CREATE DATABASE IF NOT EXISTS {}", quote(database, '`'));
        storage.run(move |session| session.query(sql.as_bytes(), "Null", &[])).await?;
    }

    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let server = axum::serve(listener, routes(storage.clone())).with_graceful_shutdown(async move {
        // An error means that the sender is gone, which also stops the server.
        let _ = stopped.wait_for(|stop| *stop).await;
    });
    let server = tokio::spawn(server.into_future());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = stopping.send(true);
    let drained = timeout(DRAIN_TIMEOUT, async {
        let _ = server.await;
        storage.close().await;
    });
    // After the deadline the process exits; the storage survives that like a kill.
    let _ = drained.await;
    Ok(())
}

fn routes(storage: Storage) -> Router {
    let root = get(handle::root).post(handle::statement);
    Router::new()
        .route("/ping", get(|| async { "Ok.\n" }))
        .route("/", root)
        .layer(DefaultBodyLimit::disable())
        .with_state(storage)
}
