//! HTTP clients of decision points: one question at a time, or a closed loop over keep-alive connections.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::BenchError;
use crate::latency::Percentiles;

/// Time before the measurement in which the load already runs.
const WARM_UP: Duration = Duration::from_millis(500);

/// Questions for a server, asked in turn.
#[derive(Clone, Debug)]
pub struct Questions {
    /// Path of the requests.
    pub path: &'static str,
    /// Bodies of the requests.
    pub bodies: Arc<[String]>,
    /// Texts that each response contains. A response without one of them fails the measurement.
    pub expected: &'static [&'static str],
}

/// Result of a closed loop.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct HttpFigures {
    /// Responses per second.
    pub per_second: f64,
    /// Latency of a request.
    pub latency: Percentiles,
}

/// A connection with one request at a time.
struct Connection {
    address: SocketAddr,
    requests: SendRequest<String>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self, BenchError> {
        let stream = TcpStream::connect(address).await.map_err(BenchError::io("connecting to a server"))?;
        stream.set_nodelay(true).map_err(BenchError::io("connecting to a server"))?;
        let (requests, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(BenchError::http("connecting"))?;
        // An error of the connection is also one of its request.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { address, requests })
    }

    /// Returns the body of the response.
    async fn ask(&mut self, path: &str, body: String) -> Result<String, BenchError> {
        let request = Request::post(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| BenchError::Http { what: "creating a request", message: error.to_string() })?;
        let response = self.requests.send_request(request).await.map_err(BenchError::http("asking"))?;
        let status = response.status();
        let body = read(response.into_body()).await?;
        if status.is_success() {
            return Ok(body);
        }
        Err(BenchError::Http {
            what: "asking",
            message: format!("expected status 200, found {status}: {body}"),
        })
    }
}

async fn read(mut body: Incoming) -> Result<String, BenchError> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame.map_err(BenchError::http("reading a response"))?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    String::from_utf8(bytes)
        .map_err(|error| BenchError::Http { what: "reading a response", message: error.to_string() })
}

/// A client that asks one question at a time, on one connection.
pub struct Client {
    runtime: Runtime,
    connection: Connection,
}

impl Client {
    /// Connects to a server.
    ///
    /// # Errors
    /// If the server does not accept the connection.
    pub fn connect(address: SocketAddr) -> Result<Self, BenchError> {
        let runtime = runtime()?;
        let connection = runtime.block_on(Connection::open(address))?;
        Ok(Self { runtime, connection })
    }

    /// Returns the body of the response.
    ///
    /// # Errors
    /// If the response has another status than 200.
    pub fn ask(&mut self, path: &str, body: &str) -> Result<String, BenchError> {
        self.runtime.block_on(self.connection.ask(path, body.to_owned()))
    }

    /// Returns the JSON of the response.
    ///
    /// # Errors
    /// As [`Self::ask`], and if the response is no JSON.
    pub fn ask_json(&mut self, path: &str, body: &str) -> Result<serde_json::Value, BenchError> {
        let text = self.ask(path, body)?;
        serde_json::from_str(&text).map_err(|error| BenchError::Http {
            what: "reading a response",
            message: format!("expected JSON, found {text}: {error}"),
        })
    }
}

/// Asks in a closed loop: each connection sends its next request once it has the response to the last one. One thread
/// drives all connections.
///
/// # Errors
/// If a response has another status than 200, or lacks an expected text.
pub fn closed_loop(
    address: SocketAddr,
    questions: &Questions,
    connections: usize,
    duration: Duration,
) -> Result<HttpFigures, BenchError> {
    runtime()?.block_on(async {
        let began = Instant::now();
        let measured = began + WARM_UP..began + WARM_UP + duration;
        let tasks: Vec<_> = (0..connections)
            .map(|number| {
                let (questions, measured) = (questions.clone(), measured.clone());
                tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    let mut connection = Connection::open(address).await?;
                    // Connections begin at different questions.
                    let first = number * questions.bodies.len() / connections;
                    for body in questions.bodies.iter().cycle().skip(first) {
                        let asked = Instant::now();
                        if asked >= measured.end {
                            break;
                        }
                        let answer = connection.ask(questions.path, body.clone()).await?;
                        if let Some(text) = questions.expected.iter().find(|text| !answer.contains(**text)) {
                            let message = format!("expected a response with {text}, found {answer}");
                            return Err(BenchError::Http { what: "asking", message });
                        }
                        if asked >= measured.start {
                            latencies.push(i64::try_from(asked.elapsed().as_nanos()).unwrap_or(i64::MAX));
                        }
                    }
                    Ok(latencies)
                })
            })
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            let of_connection = task
                .await
                .map_err(|error| BenchError::Http { what: "asking", message: error.to_string() })??;
            latencies.extend(of_connection);
        }
        let per_second = latencies.len() as f64 / duration.as_secs_f64();
        Ok(HttpFigures { per_second, latency: Percentiles::of_nanos(latencies) })
    })
}

fn runtime() -> Result<Runtime, BenchError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::io("starting a runtime"))
}
