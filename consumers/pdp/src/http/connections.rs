//! Accepts connections until a shutdown is requested, and serves each in a task of its own.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use agentgov_service::ShutdownSignal;
use agentgov_service::shutdown::GRACE_PERIOD;
use axum::Router;
use axum::extract::Request;
use axum::http::HeaderName;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_native_tls::TlsAcceptor;

use super::idle::{ConnectionSlot, ConnectionSlots};
use super::write_timeout::WriteTimeout;

/// Maximum number of connections. A further one takes the place of the one that has been idle longest.
pub(super) const MAX_CONNECTIONS: u32 = 4_096;
/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the head of a request, and maximum idle time of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Time in which a client must read a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time in which a connection that loses its place must end.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(250);
/// Interval at which the shutdown request is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Pause after a failure to accept a connection, for example because no file descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Adds the request's `X-Request-ID` to each response.
pub(super) fn with_request_id(routes: Router) -> Router {
    routes.layer(from_fn(|request: Request, next: Next| async move {
        let id = request.headers().get(&REQUEST_ID).cloned();
        let mut response: Response = next.run(request).await;
        if let Some(id) = id {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }))
}

/// Serves until `stop` is requested, then waits for the requests in progress, at most for the shutdown timeout.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    app: Router,
    stop: ShutdownSignal,
    max_connections: u32,
) {
    let slots = ConnectionSlots::new(max_connections);
    let (ending, ended) = watch::channel(false);
    let mut asked = pin!(asked(&stop));
    loop {
        let next = async {
            let (stream, _) = listener.accept().await?;
            Ok::<_, std::io::Error>((stream, slots.acquire().await))
        };
        let accepted = tokio::select! {
            () = &mut asked => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, slot)) => {
                let connection = Connection {
                    app: app.clone(),
                    ended: ended.clone(),
                    slot: Arc::new(slot),
                    write_timeout: WRITE_TIMEOUT,
                };
                tokio::spawn(connection.serve(stream, tls.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    ending.send_replace(true);
    if tokio::time::timeout(GRACE_PERIOD, slots.drained()).await.is_err() {
        tracing::warn!("connections are closed whose requests did not end in time");
    }
}

async fn asked(stop: &ShutdownSignal) {
    while !stop.is_requested() {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

struct Connection {
    app: Router,
    /// True once the process is shutting down.
    ended: watch::Receiver<bool>,
    slot: Arc<ConnectionSlot>,
    write_timeout: Duration,
}

impl Connection {
    async fn serve(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        // A response is one small segment: send it without delay.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection delays small segments");
        }
        let Some(tls) = tls else { return self.serve_http(stream).await };
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream));
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            () = self.slot.closed() => return,
        };
        match shaken {
            Ok(Ok(stream)) => self.serve_http(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake did not end in time"),
        }
    }

    fn serve_http(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> impl Future<Output = ()> + Send {
        let Self { app, mut ended, slot, write_timeout } = self;
        let stream = WriteTimeout::new(stream, write_timeout);
        async move {
            let app = TowerToHyperService::new(app);
            let counted = service_fn(|request| {
                let busy = slot.begin_request();
                let response = app.call(request);
                async move {
                    let response = response.await;
                    drop(busy);
                    response
                }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), counted);
            let mut served = pin!(served);
            // The guard of the value is dropped here, since a held guard blocks the sender.
            let ended = async { drop(ended.wait_for(|ended| *ended).await) };
            let result = tokio::select! {
                result = served.as_mut() => result,
                () = ended => {
                    served.as_mut().graceful_shutdown();
                    served.await
                }
                () = slot.closed() => {
                    // A response that is being written has a short time to end.
                    served.as_mut().graceful_shutdown();
                    if slot.is_busy() {
                        served.await
                    } else {
                        tokio::time::timeout(CLOSE_TIMEOUT, served).await.unwrap_or(Ok(()))
                    }
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a connection ended");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Bytes of a response, more than the pipe to the client holds.
    const RESPONSE_BYTES: usize = 10_000;
    const WRITE_TIMEOUT: Duration = Duration::from_millis(400);
    const DEADLINE: Duration = Duration::from_secs(30);

    /// Serves one connection in which a client behaves so. Returns true once its slot is free, false after a deadline.
    fn frees_its_slot<F: Future<Output = ()>>(client: impl FnOnce(tokio::io::DuplexStream) -> F) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let slots = ConnectionSlots::new(1);
            let slot = Arc::new(slots.acquire().await);
            let (_ending, ended) = watch::channel(false);
            let app = Router::new().route("/", get(|| async { "x".repeat(RESPONSE_BYTES) }));
            let (ours, theirs) = duplex(64);
            tokio::spawn(Connection { app, ended, slot, write_timeout: WRITE_TIMEOUT }.serve_http(ours));
            let is_free = async { tokio::time::timeout(DEADLINE, slots.drained()).await.is_ok() };
            tokio::select! {
                is_free = is_free => is_free,
                () = client(theirs) => false,
            }
        })
    }

    #[test]
    fn client_that_does_not_read_its_response_loses_its_connection() {
        assert!(frees_its_slot(|mut client| async move {
            client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            std::future::pending::<()>().await;
        }));
    }

    #[test]
    fn client_that_reads_a_byte_from_time_to_time_loses_its_connection() {
        assert!(frees_its_slot(|mut client| async move {
            client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut interval = tokio::time::interval(Duration::from_millis(10));
            // The whole response would take 100 s.
            while client.read_u8().await.is_ok() {
                interval.tick().await;
            }
            std::future::pending::<()>().await;
        }));
    }

    #[test]
    fn client_that_reads_keeps_its_connection_beyond_the_timeout() {
        let is_free = frees_its_slot(|mut client| async move {
            let began = Instant::now();
            while began.elapsed() < WRITE_TIMEOUT * 2 {
                client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                client.read_exact(&mut vec![0; RESPONSE_BYTES]).await.unwrap();
            }
        });
        assert!(!is_free);
    }

    /// Sends a request. Returns true if a response begins.
    async fn is_answered(client: &mut TcpStream) -> bool {
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        let read = tokio::time::timeout(DEADLINE, client.read_exact(&mut head)).await.unwrap();
        read.is_ok() && &head == b"HTTP/1.1 200"
    }

    /// Returns true if the server closes the connection.
    async fn is_closed(client: &mut TcpStream) -> bool {
        let mut rest = Vec::new();
        tokio::time::timeout(DEADLINE, client.read_to_end(&mut rest)).await.is_ok()
    }

    #[test]
    fn new_connection_takes_the_place_of_the_one_that_is_idle_longest() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (entered, mut entries) = tokio::sync::mpsc::unbounded_channel();
            let (release, released) = watch::channel(false);
            let slow = move || {
                entered.send(()).unwrap();
                let mut released = released.clone();
                async move {
                    drop(released.wait_for(|released| *released).await);
                    "late"
                }
            };
            let app = Router::new().route("/", get(|| async { "answer" })).route("/slow", get(slow));
            let stop = ShutdownSignal::default();
            tokio::spawn(accept(listener, None, app, stop.clone(), 3));
            let connect = || async { TcpStream::connect(address).await.unwrap() };
            // The oldest connection has a request in progress; the other two sent nothing, and a part of a head.
            let mut busy = connect().await;
            busy.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            entries.recv().await.unwrap();
            let silent = connect().await;
            let mut slow_head = connect().await;
            slow_head.write_all(b"GET / HT").await.unwrap();
            let mut further = [connect().await, connect().await];
            for (idle, further) in [silent, slow_head].iter_mut().zip(&mut further) {
                assert!(is_answered(further).await);
                assert!(is_closed(idle).await, "the idle one is closed");
            }
            release.send_replace(true);
            let mut head = [0; 12];
            busy.read_exact(&mut head).await.unwrap();
            assert_eq!(&head, b"HTTP/1.1 200", "a request in progress keeps its place");
            stop.request();
        });
    }
}
